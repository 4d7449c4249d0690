"""Three losses for clean, hard and noisy videos by thresholds that each video sets itself.

Li et al. (2023), "DISC: learning from noisy labels via dynamic instance-specific selection and correction",
equations 3 to 8, with K clips in place of two augmentations. Without its mixup.
"""

import functools

import jax
import jax.numpy as jnp

from rdfer_jax import config
from rdfer_jax.losses.criteria import generalized_cross_entropy, supervised
from rdfer_jax.losses.evidence import Evidence, required
from rdfer_jax.types import Outputs

#: Largest probability that is asked of a correction.
MOST = 0.99


def corrected(evidence: Evidence, margin: float) -> jax.Array:
    """Returns which noisy videos get the consensus as their label, bool [B].

    Those with max_n p_n > min(0.99, tau + margin), where p is the mean distribution of the clips and tau
    the running threshold of the video.
    """
    assert evidence.memory is not None and evidence.index is not None
    least_B = jnp.minimum(MOST, evidence.memory.threshold[evidence.index] + margin)
    return evidence.partition.noisy & (jnp.max(evidence.verdict.probs, axis=-1) > least_B)


def self_calibrated(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Returns the loss of each video, float32 [B].

    clean: cross-entropy. hard: generalized cross-entropy. noisy: cross-entropy with the consensus if it is
    sure enough, see `corrected`, else settings.noisy_weight times generalized cross-entropy.
    """
    required(evidence.memory, settings, "config.agreement.memory_decay above 0")
    corrected_B = jax.lax.stop_gradient(corrected(evidence, settings.correct_margin))
    label_B = jnp.where(corrected_B, evidence.verdict.consensus, evidence.label)
    criterion = functools.partial(generalized_cross_entropy, q=settings.gce_q)
    doubtful_B = supervised(outputs, evidence.label, settings, criterion)
    left_B = evidence.partition.noisy & ~corrected_B
    doubtful_B *= jnp.where(left_B, settings.noisy_weight, 1.0)
    return jnp.where(
        evidence.partition.hard | left_B, doubtful_B, supervised(outputs, label_B, settings)
    )
