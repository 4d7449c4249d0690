"""All settings of a run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from rdfer_jax.config.sections.base import field
from rdfer_jax.config.sections.data import Augment, Clips, Data
from rdfer_jax.config.sections.method import Agreement, Loss
from rdfer_jax.config.sections.network import KeyClips, Model, Pretrain
from rdfer_jax.config.sections.running import Optim, Predict, Train


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    seed: int = field(0, "random seed of the run", low=0, high=2**32 - 1)
    init_from: str = field(
        "",
        "weights to start from: a file, the folder of another run, or faces, which come with the package "
        "and need model.trunk resnet10_narrow; empty: random weights; see "
        "docs/how-to/pretrained-weights.md",
        path=True,
        auto=True,
    )
    profile: bool = field(
        False, "trace five training steps, written to workdir/profile", affects_training=False
    )
    compile_cache: str = field(
        "",
        "folder where compiled programs are cached between runs; use only a folder you trust",
        affects_training=False,
        path=True,
    )
    cpu_devices: int = field(
        0,
        "number of JAX devices to split a CPU into, at most one per core; 0: one device; no effect on "
        "GPU and TPU",
        low=0,
        affects_training=False,
    )
    data: Data = dataclasses.field(default_factory=Data)
    build: Mapping[str, Any] = field(
        config_dict.FrozenConfigDict(),
        "options of the data set's builder, see data/<name>/README.md",
        affects_training=False,
    )
    augment: Augment = dataclasses.field(default_factory=Augment)
    clips: Clips = dataclasses.field(default_factory=Clips)
    key: KeyClips = dataclasses.field(default_factory=KeyClips)
    model: Model = dataclasses.field(default_factory=Model)
    agreement: Agreement = dataclasses.field(default_factory=Agreement)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)
    pretrain: Pretrain = dataclasses.field(default_factory=Pretrain)
    predict: Predict = dataclasses.field(
        default_factory=Predict, metadata={"affects_training": False}
    )
    #: Settings whose value is "auto", such as data.frames. Their fields hold defaults until a run starts.
    auto: tuple[str, ...] = dataclasses.field(default=(), metadata={"affects_training": False})
