"""Per-video losses: ours, and noise-robust losses from the literature.

All methods share one interface: (outputs, evidence, settings) -> float32 [B], one loss for each video, not
reduced over the batch. A method differs from plain cross-entropy in its criterion (the distance between
logits and target), its targets, its weights, or an additional penalty:

    loss = weight * (criterion(video) + l_clips mean_k criterion(clip k) + l_long criterion(long)
                     + l_instants mean criterion(key instants)) + penalty

`agreement` is ours, our interpretation of "reinforce the hard, mitigate the noisy", see
docs/explanation/method.md.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from rdfer_jax import config
from rdfer_jax.agreement import Partition, Verdict, at_label
from rdfer_jax.types import Outputs

Criterion = Callable[[jax.Array, jax.Array], jax.Array]


@struct.dataclass
class Evidence:
    """What a method may use in addition to the network's outputs.

    Attributes:
      label: int32 [B], the given labels.
      verdict: agreement, consensus and noise score of each video.
      partition: which videos are clean, noisy and hard.
      progress: float32 in [0, 1], 1 from config.loss.robust_from on.
      past: float32 [B, N], the memory of each video's prediction, whose sum is below 1 in the first
        epochs; None without a memory.
      flipped: bool [B], which labels are known to be wrong; None if unknown. For the oracle only.
    """

    label: jax.Array
    verdict: Verdict
    partition: Partition
    progress: jax.Array
    past: jax.Array | None = None
    flipped: jax.Array | None = None


def smooth_labels(label_B: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Returns one-hot targets with `smoothing` of their mass spread over all classes, float32 [B, N].

    Szegedy et al. (2016), "Rethinking the Inception architecture", section 7.
    """
    return jax.nn.one_hot(label_B, num_classes) * (1 - smoothing) + smoothing / num_classes


# Criteria: logits [..., N] and targets [..., N], rows that sum to 1 -> float32 [...].


def cross_entropy(logits_N: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Returns -sum_n t_n log p_n."""
    return -jnp.sum(targets_N * _log_probs(logits_N), axis=-1)


def focal(logits_N: jax.Array, targets_N: jax.Array, gamma: float) -> jax.Array:
    """Returns -sum_n t_n (1 - p_n)^gamma log p_n.

    Lin et al. (2017), "Focal loss for dense object detection", equation 4, without its class weights.
    """
    logp_N = _log_probs(logits_N)
    # For gamma < 1 the power's gradient is infinite at 0.
    miss_N = jnp.maximum(1 - jnp.exp(logp_N), 1e-6)
    return -jnp.sum(targets_N * miss_N**gamma * logp_N, axis=-1)


def generalized_cross_entropy(logits_N: jax.Array, targets_N: jax.Array, q: float) -> jax.Array:
    """Returns sum_n t_n (1 - p_n^q) / q: cross-entropy as q goes to 0, mean absolute error at q = 1.

    Zhang and Sabuncu (2018), "Generalized cross entropy loss for training deep neural networks with
    noisy labels", equation 6.
    """
    return jnp.sum(targets_N * -jnp.expm1(q * _log_probs(logits_N)), axis=-1) / q


def symmetric_cross_entropy(
    logits_N: jax.Array, targets_N: jax.Array, alpha: float, beta: float, log_zero: float = -4.0
) -> jax.Array:
    """Returns alpha CE(t, p) + beta CE(p, t), with log 0 replaced by a constant.

    Wang et al. (2019), "Symmetric cross entropy for robust learning with noisy labels", equations 6
    and 7; the constant A = -4 is theirs.
    """
    logp_N = _log_probs(logits_N)
    log_targets_N = jnp.maximum(jnp.log(jnp.maximum(targets_N, 1e-30)), log_zero)
    reverse = -jnp.sum(jnp.exp(logp_N) * log_targets_N, axis=-1)
    return alpha * cross_entropy(logits_N, targets_N) + beta * reverse


def hierarchical_loss(
    outputs: Outputs,
    targets_BN: jax.Array,
    settings: config.Loss,
    criterion: Criterion = cross_entropy,
) -> jax.Array:
    """Returns the loss of the video, its clips, the long-term stream and the key instants, float32 [B].

    Terms whose logits are None, such as those of a network without a long-term stream, are left out.
    """
    loss_B = criterion(outputs.video_logits, targets_BN)
    clips_B = jnp.mean(criterion(outputs.clip_logits, targets_BN[:, None]), axis=1)
    loss_B += settings.clips * clips_B
    if outputs.long_logits is not None:
        loss_B += settings.long * criterion(outputs.long_logits, targets_BN)
    if outputs.instant_logits is not None and settings.instants:
        assert outputs.instants is not None and outputs.key_instants is not None
        instants_BI = criterion(outputs.instant_logits, targets_BN[:, None])
        is_key_BI = jnp.any(outputs.instants[:, :, None] == outputs.key_instants[:, None], axis=-1)
        total_B = jnp.sum(instants_BI * is_key_BI, axis=1)
        loss_B += settings.instants * total_B / jnp.maximum(jnp.sum(is_key_BI, axis=1), 1)
    return loss_B


# Building blocks of the methods.


def robust_weights(verdict: Verdict, partition: Partition, settings: config.Loss) -> jax.Array:
    """Returns the weight of each video, float32 [B]: 1 if clean, 1 + gamma (1 - A) if hard, w if noisy."""
    hard_B = 1 + settings.hard * (1 - verdict.agreement)
    weight_B = jnp.where(partition.hard, hard_B, 1.0)
    return jnp.where(partition.noisy, settings.noisy_weight, weight_B)


def robust_targets(
    label_B: jax.Array,
    verdict: Verdict,
    partition: Partition,
    settings: config.Loss,
    active: jax.Array | bool = True,
) -> jax.Array:
    """Returns the targets of each video, float32 [B, N]: a blend of its smoothed label and p_mean.

    The blend is (1 - b) label + b p_mean. settings.refurbish chooses the videos: "noisy" blends the noisy
    ones with b = beta; "all" blends all of them with b = beta s^2, s the noise score, once `active`.
    """
    label_BN = smooth_labels(label_B, verdict.probs.shape[-1], settings.label_smoothing)
    if settings.refurbish == "all":
        share_B = jnp.where(active, verdict.noise_score**2, 0.0)
    else:
        share_B = partition.noisy.astype(jnp.float32)
    share_B1 = settings.noisy_target * share_B[:, None]
    targets_BN = (1 - share_B1) * label_BN + share_B1 * verdict.probs
    return jax.lax.stop_gradient(targets_BN)


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


def mean_over(loss_B: jax.Array, chosen_B: jax.Array) -> jax.Array:
    """Returns losses scaled such that their batch mean is the mean over the chosen ones; 0 for the rest."""
    weight_B = chosen_B.astype(jnp.float32)
    return loss_B * weight_B * len(loss_B) / jnp.maximum(jnp.sum(weight_B), 1)


# The methods.


def _supervised(
    outputs: Outputs,
    label_B: jax.Array,
    settings: config.Loss,
    criterion: Criterion = cross_entropy,
) -> jax.Array:
    targets_BN = smooth_labels(label_B, outputs.video_logits.shape[-1], settings.label_smoothing)
    return hierarchical_loss(outputs, targets_BN, settings, criterion)


def _cross_entropy(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    return _supervised(outputs, evidence.label, settings)


def _focal(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    def criterion(logits_N: jax.Array, targets_N: jax.Array) -> jax.Array:
        return focal(logits_N, targets_N, settings.focal_gamma)

    return _supervised(outputs, evidence.label, settings, criterion)


def _gce(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    def criterion(logits_N: jax.Array, targets_N: jax.Array) -> jax.Array:
        return generalized_cross_entropy(logits_N, targets_N, settings.gce_q)

    return _supervised(outputs, evidence.label, settings, criterion)


def _sce(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    def criterion(logits_N: jax.Array, targets_N: jax.Array) -> jax.Array:
        return symmetric_cross_entropy(logits_N, targets_N, settings.sce_alpha, settings.sce_beta)

    return _supervised(outputs, evidence.label, settings, criterion)


def _elr(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    past_BN = _required(evidence.past, settings, "config.agreement.memory_decay above 0")
    penalty_B = early_learning_penalty(outputs.video_logits, past_BN)
    return _supervised(outputs, evidence.label, settings) + settings.elr_weight * penalty_B


def _small_loss(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    loss_B = _supervised(outputs, evidence.label, settings)
    keep = 1 - settings.forget_rate * evidence.progress
    return mean_over(loss_B, small_loss_choice(jax.lax.stop_gradient(loss_B), keep))


def _scn(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    logits_BN = jax.lax.stop_gradient(outputs.video_logits)
    # SCN's low-importance group. Without its attention weights, the label's probability ranks the videos.
    doubt_B = -at_label(_log_probs(logits_BN), evidence.label)
    is_low_B = ~small_loss_choice(doubt_B, jnp.float32(1 - settings.scn_share))
    relabeled_B = relabel(logits_BN, evidence.label, settings.scn_margin)
    change_B = is_low_B & (evidence.progress >= 1)
    return _supervised(outputs, jnp.where(change_B, relabeled_B, evidence.label), settings)


def _agreement(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    targets_BN = robust_targets(
        evidence.label, evidence.verdict, evidence.partition, settings, evidence.progress >= 1
    )
    weights_B = robust_weights(evidence.verdict, evidence.partition, settings)
    return weights_B * hierarchical_loss(outputs, targets_BN, settings)


def _oracle(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    flipped_B = _required(evidence.flipped, settings, "a data set with known wrong labels")
    return mean_over(_supervised(outputs, evidence.label, settings), ~flipped_B)


METHODS: dict[str, Callable[[Outputs, Evidence, config.Loss], jax.Array]] = {
    "agreement": _agreement,
    "cross_entropy": _cross_entropy,
    "focal": _focal,
    "gce": _gce,
    "sce": _sce,
    "elr": _elr,
    "small_loss": _small_loss,
    "scn": _scn,
    "oracle": _oracle,
}


def per_video(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Returns the loss of each video by the configured method, float32 [B].

    Raises:
      ValueError: the method needs a memory, or known wrong labels, and there are none.
    """
    return METHODS[settings.method](outputs, evidence, settings)


def _required(value: jax.Array | None, settings: config.Loss, what: str) -> jax.Array:
    if value is None:
        raise ValueError(f"config.loss.method = {settings.method!r} needs {what}")
    return value


def _log_probs(logits_N: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(logits_N.astype(jnp.float32))
