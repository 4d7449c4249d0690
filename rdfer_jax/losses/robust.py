"""Our method: reinforce the hard videos, mitigate the noisy ones."""

import dataclasses

import jax
import jax.numpy as jnp

from rdfer_jax import config, priors
from rdfer_jax.agreement import Partition, Verdict
from rdfer_jax.losses import limit
from rdfer_jax.losses.criteria import hierarchical_loss, smooth_labels
from rdfer_jax.losses.evidence import Evidence
from rdfer_jax.types import Outputs


def robust_weights(
    label_B: jax.Array, verdict: Verdict, partition: Partition, settings: config.Loss
) -> jax.Array:
    """Returns the weight of each video, float32 [B]: 1 if clean, 1 + gamma (1 - A) if hard, w if noisy.

    With settings.hard_scale = "rank", the rank of A stands in place of A. Without
    settings.hard_elsewhere, the weight of hard videos whose consensus is not their label is 1.
    """
    calm_B = verdict.agreement
    if settings.hard_scale == "rank":
        assert verdict.rank is not None
        calm_B = verdict.rank
    hard_B = 1 + settings.hard * (1 - calm_B)
    on_label_B = (verdict.consensus == label_B) | settings.hard_elsewhere
    weight_B = jnp.where(partition.hard & on_label_B, hard_B, 1.0)
    return jnp.where(partition.noisy, settings.noisy_weight, weight_B)


def robust_targets(
    label_B: jax.Array,
    verdict: Verdict,
    partition: Partition,
    settings: config.Loss,
    active: jax.Array | bool = True,
    allowed_B: jax.Array | bool = True,
) -> jax.Array:
    """Returns the targets of each video, float32 [B, N]: a blend of its smoothed label and p_mean.

    The blend is (1 - b) label + b p_mean. settings.refurbish chooses the videos: "noisy" blends the noisy
    ones with b = beta; "all" blends all of them that are allowed, see `limit`, with b = beta s^2, s the
    noise score, once `active`.
    """
    label_BN = smooth_labels(label_B, verdict.probs.shape[-1], settings.label_smoothing)
    if settings.refurbish == "all":
        share_B = jnp.where(active & allowed_B, verdict.noise_score**2, 0.0)
    else:
        share_B = partition.noisy.astype(jnp.float32)
    share_B1 = settings.noisy_target * share_B[:, None]
    targets_BN = (1 - share_B1) * label_BN + share_B1 * verdict.probs
    return jax.lax.stop_gradient(targets_BN)


def agreement(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Cross-entropy with `robust_targets`, times `robust_weights`."""
    verdict = evidence.verdict
    if outputs.logit_shift is not None:  # a target must be a prediction of the adjusted logits
        probs_BN = priors.shifted(verdict.probs, outputs.logit_shift)
        verdict = dataclasses.replace(verdict, probs=probs_BN)
    targets_BN = robust_targets(
        evidence.label,
        verdict,
        evidence.partition,
        settings,
        evidence.progress >= 1,
        limit.allowed(evidence.memory, evidence.index, settings),
    )
    weights_B = robust_weights(evidence.label, evidence.verdict, evidence.partition, settings)
    return weights_B * hierarchical_loss(outputs, targets_BN, settings)
