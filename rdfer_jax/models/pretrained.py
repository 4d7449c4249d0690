"""Initializes a network from pretrained weights, and reports which arrays were loaded.

The source is a file with the arrays of a ResNet under torchvision's names or of a vision transformer
under those of `vit_names` (`load`), or the variables of another run of this library (`adopt`). The result
is the variables of the network, filled with those arrays, and a `Report`.

| torchvision model | trained on | config.model.trunk | config.augment.mean, .std |
|---|---|---|---|
| resnet18, resnet50 | ImageNet | the same name | the defaults |
| video.r3d_18, video.r2plus1d_18 | Kinetics-400 | the same name | see below |

The mean of Kinetics is (0.43216, 0.394666, 0.37645), its standard deviation (0.22803, 0.22145, 0.216989).
Weights expect frames normalized as in their training. This module does not change those settings.

A trunk is loaded completely or not at all, except for the low-rank updates of a transformer, which are new,
and for its last normalization, which files of pretraining may lack. Learned positions are resized.
Temporal shift has no weights, so 2-D weights fit a frame trunk with it. Kernels are OIHW or OIDHW in torch
and (D)HWIO here. torch's batch counters (num_batches_tracked) are ignored.

Our variables have paths as names, such as "params/trunk/layer1_0/conv1/kernel". A module's name is the
path without the collection and the last part: "trunk/layer1_0/conv1".
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

from rdfer_jax.models import Variables, trunks, vit, vit_names

#: A file could make torch.load(weights_only=True) run code before torch 2.6 (CVE-2025-32434), and corrupt
#: memory before 2.10 (GHSA-63cw-57p8-fm3p).
_SAFE_TORCH = (2, 10)
_CONVERT = "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"

#: Keys under which torch checkpoints nest the arrays, and prefixes that wrappers add to their names.
_NESTS = ("state_dict", "model_state_dict", "model", "module")
_WRAPPERS = re.compile(r"^(?:(?:module|backbone|encoder)\.)+")

#: Prefixes of a trunk's arrays, and the stem of the video networks renamed like their blocks.
_TRUNK = re.compile(r"(?:stem|conv1|bn1|layer\d+)\.")
_STEM = {"0": "conv1.0", "1": "conv1.1"}
_SPLIT_STEM = {"0": "conv1.0.0", "1": "conv1.0.1", "3": "conv1.0.3", "4": "conv1.1"}
#: torchvision's modules -> ours. In its video networks, a block's conv1 is a sequence of a convolution
#: (itself a sequence if it is factorized) and its normalization.
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
#: The variables of trunks whose shape depends on the frame size.
_EMBED, _POSITIONS = "params/trunk/embed/kernel", "params/trunk/embedding/positions"
_MESSENGERS = "params/trunk/messengers"
#: What files of pretraining may lack, and low-rank updates.
_NORM, _LORA = "trunk/norm", re.compile(r"/lora_(?:down|up)/")
_CLASSIFIER = re.compile(r"(?:^|\.)(?:fc|classifier|head)(?:\.\w+)?\.(?:weight|bias)$")


class _Source(NamedTuple):
    """An array for one of our variables, with axes in our order, and its name in the source."""

    name: str
    array: Any


@dataclasses.dataclass(frozen=True)
class Report:
    """Which variables were loaded, and which were not.

    Attributes:
      source: the file, or the run and its step.
      loaded: names of our variables that were filled.
      unused: names of the source's arrays that were not used -> why.
      counters: number of ignored batch counters (num_batches_tracked).
      fresh: names of our variables that keep their random initialization.
      resized: how many positions the source has, and how many the network has; None if not resized.
    """

    source: str
    loaded: tuple[str, ...]
    unused: Mapping[str, str]
    counters: int
    fresh: tuple[str, ...]
    resized: tuple[int, int] | None = None

    def lines(self) -> list[str]:
        """Returns the report as lines of text."""
        parts = sorted({_module(name).partition("/")[0] for name in self.loaded})
        count = len(self.loaded) + len(self.unused)
        lines = [
            f"loaded {len(self.loaded)} of {count} arrays of {self.source} into {', '.join(parts)}"
        ]
        if self.counters:
            lines[0] += f"; ignored {self.counters} batch counters (num_batches_tracked)"
        if self.resized:
            lines.append("resized the positions of {} tokens to {} tokens".format(*self.resized))
        reasons: dict[str, list[str]] = {}
        for name, reason in self.unused.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"not used: {_few(names)}: {reason}" for reason, names in reasons.items()]
        if self.fresh:
            lines.append(f"randomly initialized: {_few(_parts(self.fresh, self.loaded))}")
        return lines


def load(path: epath.PathLike, variables: Variables) -> tuple[Variables, Report]:
    """Loads the weights of the trunk from a file.

    Args:
      path: see `read`.
      variables: of a network: arrays, or anything with shape and dtype, including "params/trunk" and
        "batch_stats/trunk". They are not modified.

    Returns:
      The variables, with the trunk's replaced by NumPy arrays, and the report.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file cannot be read, or does not contain the complete trunk. The message names the
        first array that does not fit, and the trunk that the file fits.
    """
    arrays = read(path)
    weights = {k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    convert = _vit_sources if vit_names.is_vit(weights) else _resnet_sources
    sources: dict[str, _Source] = {}
    unused = {}
    for name, found in convert(weights).items():
        if not found:
            unused[name] = _why_unused(name, weights[name])
        for place, array in found.items():
            if place in sources:
                raise ValueError(f"{path}: both {sources[place].name} and {name} would be {place}")
            sources[place] = _Source(name, array)
    if not sources:
        raise ValueError(
            f"{path}: none of its {len(arrays)} arrays ({_few(arrays, 3)}) has the name of a layer of a "
            "torchvision ResNet, such as conv1.weight, stem.0.weight or layer1.0.conv1.weight, or of a "
            "vision transformer, such as blocks.0.norm1.weight"
        )
    return _fill(variables, sources, str(path), unused, len(arrays) - len(weights))


def adopt(theirs: Variables, variables: Variables, source: str) -> tuple[Variables, Report]:
    """Initializes a network from the variables of another run, module by module if the shapes fit.

    Args:
      theirs: nested dicts of arrays, with "params" and "batch_stats".
      variables: as in `load`.
      source: name of the other run, for the report.

    Returns:
      As `load`. A module is used completely or not at all, such as a head for another number of classes.

    Raises:
      ValueError: the other run has a different trunk.
    """
    flat = traverse_util.flatten_dict(theirs, sep="/")
    return _fill(variables, {name: _Source(name, a) for name, a in flat.items()}, source, {}, 0)


def read(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of a file, by name, without executing code from the file.

    Args:
      path: local .safetensors file; or .pth or .pt file, which requires torch. Dicts nested under
        "state_dict", "model_state_dict" and "model" are unwrapped.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file type is unsupported, the file is damaged or contains more than arrays, or torch
        is missing or too old.
    """
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"config.init_from = {str(path)!r}: no such file or folder")
    if path.suffix == ".safetensors":
        try:
            return load_file(
                path
            )  # bfloat16 works too, because importing jax registers it with NumPy
        except SafetensorError as error:
            raise ValueError(f"{path}: not a complete safetensors file: {error}") from None
    if path.suffix in (".pth", ".pt"):
        return _read_torch(path)
    raise ValueError(
        f"config.init_from = {str(path)!r}: expected a .safetensors, .pth or .pt file, or a run's workdir"
    )


def _read_torch(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ValueError(
            f"{path}: reading this file requires torch, which is not installed. Install it, or convert the "
            f"weights on a machine that has it: {_CONVERT}"
        ) from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_TORCH:
        raise ValueError(
            f"{path}: torch {torch.__version__} could execute code from this file. Install torch 2.10 or "
            f"newer, or convert the file if you trust it: {_CONVERT}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        # torch's messages suggest loading without weights_only, which would execute code from the file.
        raise ValueError(
            f"{path}: not read, because it is damaged or contains more than arrays. If you trust it, save "
            f"only its state_dict: {_CONVERT}"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected a dict of arrays, got {type(content).__name__}")
    while nest := next((k for k in _NESTS if isinstance(content.get(k), Mapping)), None):
        content = content[nest]
    return {
        k: v.detach().float().numpy() for k, v in content.items() if isinstance(v, torch.Tensor)
    }


def _resnet_sources(weights: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns, for each array of torchvision, our variable with its values; none if not in a trunk."""
    bare = {name: _WRAPPERS.sub("", name) for name in weights}
    stem = _SPLIT_STEM if any(name.startswith("stem.3.") for name in bare.values()) else _STEM
    return {
        name: {_place(bare[name], array.ndim, stem): _our_axes(array)}
        if _TRUNK.match(bare[name])
        else {}
        for name, array in weights.items()
    }


def _vit_sources(weights: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns, for each array of a transformer, our variables with their values; none if not in a trunk."""
    return {
        name: {
            f"params/trunk/{place.name}": vit_names.converted(weights[name], place)
            for place in found
        }
        for name, found in vit_names.places(weights).items()
    }


def _place(name: str, ndim: int, stem: Mapping[str, str]) -> str:
    """Converts torchvision's name of an array of the trunk to ours."""
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
    """Transposes [cout, cin, (kt,) kh, kw] -> [(kt,) kh, kw, cin, cout]; vectors are unchanged."""
    return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array


def _why_unused(name: str, array: np.ndarray) -> str:
    if _CLASSIFIER.search(name) and array.ndim:
        return f"a classifier of {array.shape[0]} classes"
    return "not part of a trunk"


def _fill(
    variables: Variables,
    sources: Mapping[str, _Source],
    source: str,
    unused: Mapping[str, str],
    counters: int,
) -> tuple[Variables, Report]:
    """Replaces the variables of all modules for which the sources have every array."""
    ours = traverse_util.flatten_dict(variables, sep="/")
    sources, resized = _with_resized_positions(sources, ours)
    _check_trunk(sources, ours, source)
    reasons = {place: why for place in sources if (why := _misfit(sources, ours, place))}
    incomplete = {_module(place) for place in (*reasons, *(ours.keys() - sources.keys()))}
    loaded = [place for place in ours if place in sources and _module(place) not in incomplete]
    filled = {
        place: np.ascontiguousarray(sources[place].array, ours[place].dtype) for place in loaded
    }
    misfits = {
        sources[place].name: reasons.get(place, "another array of its module does not fit")
        for place in sources
        if place not in filled
    }
    fresh = tuple(place for place in ours if place not in filled)
    report = Report(source, tuple(loaded), misfits | dict(unused), counters, fresh, resized)
    return dict(variables) | traverse_util.unflatten_dict(ours | filled, sep="/"), report


def _with_resized_positions(
    sources: Mapping[str, _Source], ours: Mapping[str, Any]
) -> tuple[Mapping[str, _Source], tuple[int, int] | None]:
    """Returns the sources with as many positions as the network has, and both numbers if they differ."""
    if _POSITIONS not in sources or _POSITIONS not in ours:
        return sources, None
    one, length = sources[_POSITIONS], ours[_POSITIONS].shape[0]
    if one.array.shape[0] == length:
        return sources, None
    resized = _Source(one.name, vit_names.resized_positions(one.array, length))
    return {**sources, _POSITIONS: resized}, (one.array.shape[0], length)


def _misfit(sources: Mapping[str, _Source], ours: Mapping[str, Any], place: str) -> str | None:
    """Returns why an array does not fit, or None if it does."""
    if place not in ours:
        return "the network has no such variable"
    theirs, own = tuple(sources[place].array.shape), tuple(ours[place].shape)
    return None if theirs == own else f"expected shape {own}, got {theirs}"


def _check_trunk(sources: Mapping[str, _Source], ours: Mapping[str, Any], source: str) -> None:
    """Raises a ValueError that names the first array of the trunk that is missing or does not fit."""
    theirs = {place: one for place, one in sources.items() if _in_trunk(place)}
    for place, one in theirs.items():
        if why := _misfit(sources, ours, place):
            if one.name != place:
                why = f"it corresponds to {place}, but {why}"
            hint = _hint(theirs)
            if place == _EMBED:
                hint = "It depends on config.augment.size"
            if place == _MESSENGERS:
                hint = "It depends on config.augment.size and config.clips.frames"
            raise ValueError(f"{source} does not fit the trunk: {one.name}: {why}. {hint}")
    for place in ours:
        if _in_trunk(place) and place not in theirs and not _may_be_new(place, theirs):
            raise ValueError(f"{source} does not fit the trunk: it has no {place}. {_hint(theirs)}")


def _in_trunk(place: str) -> bool:
    return place.split("/")[1] == "trunk"


def _may_be_new(place: str, theirs: Mapping[str, _Source]) -> bool:
    """Whether a variable of the trunk may be random: a low-rank update, or a norm that the source lacks."""
    if _LORA.search(place):
        return True
    return _module(place) == _NORM and not any(_module(name) == _NORM for name in theirs)


def _hint(theirs: Mapping[str, _Source]) -> str:
    """Names the trunks with these variables, for any frame size; a transformer's blocks are alike."""
    later = re.compile(r"/block[1-9]\d*/")
    blocks = len({place.split("/")[2] for place in theirs if "/block" in place})
    given = {place: one.array for place, one in theirs.items() if not later.search(place)}
    fitting = []
    for name in trunks.NAMES:
        trunk = trunks.create(name, dtype=jnp.float32)
        is_vit = isinstance(trunk, vit.ViT)
        if blocks != (trunk.depth if is_vit else 0):
            continue
        trunk = trunk.clone(depth=1) if is_vit else trunk
        # A multiple of all patches and regions.
        frames = jax.ShapeDtypeStruct((1, 4, 1120, 1120, 3), jnp.float32)
        tree = jax.eval_shape(
            lambda x, trunk=trunk: trunk.init(jax.random.key(0), x, False), frames
        )
        nested = {collection: {"trunk": part} for collection, part in tree.items()}
        ours = traverse_util.flatten_dict(nested, sep="/")
        free = {
            _EMBED,
            _POSITIONS,
            _MESSENGERS,
            *(place for place in ours if _may_be_new(place, theirs)),
        }
        shapes = [
            {place: tuple(leaf.shape) for place, leaf in variables.items() if place not in free}
            for variables in (ours, given)
        ]
        if shapes[0] == shapes[1]:
            fitting.append(repr(name))
    if fitting:
        return f"It fits config.model.trunk = {' or '.join(fitting)}"
    return f"It fits none of our trunks: {', '.join(trunks.NAMES)}"


def _module(place: str) -> str:
    """Returns the module of a variable: params/trunk/conv1/kernel -> trunk/conv1."""
    return "/".join(place.split("/")[1:-1])


def _parts(fresh: Iterable[str], loaded: Iterable[str]) -> list[str]:
    """Returns the top-level modules without any loaded variable, and the fresh modules of the others."""
    partly = {_module(name).partition("/")[0] for name in loaded}
    modules = sorted({_module(name) for name in fresh})
    tops = (m if (top := m.partition("/")[0]) in partly else top for m in modules)
    return list(dict.fromkeys(tops))


def _few(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
