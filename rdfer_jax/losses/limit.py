"""Limits on what the memory may overrule: how many labels, and whether any."""

import jax
import jax.numpy as jnp

from rdfer_jax import confident, config
from rdfer_jax.agreement import Partition, odds_against
from rdfer_jax.memory import Memory, remembered

_ESTIMATES = {
    "confident_learning": confident.wrong_share,
    "sure_half": confident.wrong_share_of_sure,
}


def allowed(
    memory: Memory | None, index_B: jax.Array | None, settings: config.Loss
) -> jax.Array | bool:
    """Returns which videos may be judged noisy, bool [B]; all of them without a limit.

    Those whose odds against the label are the highest of all visited training videos, at most as many as
    there are wrong labels by the estimate of settings.limit_share.

    Args:
      memory: of all training videos.
      index_B: int [B], the rows of these videos.
      settings: which estimate to use.

    Raises:
      ValueError: there is a limit, but no memory.
    """
    if settings.limit_share == "none":
        return True
    if memory is None or index_B is None:
        raise ValueError(
            f"config.loss.limit_share = {settings.limit_share!r} needs config.agreement.memory_decay "
            "above 0"
        )
    probs_MN, visited_M = remembered(memory), memory.label >= 0
    share = _ESTIMATES[settings.limit_share](memory.label, probs_MN)
    odds_M = odds_against(probs_MN, memory.label)
    least = jnp.nanquantile(jnp.where(visited_M, odds_M, jnp.nan), 1 - share)
    return odds_M[index_B] > least


def knows_enough(memory: Memory | None, settings: config.Loss) -> jax.Array | bool:
    """Returns whether the memory may overrule labels at all, bool; without a memory they may.

    A network that has learned little contradicts most labels, and its own predictions in their place would
    keep it from learning more. So the memory has to name another class than the label for at most
    settings.max_contradicted of the visited training videos.
    """
    if memory is None:
        return True
    visited_M = memory.visits > 0
    other_M = (jnp.argmax(memory.probs, axis=-1) != memory.label) & visited_M
    return jnp.sum(other_M) <= settings.max_contradicted * jnp.sum(visited_M)


def limited(partition: Partition, allowed_B: jax.Array | bool) -> Partition:
    """Returns the partition with those noisy videos that may not be noisy among the hard ones."""
    noisy_B = partition.noisy & allowed_B
    return Partition(
        clean=partition.clean, noisy=noisy_B, hard=partition.hard | (partition.noisy & ~noisy_B)
    )
