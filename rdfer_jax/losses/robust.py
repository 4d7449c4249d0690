"""Our method: reinforce the hard videos, mitigate the noisy ones."""

import dataclasses

import jax
import jax.numpy as jnp

from rdfer_jax import confident, config, priors
from rdfer_jax.agreement import Partition, Verdict
from rdfer_jax.losses import limit
from rdfer_jax.losses.criteria import hierarchical_loss, smooth_labels
from rdfer_jax.losses.evidence import Evidence, required
from rdfer_jax.memory import Memory, remembered
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
    noise score, once `active`. "posterior" blends the noisy ones until `posterior_targets` take over.
    """
    label_BN = smooth_labels(label_B, verdict.probs.shape[-1], settings.label_smoothing)
    if settings.refurbish == "all":
        share_B = jnp.where(active & allowed_B, verdict.noise_score**2, 0.0)
    else:
        share_B = partition.noisy.astype(jnp.float32)
    share_B1 = settings.noisy_target * share_B[:, None]
    targets_BN = (1 - share_B1) * label_BN + share_B1 * verdict.probs
    return jax.lax.stop_gradient(targets_BN)


def posterior_targets(
    label_B: jax.Array, memory: Memory, index_B: jax.Array, settings: config.Loss
) -> jax.Array:
    """Returns P(true class | remembered prediction m, label y), with label smoothing, float32 [B, N].

    By Bayes' rule, q_c = m_c^a T_cy / sum_j m_j^a T_jy, with a = settings.sharpness and T = P(given | true)
    by confident learning on the memory. The network is trained on the given labels, so its predictions are
    less sure of the true class than they are right; the power makes up for that.

    Args:
      label_B: int [B], the given labels.
      memory: of all training videos.
      index_B: int [B], the rows of these videos.
      settings: sharpness and label smoothing.
    """
    probs_MN = remembered(memory)
    noise_NN = confident.noise_matrix(memory.label, probs_MN)
    sharp_BN = jax.nn.softmax(settings.sharpness * jnp.log(jnp.maximum(probs_MN[index_B], 1e-30)))
    truth_BN = confident.posterior(sharp_BN, label_B, noise_NN)
    smoothing = settings.label_smoothing
    return truth_BN * (1 - smoothing) + smoothing / truth_BN.shape[-1]


def agreement(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Cross-entropy with `robust_targets` or `posterior_targets`, times `robust_weights`."""
    verdict = evidence.verdict
    if outputs.logit_shift is not None:  # a target must be a prediction of the adjusted logits
        probs_BN = priors.shifted(verdict.probs, outputs.logit_shift)
        verdict = dataclasses.replace(verdict, probs=probs_BN)
    acts = (evidence.progress >= 1) & limit.knows_enough(evidence.memory, settings)
    targets_BN = robust_targets(
        evidence.label,
        verdict,
        evidence.partition,
        settings,
        acts,
        limit.allowed(evidence.memory, evidence.index, settings),
    )
    if settings.refurbish == "posterior":
        memory = required(evidence.memory, settings, "config.agreement.memory_decay above 0")
        assert evidence.index is not None
        truth_BN = posterior_targets(evidence.label, memory, evidence.index, settings)
        if outputs.logit_shift is not None:
            truth_BN = priors.shifted(truth_BN, outputs.logit_shift)
        truth_BN = jax.lax.stop_gradient(truth_BN)
        targets_BN = jnp.where(acts, truth_BN, targets_BN)
    weights_B = robust_weights(evidence.label, evidence.verdict, evidence.partition, settings)
    return weights_B * hierarchical_loss(outputs, targets_BN, settings)
