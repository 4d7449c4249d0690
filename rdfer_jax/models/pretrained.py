"""Weights from elsewhere -> our variables, and a report of what became of each array.

What enters is either a file with the arrays of a ResNet under torchvision's names (`load`), or the
variables of another run of this library (`adopt`). What leaves are the variables of the network with
those arrays in them, and a `Report`.

| file of torchvision's | trained on | config.model.trunk | config.augment.mean, .std |
|---|---|---|---|
| resnet18, resnet50 | ImageNet | the same name | the defaults |
| video.r3d_18, video.r2plus1d_18 | Kinetics-400 | the same name | see below |

The mean of Kinetics is (0.43216, 0.394666, 0.37645), its deviation (0.22803, 0.22145, 0.216989).
Weights expect frames that are normalised as in their training; nothing here changes those settings.

A trunk is loaded whole or not at all. A frame trunk's temporal shift has no weights of its own, so that
2-D weights fit it. Kernels are OIHW or OIDHW in torch and (D)HWIO here; the counters of batches that
torch keeps beside its running statistics are no weights.

Names of our variables are paths such as "params/trunk/layer1_0/conv1/kernel"; a module is such a path
without the collection and the last part: "trunk/layer1_0/conv1".
"""

import dataclasses
import pickle
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from rdfer_jax.models import Variables, trunks

#: torch.load(weights_only=True) could be made to run code before 2.6 (CVE-2025-32434), and to corrupt
#: memory before 2.10 (GHSA-63cw-57p8-fm3p).
_SAFE_TORCH = (2, 10)
_CONVERT = "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"

#: Keys under which checkpoints of torch keep the arrays, and what wrappers put in front of their names.
_NESTS = ("state_dict", "model_state_dict", "model")
_WRAPPERS = re.compile(r"^(?:(?:module|backbone|encoder)\.)+")

#: How the parts of a trunk begin, and the stem of the video networks in the words of their blocks.
_TRUNK = re.compile(r"(?:stem|conv1|bn1|layer\d+)\.")
_STEM = {"0": "conv1.0", "1": "conv1.1"}
_SPLIT_STEM = {"0": "conv1.0.0", "1": "conv1.0.1", "3": "conv1.0.3", "4": "conv1.1"}
#: torchvision's modules -> ours. In its video networks a block's conv1 is a sequence of a convolution
#: (which is itself one where it is split) and its normalisation.
_MODULES = (
    (r"^(layer\d+)\.(\d+)\.", r"\1_\2/"),
    (r"downsample\.0$", "downsample_conv"),
    (r"downsample\.1$", "downsample_bn"),
    (r"(conv\d)\.0\.0$", r"\1_space"),
    (r"(conv\d)\.0\.1$", r"\1_bn"),
    (r"(conv\d)\.0\.3$", r"\1_time"),
    (r"(conv\d)\.0$", r"\1"),
    (r"conv(\d)\.1$", r"bn\1"),
)
#: The one variable of a trunk whose shape depends on the size of the frames.
_EMBED = "params/trunk/embed/kernel"
_CLASSIFIER = re.compile(r"(?:^|\.)(?:fc|classifier|head)\.(?:weight|bias)$")


class _Found(NamedTuple):
    """An array for one of our variables, in our order of axes, and its name in the source."""

    name: str
    array: Any


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the arrays of a source, and of the variables of the network.

    Attributes:
      source: the file, or the run and its step.
      loaded: names of our variables that were filled.
      left: names of the source's arrays that were not used, and why.
      counters: how many of its arrays were only counters of batches (num_batches_tracked).
      fresh: names of our variables that keep their random start.
    """

    source: str
    loaded: tuple[str, ...]
    left: Mapping[str, str]
    counters: int
    fresh: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report in words: what was loaded, what was left, what starts at random."""
        parts = sorted({_module(name).partition("/")[0] for name in self.loaded})
        count = len(self.loaded) + len(self.left)
        lines = [
            f"loaded {len(self.loaded)} of {count} arrays of {self.source} into {', '.join(parts)}"
        ]
        if self.counters:
            lines[0] += f"; {self.counters} counters (num_batches_tracked) are no weights"
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"left {_few(names)}: {reason}" for reason, names in reasons.items()]
        if self.fresh:
            lines.append(f"start random: {_few(_parts(self.fresh, self.loaded))}")
        return lines


def load(path: epath.PathLike, variables: Variables) -> tuple[Variables, Report]:
    """Fills the trunk from a file.

    Args:
      path: see `read`.
      variables: of a network: arrays, or anything with shape and dtype, below "params/trunk" and
        "batch_stats/trunk". They are not changed.

    Returns:
      The variables with NumPy arrays in the place of the trunk's, and what became of each array.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file cannot be read, or does not hold the whole trunk; the message names the first
        array that does not fit, and the trunk that would.
    """
    arrays = read(path)
    weights = {k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    bare = {name: _WRAPPERS.sub("", name) for name in weights}
    stem = _SPLIT_STEM if any(name.startswith("stem.3.") for name in bare.values()) else _STEM
    found: dict[str, _Found] = {}
    left = {}
    for name, array in weights.items():
        if not _TRUNK.match(bare[name]):
            left[name] = _why_left(name, array)
            continue
        place = _place(bare[name], array.ndim, stem)
        if place in found:
            raise ValueError(f"{path}: both {found[place].name} and {name} would be {place}")
        found[place] = _Found(name, _our_axes(array))
    if not found:
        raise ValueError(
            f"{path}: none of its {len(arrays)} arrays ({_few(arrays, 3)}) is named like a part of a "
            "ResNet of torchvision's, such as conv1.weight, stem.0.weight or layer1.0.conv1.weight"
        )
    return _fill(variables, found, str(path), left, len(arrays) - len(weights))


def adopt(theirs: Variables, variables: Variables, source: str) -> tuple[Variables, Report]:
    """Fills a network from the variables of another run, module by module, where the shapes fit.

    Args:
      theirs: nested dicts of arrays, with "params" and "batch_stats".
      variables: as in `load`.
      source: what to call the other run.

    Returns:
      As `load`. A module is taken whole or left, such as a head for another number of classes.

    Raises:
      ValueError: the trunk is another one.
    """
    flat = traverse_util.flatten_dict(theirs, sep="/")
    return _fill(variables, {name: _Found(name, a) for name, a in flat.items()}, source, {}, 0)


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of a file, by name, without running anything that the file holds.

    Args:
      path: of a .safetensors file; or of a .pth or .pt file, for which torch must be installed. Dicts
        under "state_dict", "model_state_dict" and "model" are opened. On a disk of this machine.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is of another kind, damaged, holds more than arrays, or torch is missing or old.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"config.init_from = {str(path)!r}: no such file or folder")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)  # bfloat16 too, which importing jax makes known
        except SafetensorError as error:
            raise ValueError(f"{path}: no whole safetensors file: {error}") from None
    if path.suffix in (".pth", ".pt"):
        return _read_torch(path)
    raise ValueError(
        f"config.init_from = {str(path)!r}: needs a .safetensors, .pth or .pt file, or the folder of a run"
    )


def _read_torch(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"{path}: torch, which reads such files, is not installed. Install it, or convert the weights "
            f"where it is: {_CONVERT}"
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_TORCH:
        raise ValueError(
            f"{path}: torch {torch.__version__} may run code that such a file holds. Install torch 2.10 or "
            f"newer, or, if you trust the file, convert it: {_CONVERT}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        # Their messages advise to load without weights_only, which would run what the file holds.
        raise ValueError(
            f"{path}: damaged, or holds more than arrays, and was not read. If you trust it, save its "
            f"state_dict alone: {_CONVERT}"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not arrays by name")
    while nest := next((k for k in _NESTS if isinstance(content.get(k), Mapping)), None):
        content = content[nest]
    return {
        k: v.detach().float().numpy() for k, v in content.items() if isinstance(v, torch.Tensor)
    }


def _place(name: str, ndim: int, stem: Mapping[str, str]) -> str:
    """torchvision's name of an array of the trunk -> ours."""
    module, _, leaf = name.rpartition(".")
    if module.startswith("stem."):
        module = stem.get(module.removeprefix("stem."), module)
    for pattern, ours in _MODULES:
        module = re.sub(pattern, ours, module)
    collection = "batch_stats" if leaf.startswith("running_") else "params"
    leaf = leaf.removeprefix("running_")
    if leaf == "weight":
        leaf = "kernel" if ndim > 1 else "scale"
    return f"{collection}/trunk/{module}/{leaf}"


def _our_axes(array: np.ndarray) -> np.ndarray:
    """[cout, cin, (kt,) kh, kw] -> [(kt,) kh, kw, cin, cout]; vectors stay."""
    return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array


def _why_left(name: str, array: np.ndarray) -> str:
    if _CLASSIFIER.search(name) and array.ndim:
        return f"a classifier of {array.shape[0]} classes"
    return "no part of a trunk"


def _fill(
    variables: Variables,
    found: Mapping[str, _Found],
    source: str,
    left: Mapping[str, str],
    counters: int,
) -> tuple[Variables, Report]:
    """Puts the arrays of whole modules in their places."""
    ours = traverse_util.flatten_dict(variables, sep="/")
    _check_trunk(found, ours, source)
    reasons = {place: why for place in found if (why := _misfit(found, ours, place))}
    partly = {_module(place) for place in (*reasons, *(ours.keys() - found.keys()))}
    taken = [place for place in ours if place in found and _module(place) not in partly]
    filled = {place: np.ascontiguousarray(found[place].array, ours[place].dtype) for place in taken}
    unused = {
        found[place].name: reasons.get(place, "another part of its module does not fit")
        for place in found
        if place not in filled
    }
    fresh = tuple(place for place in ours if place not in filled)
    report = Report(source, tuple(taken), unused | dict(left), counters, fresh)
    return traverse_util.unflatten_dict(ours | filled, sep="/"), report


def _misfit(found: Mapping[str, _Found], ours: Mapping[str, Any], place: str) -> str | None:
    """Says why an array does not fit in its place, or None."""
    if place not in ours:
        return "the network has no such part"
    theirs, own = tuple(found[place].array.shape), tuple(ours[place].shape)
    return None if theirs == own else f"its shape is {theirs}, here {own}"


def _check_trunk(found: Mapping[str, _Found], ours: Mapping[str, Any], source: str) -> None:
    """Raises a ValueError with the first array that keeps the trunk from being filled."""
    theirs = {place: one for place, one in found.items() if _module(place).startswith("trunk/")}
    for place, one in theirs.items():
        if why := _misfit(found, ours, place):
            if one.name != place:
                why = f"it would be {place}, but {why}"
            hint = _hint(theirs)
            if place == _EMBED:
                hint = "It depends on config.augment.size"
            raise ValueError(f"{source} does not fit the trunk: {one.name}: {why}. {hint}")
    for place in ours:
        if _module(place).startswith("trunk/") and place not in theirs:
            raise ValueError(
                f"{source} does not fit the trunk: nothing in it would be {place}. {_hint(theirs)}"
            )


def _hint(theirs: Mapping[str, _Found]) -> str:
    """Says which trunk has just these variables, for frames of whatever size."""
    shapes = {place: tuple(one.array.shape) for place, one in theirs.items() if place != _EMBED}
    for name in trunks.NAMES:
        trunk = trunks.create(name, dtype=jnp.float32)
        frames = jax.ShapeDtypeStruct((1, 4, 48, 48, 3), jnp.float32)
        tree = jax.eval_shape(
            lambda x, trunk=trunk: trunk.init(jax.random.key(0), x, False), frames
        )
        nested = {collection: {"trunk": part} for collection, part in tree.items()}
        flat = traverse_util.flatten_dict(nested, sep="/")
        if {place: leaf.shape for place, leaf in flat.items() if place != _EMBED} == shapes:
            return f"It has the shapes of config.model.trunk = {name!r}"
    return f"It has the shapes of none of our trunks: {', '.join(trunks.NAMES)}"


def _module(place: str) -> str:
    """params/trunk/conv1/kernel -> trunk/conv1."""
    return "/".join(place.split("/")[1:-1])


def _parts(fresh: Iterable[str], loaded: Iterable[str]) -> list[str]:
    """The parts of the network that are fresh altogether, and the fresh modules of the others."""
    known = {_module(name).partition("/")[0] for name in loaded}
    modules = sorted({_module(name) for name in fresh})
    return list(dict.fromkeys(m if (top := m.partition("/")[0]) in known else top for m in modules))


def _few(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
