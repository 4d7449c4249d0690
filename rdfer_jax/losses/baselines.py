"""Plain training, the noise-robust losses from the literature, and the oracle."""

import functools

import jax
import jax.numpy as jnp

from rdfer_jax import config
from rdfer_jax.agreement import at_label
from rdfer_jax.losses import criteria
from rdfer_jax.losses.criteria import log_probs, mean_over, supervised
from rdfer_jax.losses.evidence import Evidence, required
from rdfer_jax.types import Outputs


def early_learning_penalty(logits_BN: jax.Array, past_BN: jax.Array) -> jax.Array:
    """Returns log(1 - <p, past>), float32 [B]: low while the prediction stays close to the past ones.

    Liu et al. (2020), "Early-learning regularization prevents memorization of noisy labels", equation
    6. Predictions are clipped to [1e-4, 1 - 1e-4], as in their code.
    """
    probs_BN = jnp.clip(jax.nn.softmax(logits_BN.astype(jnp.float32)), 1e-4, 1 - 1e-4)
    return jnp.log(1 - jnp.sum(probs_BN * jax.lax.stop_gradient(past_BN), axis=-1))


def small_loss_choice(loss_B: jax.Array, keep: jax.Array) -> jax.Array:
    """Returns the floor(keep B) videos of the batch with the smallest loss, bool [B].

    Han et al. (2018), "Co-teaching", algorithm 1, line 4.
    """
    rank_B = jnp.argsort(jnp.argsort(loss_B))
    return rank_B < jnp.floor(keep * len(loss_B) + 1e-4)


def relabel(logits_BN: jax.Array, label_B: jax.Array, margin: float) -> jax.Array:
    """Returns the predicted class where its probability exceeds the label's by more than margin, int [B].

    Elsewhere, the label.

    Wang et al. (2020), "Suppressing uncertainties for large-scale facial expression recognition"
    (SCN), equation 5.
    """
    probs_BN = jax.nn.softmax(logits_BN.astype(jnp.float32))
    ahead_B = jnp.max(probs_BN, axis=-1) - at_label(probs_BN, label_B) > margin
    return jnp.where(ahead_B, jnp.argmax(probs_BN, axis=-1), label_B)


def cross_entropy(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Plain training: cross-entropy with the given labels."""
    return supervised(outputs, evidence.label, settings)


def focal(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Focal loss, see criteria.focal."""

    criterion = functools.partial(criteria.focal, gamma=settings.focal_gamma)
    return supervised(outputs, evidence.label, settings, criterion)


def gce(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Generalized cross-entropy, see criteria.generalized_cross_entropy."""

    criterion = functools.partial(criteria.generalized_cross_entropy, q=settings.gce_q)
    return supervised(outputs, evidence.label, settings, criterion)


def sce(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Symmetric cross-entropy, see criteria.symmetric_cross_entropy."""

    criterion = functools.partial(
        criteria.symmetric_cross_entropy, alpha=settings.sce_alpha, beta=settings.sce_beta
    )
    return supervised(outputs, evidence.label, settings, criterion)


def elr(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Early-learning regularization: cross-entropy with `early_learning_penalty`."""
    memory = required(evidence.memory, settings, "config.agreement.memory_decay above 0")
    assert evidence.index is not None
    # Not divided by their sum: in the first epochs the penalty is weaker.
    past_BN = memory.probs[evidence.index]
    penalty_B = early_learning_penalty(outputs.video_logits, past_BN)
    return supervised(outputs, evidence.label, settings) + settings.elr_weight * penalty_B


def small_loss(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Cross-entropy of the videos of the batch with the smallest loss."""
    loss_B = supervised(outputs, evidence.label, settings)
    keep = 1 - settings.forget_rate * evidence.progress
    return mean_over(loss_B, small_loss_choice(jax.lax.stop_gradient(loss_B), keep))


def scn(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """SCN's relabeling: cross-entropy with `relabel`'s labels among the least probable ones."""
    logits_BN = jax.lax.stop_gradient(outputs.video_logits)
    # SCN's low-importance group. Without its attention weights, the label's probability ranks the videos.
    doubt_B = -at_label(log_probs(logits_BN), evidence.label)
    is_low_B = ~small_loss_choice(doubt_B, jnp.float32(1 - settings.scn_share))
    relabeled_B = relabel(logits_BN, evidence.label, settings.scn_margin)
    change_B = is_low_B & (evidence.progress >= 1)
    return supervised(outputs, jnp.where(change_B, relabeled_B, evidence.label), settings)


def votes(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Cross-entropy with the distribution of the annotators' votes; without votes, with the label.

    Barsoum et al. (2016), "Training deep networks for facial expression recognition with crowd-sourced
    label distribution", section 3.4. Label smoothing applies where there are no votes.
    """
    votes_BN = required(evidence.votes, settings, "the annotators' votes")
    total_B1 = jnp.sum(votes_BN, axis=-1, keepdims=True)
    label_BN = criteria.smooth_labels(
        evidence.label, outputs.video_logits.shape[-1], settings.label_smoothing
    )
    targets_BN = jnp.where(total_B1 > 0, votes_BN / jnp.maximum(total_B1, 1e-6), label_BN)
    return criteria.hierarchical_loss(outputs, targets_BN, settings)


def oracle(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Cross-entropy of the videos whose labels are known to be right: the upper limit."""
    flipped_B = required(evidence.flipped, settings, "a data set with known wrong labels")
    return mean_over(supervised(outputs, evidence.label, settings), ~flipped_B)
