"""The memory: what the clips of each training video predicted over the epochs. Pure functions to be jitted.

M videos of the training split, N classes. Averages start from zero and are exponential, so that after v
visits their weights sum to 1 - decay^v; `remembered` and `remembered_agreement` divide by it, as Adam's
bias correction does.
"""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Memory:
    """What is remembered of each training video: M rows, or B rows of a batch.

    Attributes:
      probs: float32 [M, N], moving average of the clips' mean distribution; the row of a video sums to
        1 - decay^v after v visits, and to 0 before the first.
      label: int32 [M], the given label; -1 before the first visit.
      agreement: float32 [M], moving average of the agreement of the clips, with the weights of probs.
      threshold: float32 [M], running threshold of the video: a moving average of the highest probability
        of the clips' mean distribution that starts from 1 / N.
    """

    probs: jax.Array
    label: jax.Array
    agreement: jax.Array
    threshold: jax.Array

    @property
    def visited(self) -> jax.Array:
        """Which videos were visited, bool [M]."""
        return self.label >= 0


def create(num_train: int, num_classes: int) -> Memory:
    """Returns the memory before the first step."""
    return Memory(
        probs=jnp.zeros((num_train, num_classes), jnp.float32),
        label=jnp.full(num_train, -1, jnp.int32),
        agreement=jnp.zeros(num_train, jnp.float32),
        threshold=jnp.full(num_train, 1 / num_classes, jnp.float32),
    )


def rows(memory: Memory, index_B: jax.Array) -> Memory:
    """Returns the rows of these videos."""
    return jax.tree.map(lambda values_M: values_M[index_B], memory)


def remembered(memory: Memory) -> jax.Array:
    """Returns the probabilities of visited videos as distributions, float32 [M, N]: rows sum to 1."""
    return memory.probs / jnp.maximum(jnp.sum(memory.probs, axis=-1, keepdims=True), 1e-30)


def remembered_agreement(memory: Memory) -> jax.Array:
    """Returns the mean agreement of visited videos over the epochs, float32 [M] in [0, 1]."""
    mean_M = memory.agreement / jnp.maximum(jnp.sum(memory.probs, axis=-1), 1e-30)
    return jnp.clip(mean_M, 0, 1)


def update(
    memory: Memory,
    index_B: jax.Array,
    label_B: jax.Array,
    probs_BN: jax.Array,
    agreement_B: jax.Array,
    *,
    decay: float,
    threshold_decay: float,
) -> Memory:
    """Returns the memory after a visit of some videos.

    A row of an average becomes decay * old + (1 - decay) * new.

    Args:
      memory: of all training videos.
      index_B: int [B], the rows of these videos. A video that occurs twice, as it may at the end of an
        epoch, counts once, with the mean of its values.
      label_B: int [B], the given labels.
      probs_BN: float32 [B, N], mean distribution of the clips.
      agreement_B: float32 [B].
      decay: of probs and agreement.
      threshold_decay: of the running threshold, tau <- m tau + (1 - m) max_n p_n, after DISC (Li et al.
        2023, "DISC: learning from noisy labels via dynamic instance-specific selection and correction").
    """
    peak_B = jnp.max(probs_BN, axis=-1)
    values_BX = jnp.concatenate([probs_BN, agreement_B[:, None], peak_B[:, None]], axis=-1)
    total_MX = jnp.zeros((len(memory.label), values_BX.shape[-1])).at[index_B].add(values_BX)
    count_M1 = jnp.zeros((len(memory.label), 1)).at[index_B].add(1)
    mean_MX = total_MX / jnp.maximum(count_M1, 1)
    seen_M1 = count_M1 > 0

    def moved(old_MX: jax.Array, new_MX: jax.Array, keep: float) -> jax.Array:
        return jnp.where(seen_M1, keep * old_MX + (1 - keep) * new_MX, old_MX)

    return Memory(
        probs=moved(memory.probs, mean_MX[:, :-2], decay),
        label=memory.label.at[index_B].set(label_B.astype(jnp.int32)),
        agreement=moved(memory.agreement[:, None], mean_MX[:, -2:-1], decay)[:, 0],
        threshold=moved(memory.threshold[:, None], mean_MX[:, -1:], threshold_decay)[:, 0],
    )
