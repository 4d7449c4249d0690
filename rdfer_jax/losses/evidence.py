"""What a method knows about the videos of a batch, in addition to the network's outputs."""

from typing import TypeVar

import jax
from flax import struct

from rdfer_jax import config
from rdfer_jax.agreement import Partition, Verdict
from rdfer_jax.memory import Memory

T = TypeVar("T")


@struct.dataclass
class Evidence:
    """What a method may use in addition to the network's outputs.

    Attributes:
      label: int32 [B], the given labels.
      verdict: agreement, consensus and noise score of each video.
      partition: which videos are clean, noisy and hard.
      progress: float32 in [0, 1], 1 from config.loss.robust_from on.
      memory: of all training videos, after the visit of this batch; None without a memory.
      index: int32 [B], the rows of this batch in the memory.
      prior: float32 [N], the share of each class among the training labels; None if no setting needs it.
      flipped: bool [B], which labels are known to be wrong; None if unknown. For the oracle only.
      votes: float32 [B, N], annotators' votes, all zero where there are none; None if unknown. For the
        method `votes` only.
    """

    label: jax.Array
    verdict: Verdict
    partition: Partition
    progress: jax.Array
    memory: Memory | None = None
    index: jax.Array | None = None
    prior: jax.Array | None = None
    flipped: jax.Array | None = None
    votes: jax.Array | None = None


def required(value: T | None, settings: config.Loss, what: str) -> T:
    """Returns the value; raises a ValueError that says what the method needs if it is None."""
    if value is None:
        raise ValueError(f"config.loss.method = {settings.method!r} needs {what}")
    return value
