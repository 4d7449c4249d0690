"""Chooses the settings that are "auto": from the number of clips, the devices and their memory.

Enters: settings, the splits of the data set, the devices. Leaves: settings without "auto", and the
reasons. A run keeps what was chosen when it began: it is stored in its config.json, which every later
command reads. docs/how-to/train.md has the rules as a table.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from rdfer_jax import config as config_lib
from rdfer_jax import weights
from rdfer_jax.config import Config
from rdfer_jax.training import memory_limit, run_dir

log = logging.getLogger(__name__)

#: The network for a CPU, and for few clips; the trunks that are small.
SMALL = "resnet8_narrow"
NARROW = (SMALL, "resnet10_narrow")
#: Below this number of training clips, a small network is used on every device, and training starts from
#: these weights.
FEW_CLIPS, PACKAGED = 1000, "faces"
#: The small and the full size: of the network, and of what it reads.
_NETWORK = {
    True: {"model.width": 128, "model.instants": 8, "model.long_layers": 1, "key.number": 2},
    False: {"model.width": 256, "model.instants": 16, "model.long_layers": 2, "key.number": 4},
}
_INPUT = {
    True: {"data.frames": 16, "data.image_size": 64, "clips.frames": 8},
    False: {"data.frames": 64, "data.image_size": 128, "clips.frames": 16},
}
#: Most videos of a batch, on a CPU and on another device.
_BATCH = {True: 32, False: 128}
#: Fewest steps of an epoch, if that leaves eight videos in a batch.
_STEPS, _LEAST_BATCH = 4, 8
#: Videos that a short run reads, and its most epochs: from random weights, and from others.
_VISITS, _MOST_EPOCHS = {False: 20_000, True: 4_000}, {False: 200, True: 60}
#: Fewest epochs of a short run; epochs of a full run.
_LEAST_EPOCHS, _FULL_EPOCHS = 5, 100
#: Fewest clips of a validation part from which choosing the best checkpoint means something.
LEAST_VALIDATION = 20
#: Part of the memory that the estimate by _BYTES_PER_FRAME may fill.
_SAFE = 0.7
#: Bytes per frame of 112 pixels in float32 that training a trunk needs, from the compiled step; others as
#: resnet50.
_BYTES_PER_FRAME = {SMALL: 1.2e6, "resnet10_narrow": 7.8e6, "resnet18": 9.4e6, "resnet50": 3e7}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the settings are chosen by.

    Attributes:
      train: clips to train on.
      people: number of groups of clips that belong together; None if there are none.
      platform: cpu, gpu or tpu.
      devices: number of devices.
      memory: free bytes of a device; None if it is not known.
    """

    train: int
    people: int | None
    platform: str
    devices: int
    memory: int | None


def choose_splits(config: Config, names: Sequence[str]) -> Config:
    """Chooses which of the stored splits are tested and validated on, before they are opened."""
    tested = "test" if "test" in names or "validation" not in names else "validation"
    validated = "validation" if "validation" in names and tested == "test" else ""
    chosen: dict[str, Any] = {}
    if "data.test_split" in config.auto:
        chosen["data.test_split"] = tested
        if tested != "test":
            log.info("config.data.test_split = %s: the data set has no split 'test'", tested)
    if "data.validation_split" in config.auto:
        chosen["data.validation_split"] = validated
        if validated:
            log.info("config.data.validation_split = %s: a split of the data set", validated)
    config = replaced(config, chosen)
    if "data.validation_percent" in config.auto and config.data.validation_split:
        config = replaced(config, {"data.validation_percent": 0.0})
    return config


class _Choice:
    """Collects the chosen settings, with a line for each reason."""

    def __init__(self, config: Config):
        self._config = config
        self.values: dict[str, Any] = {}
        self.lines: list[str] = []

    def take(self, reason: str, values: Mapping[str, Any]) -> None:
        """Takes the values of those settings that are "auto" and not chosen yet."""
        open_ = set(self._config.auto) - set(self.values)
        new = {name: value for name, value in values.items() if name in open_}
        if new:
            self.values |= new
            shown = ", ".join(f"config.{name} = {value}" for name, value in new.items())
            self.lines.append(f"  {shown}: {reason}")

    def __getitem__(self, name: str) -> Any:
        """Returns the value of a setting, chosen or set by hand."""
        if name in self.values:
            return self.values[name]
        value = self._config
        for part in name.split("."):
            value = getattr(value, part)
        return value


def choose(config: Config, facts: Facts) -> Config:
    """Chooses all settings that are still "auto", logs them with the reasons, and returns the settings.

    Raises:
      ValueError: what was set by hand does not fit what was chosen.
    """
    if not config.auto:
        return config
    choice = _Choice(config)
    on_cpu = facts.platform == "cpu"
    is_short = on_cpu or facts.train < FEW_CLIPS
    why = "a CPU trains it in minutes" if on_cpu else f"fewer than {FEW_CLIPS:,} clips to train on"
    choice.take(*_init_from(config, facts))
    if choice["init_from"]:
        values = _of_weights(choice["init_from"])
        if "augment.size" not in config.auto:
            del values["data.image_size"]
        choice.take(f"as config.init_from = {choice['init_from']}", values)
    elif is_short:
        choice.take(why, {"model.trunk": SMALL})
    else:
        choice.take(f"{FEW_CLIPS:,} clips or more, and no CPU", {"model.trunk": "resnet18"})
    choice.take("no weights of gray pictures", {"augment.gray": False})
    has_small = choice["model.trunk"] in NARROW
    choice.take(f"for the trunk {choice['model.trunk']}", _NETWORK[has_small])
    _choose_input(choice, config, on_cpu or has_small)
    batch, why = _batch(choice, facts, on_cpu)
    choice.take(why, {"data.batch_size": batch})
    choice.take("as in training", {"data.eval_batch_size": choice["data.batch_size"]})
    epochs, why = _FULL_EPOCHS, "a full run"
    if is_short:
        begun = bool(choice["init_from"])
        epochs = min(_MOST_EPOCHS[begun], max(_LEAST_EPOCHS, round(_VISITS[begun] / facts.train)))
        why = f"a short run, of {epochs * facts.train:,} videos in all"
    choice.take(why, {"train.duration": f"{epochs} epochs"})
    often = "1 epochs" if _epochs(choice["train.duration"]) <= 20 else "5 %"
    choice.take("at most twenty times", {"train.eval_every": often, "train.save_every": often})
    percent, why = _validation(facts)
    choice.take(why, {"data.validation_percent": percent})
    settled = replaced(config, choice.values)
    log.info(
        "settings for %s clips to train on, %d %s%s; each can be set by hand:\n%s",
        f"{facts.train:,}", facts.devices, facts.platform.upper(),
        "" if facts.memory is None else f" with {facts.memory / 1e9:.3g} GB of free memory",
        "\n".join(choice.lines),
    )  # fmt: skip
    return settled


def _init_from(config: Config, facts: Facts) -> tuple[str, dict[str, Any]]:
    """Returns the weights to start from, with the reason first."""
    if "model.trunk" not in config.auto or config.model.name != config_lib.Model().name:
        return "the network was set by hand", {"init_from": ""}
    if facts.train >= FEW_CLIPS:
        return f"{FEW_CLIPS:,} clips or more", {"init_from": ""}
    return f"fewer than {FEW_CLIPS:,} clips to train on", {"init_from": PACKAGED}


def _choose_input(choice: _Choice, config: Config, is_small: bool) -> None:
    """Chooses frames and pixels; what is set by hand decides on the rest."""
    inputs = _INPUT[is_small]
    why = "few and small pictures, for speed" if is_small else "full size"
    frames, size = inputs["data.frames"], inputs["data.image_size"]
    if "augment.size" not in config.auto:
        size = round(config.augment.size * 8 / 7)
    choice.take(why, {"data.frames": frames, "data.image_size": size})
    choice.take(
        "7/8 of config.data.image_size",
        {"augment.size": max(8, choice["data.image_size"] * 7 // 8 // 4 * 4)},
    )
    most = min(inputs["clips.frames"], choice["data.frames"])
    choice.take("part of the frames of a video", {"clips.frames": most})


def _batch(choice: _Choice, facts: Facts, on_cpu: bool) -> tuple[int, str]:
    """Returns the batch size and its reason."""
    batch, why = _BATCH[on_cpu], "more is not faster" if on_cpu else "full size"
    few = max(_LEAST_BATCH, 2 ** int(np.log2(max(1, facts.train / _STEPS))))
    if few < batch:
        batch, why = few, f"about {_STEPS} steps in an epoch, of {_LEAST_BATCH} videos or more"
    trunk = choice["model.trunk"]
    per_frame = _BYTES_PER_FRAME.get(trunk, _BYTES_PER_FRAME["resnet50"]) * (1.0 if on_cpu else 0.5)
    per_video = per_frame * (choice["augment.size"] / 112) ** 2 * choice["data.frames"]
    if facts.memory is not None:
        while batch > 1 and batch / facts.devices * per_video > _SAFE * facts.memory:
            batch, why = batch // 2, f"what fits into {facts.memory / 1e9:.3g} GB"
    return -(-batch // facts.devices) * facts.devices, why


def _validation(facts: Facts) -> tuple[float, str]:
    """Returns the percentage that is held out to choose the best checkpoint, and its reason."""
    if facts.people == 1:
        return 0.0, "all clips are of one person"
    if facts.train < 10 * LEAST_VALIDATION:
        return 0.0, f"the best checkpoint on fewer than {LEAST_VALIDATION} clips means little"
    return 10.0, f"{round(facts.train / 10):,} clips choose the best checkpoint"


def _of_weights(init_from: str) -> dict[str, Any]:
    """Returns the settings of the network that init_from names."""
    if init_from in weights.NAMES:
        tree = config_lib.to_dict(weights.load(init_from).config)
    elif (path := epath.Path(init_from) / "config.json").exists():
        tree = run_dir.read_json(path, "Set config.init_from to another run or file")
    else:
        tree = config_lib.to_dict(Config())  # most files have weights of a resnet18
    # Not its number of frames: it may have been trained on still pictures.
    values = {
        "model": ("trunk", "width", "long_layers"),
        "data": ("image_size",),
        "augment": ("size", "gray"),
    }
    return {
        f"{section}.{key}": tree[section][key] for section, keys in values.items() for key in keys
    }


def _epochs(duration: str) -> float:
    number, _, unit = duration.partition(" ")
    return float(number) if unit.startswith("epoch") else float("inf")


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns settings with other values, which are no longer "auto".

    Raises:
      ValueError: settings contradict each other, once none is "auto".
    """
    tree = config_lib.to_dict(config)
    for path, value in values.items():
        config_lib.set_value(tree, path, value)
    return config_lib.resolve(tree)


def of_run(config: Config, workdir: epath.PathLike) -> Config:
    """Returns settings in which "auto" is what the run in the folder began with, if there is one."""
    path = epath.Path(workdir) / "config.json"
    if not config.auto or not path.exists():
        return config
    return _filled(config, run_dir.read_json(path, run_dir.RESTORE))


def of_other(config: Config, other: Config) -> Config:
    """Returns settings in which "auto" is what other settings have."""
    return _filled(config, config_lib.to_dict(other))


def _filled(config: Config, tree: Mapping[str, Any]) -> Config:
    chosen = {}
    for path in config.auto:
        found: Any = tree
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        if found is not None:
            chosen[path] = found
    return replaced(config, chosen)


def facts_of(train: Any, mesh: Mesh) -> Facts:
    """Returns the facts about a training split and the devices."""
    groups = train.groups
    return Facts(
        train=len(train),
        people=None if groups is None else len(np.unique(groups)),
        platform=mesh.devices.flat[0].platform,
        devices=mesh.size,
        # All processes have to choose the same.
        memory=memory_limit.available(mesh) if jax.process_count() == 1 else None,
    )
