"""The settings of a run.

The settings are frozen dataclasses (sections/). `default()` returns them as the ConfigDict that the
files in configs/ start from and that `--config.x.y=value` overrides. `resolve()` validates a
ConfigDict and converts it back to the dataclasses that the rest of the code reads.
"""

from rdfer_jax.config.parsing import fold_splits, parse_fold, steps
from rdfer_jax.config.sections.base import Section
from rdfer_jax.config.sections.data import Augment, Clips, Data
from rdfer_jax.config.sections.method import Agreement, Loss
from rdfer_jax.config.sections.network import (
    CLIP_TRUNKS,
    FIXED_CLIPS,
    VITS,
    KeyClips,
    Model,
    Pretrain,
)
from rdfer_jax.config.sections.running import Optim, Predict, Train
from rdfer_jax.config.sections.whole import Config
from rdfer_jax.config.validate import (
    SECTIONS,
    affects_training,
    choices,
    default,
    resolve,
    set_value,
    to_dict,
    uses_class_prior,
)

__all__ = [
    "CLIP_TRUNKS",
    "FIXED_CLIPS",
    "SECTIONS",
    "VITS",
    "Agreement",
    "Augment",
    "Clips",
    "Config",
    "Data",
    "KeyClips",
    "Loss",
    "Model",
    "Optim",
    "Predict",
    "Pretrain",
    "Section",
    "Train",
    "affects_training",
    "choices",
    "default",
    "fold_splits",
    "parse_fold",
    "resolve",
    "set_value",
    "steps",
    "to_dict",
    "uses_class_prior",
]
