"""Losses of single videos. Pure functions of arrays, no reduction over the batch.

The robust loss is our reading of "reinforce the hard, mitigate the noisy", see docs/method.md:

    weight  clean 1,  hard 1 + gamma (1 - A),  noisy w
    target  clean and hard: the label;  noisy: (1 - beta) label + beta p_mean
    loss    weight * (CE(video) + l_clips mean_k CE(clip k) + l_long CE(long) + l_instants CE(key instants))
"""

import jax
import jax.numpy as jnp

from rdfer_jax import config
from rdfer_jax.agreement import Mask, Verdict
from rdfer_jax.types import Outputs


def smooth_labels(label_B: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """One-hot targets with `smoothing` of their mass spread evenly over all classes, float32 [B, N].

    Szegedy et al. (2016), "Rethinking the Inception architecture", section 7.
    """
    return jax.nn.one_hot(label_B, num_classes) * (1 - smoothing) + smoothing / num_classes


def cross_entropy(logits_N: jax.Array, targets_N: jax.Array) -> jax.Array:
    """-sum_n t_n log p_n, [..., N] -> float32 [...]."""
    return -jnp.sum(targets_N * jax.nn.log_softmax(logits_N.astype(jnp.float32)), axis=-1)


def robust_weights(verdict: Verdict, mask: Mask, settings: config.Loss) -> jax.Array:
    """Weight of each video, float32 [B]: 1 if clean, 1 + gamma (1 - A) if hard, w if noisy."""
    hard_B = 1 + settings.hard * (1 - verdict.agreement)
    weight_B = jnp.where(mask.hard, hard_B, 1.0)
    return jnp.where(mask.noisy, settings.noisy_weight, weight_B)


def robust_targets(
    label_B: jax.Array, verdict: Verdict, mask: Mask, settings: config.Loss
) -> jax.Array:
    """Targets of each video, float32 [B, N]: its smoothed label, or a blend with p_mean if noisy."""
    label_BN = smooth_labels(label_B, verdict.probs.shape[-1], settings.label_smoothing)
    beta = settings.noisy_target
    blend_BN = (1 - beta) * label_BN + beta * jax.lax.stop_gradient(verdict.probs)
    return jnp.where(mask.noisy[:, None], blend_BN, label_BN)


def hierarchical_loss(outputs: Outputs, targets_BN: jax.Array, settings: config.Loss) -> jax.Array:
    """Loss of the video, its clips, the long-term stream and the key instants, float32 [B]."""
    video_B = cross_entropy(outputs.video_logits, targets_BN)
    clips_B = jnp.mean(cross_entropy(outputs.clip_logits, targets_BN[:, None]), axis=1)
    long_B = cross_entropy(outputs.long_logits, targets_BN)
    loss_B = video_B + settings.clips * clips_B + settings.long * long_B
    if settings.instants:
        instants_BI = cross_entropy(outputs.instant_logits, targets_BN[:, None])
        is_key_BI = jnp.any(outputs.instants[:, :, None] == outputs.key_instants[:, None], axis=-1)
        total_B = jnp.sum(instants_BI * is_key_BI, axis=1)
        loss_B += settings.instants * total_B / jnp.maximum(jnp.sum(is_key_BI, axis=1), 1)
    return loss_B


def robust_loss(
    outputs: Outputs, label_B: jax.Array, verdict: Verdict, mask: Mask, settings: config.Loss
) -> jax.Array:
    """The robust loss of each video, float32 [B]; see the formula at the top of this module."""
    targets_BN = robust_targets(label_B, verdict, mask, settings)
    weights_B = robust_weights(verdict, mask, settings)
    return weights_B * hierarchical_loss(outputs, targets_BN, settings)
