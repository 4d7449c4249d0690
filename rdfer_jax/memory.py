"""The memory: what the clips of each training video predicted over the epochs. Pure functions to be jitted.

M videos of the training split, N classes. The averages of probabilities and agreement start from zero and
are exponential, so that after v visits their weights sum to 1 - decay^v; `remembered` and
`remembered_agreement` divide by it, as Adam's bias correction does.
"""

import dataclasses

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
      agreement: float32 [M], moving average of the agreement of the clips, with a decay of its own.
      threshold: float32 [M], running threshold of the video: a moving average of the highest probability
        of the clips' mean distribution that starts from 1 / N.
      visits: int32 [M], v, how often the video was read.
      features: float32 [M, D], types.Outputs.features at the last visit, scaled to length 1; zero before
        the first visit. None if no method needs them.
    """

    probs: jax.Array
    label: jax.Array
    agreement: jax.Array
    threshold: jax.Array
    visits: jax.Array
    features: jax.Array | None = None


def create(num_train: int, num_classes: int, num_features: int = 0) -> Memory:
    """Returns the memory before the first step; without features if there are none."""
    return Memory(
        probs=jnp.zeros((num_train, num_classes), jnp.float32),
        label=jnp.full(num_train, -1, jnp.int32),
        agreement=jnp.zeros(num_train, jnp.float32),
        threshold=jnp.full(num_train, 1 / num_classes, jnp.float32),
        visits=jnp.zeros(num_train, jnp.int32),
        features=jnp.zeros((num_train, num_features), jnp.float32) if num_features else None,
    )


def rows(memory: Memory, index_B: jax.Array) -> Memory:
    """Returns the rows of these videos."""
    return jax.tree.map(lambda values_M: values_M[index_B], memory)


def remembered(memory: Memory) -> jax.Array:
    """Returns the probabilities of visited videos as distributions, float32 [M, N]: rows sum to 1."""
    return memory.probs / jnp.maximum(jnp.sum(memory.probs, axis=-1, keepdims=True), 1e-30)


def remembered_agreement(memory: Memory, decay: float) -> jax.Array:
    """Returns the mean agreement of visited videos over the epochs, float32 [M] in [0, 1].

    Args:
      memory: M rows.
      decay: of the agreement, as in `update`; with 0, the agreement is that of the last visit.
    """
    weight_M = 1 - decay ** jnp.maximum(memory.visits, 1).astype(jnp.float32)
    return jnp.clip(memory.agreement / weight_M, 0, 1)


def update(
    memory: Memory,
    index_B: jax.Array,
    label_B: jax.Array,
    probs_BN: jax.Array,
    agreement_B: jax.Array,
    *,
    decay: float,
    agreement_decay: float,
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
      decay: of probs.
      agreement_decay: of agreement.
      threshold_decay: of the running threshold, tau <- m tau + (1 - m) max_n p_n, after DISC (Li et al.
        2023, "DISC: learning from noisy labels via dynamic instance-specific selection and correction").
    """
    peak_B = jnp.max(probs_BN, axis=-1)
    # The label, too, is added and divided: setting it would gather the batch from all devices.
    columns = (agreement_B, peak_B, label_B.astype(jnp.float32))
    values_BX = jnp.concatenate([probs_BN, jnp.stack(columns, axis=-1)], axis=-1)
    mean_MX, seen_M = _means(values_BX, index_B, len(memory.label))
    probs_MN, (agreement_M, peak_M, label_M) = mean_MX[:, :-3], mean_MX[:, -3:].T

    def moved(old_M: jax.Array, new_M: jax.Array, keep: float) -> jax.Array:
        seen = seen_M.reshape(-1, *[1] * (old_M.ndim - 1))
        return jnp.where(seen, keep * old_M + (1 - keep) * new_M, old_M)

    return dataclasses.replace(
        memory,
        probs=moved(memory.probs, probs_MN, decay),
        label=jnp.where(seen_M, jnp.round(label_M).astype(jnp.int32), memory.label),
        agreement=moved(memory.agreement, agreement_M, agreement_decay),
        threshold=moved(memory.threshold, peak_M, threshold_decay),
        visits=memory.visits + seen_M,
    )


def update_features(memory: Memory, index_B: jax.Array, features_BD: jax.Array) -> Memory:
    """Returns the memory with the features of some videos replaced by these, scaled to length 1.

    A video that occurs twice gets the direction of the mean.
    """
    if memory.features is None:
        return memory
    unit_BD = _unit(jax.lax.stop_gradient(features_BD))
    mean_MD, seen_M = _means(unit_BD, index_B, len(memory.label))
    features_MD = jnp.where(seen_M[:, None], _unit(mean_MD), memory.features)
    return dataclasses.replace(memory, features=features_MD)


def update_clips(
    remembered_MKN: jax.Array, index_B: jax.Array, probs_BKN: jax.Array, decay: float
) -> jax.Array:
    """Returns the memory of each clip by itself after a visit of some videos, averaged as in `update`.

    Args:
      remembered_MKN: float32 [M, K, N], from zero; the sum of a row is 1 - decay^v after v visits.
      index_B: int [B], the rows of these videos.
      probs_BKN: float32 [B, K, N], the distributions of the clips.
      decay: of the moving average.
    """
    videos = len(remembered_MKN)
    mean_MX, seen_M = _means(probs_BKN.reshape(len(index_B), -1), index_B, videos)
    moved_MKN = decay * remembered_MKN + (1 - decay) * mean_MX.reshape(remembered_MKN.shape)
    return jnp.where(seen_M[:, None, None], moved_MKN, remembered_MKN)


def _means(values_BX: jax.Array, index_B: jax.Array, videos: int) -> tuple[jax.Array, jax.Array]:
    """Returns the mean of the values with each index, [M, X], and whether there are any, bool [M]."""
    total_MX = jnp.zeros((videos, values_BX.shape[-1])).at[index_B].add(values_BX)
    count_M = jnp.zeros(videos).at[index_B].add(1)
    return total_MX / jnp.maximum(count_M, 1)[:, None], count_M > 0


def _unit(features_D: jax.Array) -> jax.Array:
    """Returns vectors of length 1; those of length 0 stay as they are."""
    return features_D / jnp.maximum(jnp.linalg.norm(features_D, axis=-1, keepdims=True), 1e-12)
