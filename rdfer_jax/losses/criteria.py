"""The parts that the methods share: targets, criteria, and the sum over the heads of the network."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rdfer_jax import config
from rdfer_jax.types import Outputs

Criterion = Callable[[jax.Array, jax.Array], jax.Array]
#: The logits in Outputs that a loss is taken of.
HEADS = ("video_logits", "clip_logits", "long_logits", "instant_logits")


def smooth_labels(label_B: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Returns one-hot targets with `smoothing` of their mass spread over all classes, float32 [B, N].

    Szegedy et al. (2016), "Rethinking the Inception architecture", section 7.
    """
    return jax.nn.one_hot(label_B, num_classes) * (1 - smoothing) + smoothing / num_classes


# Criteria: logits [..., N] and targets [..., N], rows that sum to 1 -> float32 [...].


def cross_entropy(logits_N: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Returns -sum_n t_n log p_n."""
    return -jnp.sum(targets_N * log_probs(logits_N), axis=-1)


def focal(logits_N: jax.Array, targets_N: jax.Array, gamma: float) -> jax.Array:
    """Returns -sum_n t_n (1 - p_n)^gamma log p_n.

    Lin et al. (2017), "Focal loss for dense object detection", equation 4, without its class weights.
    """
    logp_N = log_probs(logits_N)
    # For gamma < 1 the power's gradient is infinite at 0.
    miss_N = jnp.maximum(1 - jnp.exp(logp_N), 1e-6)
    return -jnp.sum(targets_N * miss_N**gamma * logp_N, axis=-1)


def generalized_cross_entropy(logits_N: jax.Array, targets_N: jax.Array, q: float) -> jax.Array:
    """Returns sum_n t_n (1 - p_n^q) / q: cross-entropy as q goes to 0, mean absolute error at q = 1.

    Zhang and Sabuncu (2018), "Generalized cross entropy loss for training deep neural networks with
    noisy labels", equation 6.
    """
    return jnp.sum(targets_N * -jnp.expm1(q * log_probs(logits_N)), axis=-1) / q


def symmetric_cross_entropy(
    logits_N: jax.Array, targets_N: jax.Array, alpha: float, beta: float, log_zero: float = -4.0
) -> jax.Array:
    """Returns alpha CE(t, p) + beta CE(p, t), with log 0 replaced by a constant.

    Wang et al. (2019), "Symmetric cross entropy for robust learning with noisy labels", equations 6
    and 7; the constant A = -4 is theirs.
    """
    logp_N = log_probs(logits_N)
    log_targets_N = jnp.maximum(jnp.log(jnp.maximum(targets_N, 1e-30)), log_zero)
    reverse = -jnp.sum(jnp.exp(logp_N) * log_targets_N, axis=-1)
    return alpha * cross_entropy(logits_N, targets_N) + beta * reverse


def adjusted(outputs: Outputs) -> Outputs:
    """Returns the outputs with the shift of the logits added to those of every head.

    Menon et al. (2021), "Long-tail learning via logit adjustment", equation 10: with the shift tau log
    prior, the loss is that of the given labels under their prior, so the logits themselves are those of
    balanced classes.
    """
    if outputs.logit_shift is None:
        return outputs
    heads = {name: getattr(outputs, name) for name in HEADS}
    shifted = {n: x + outputs.logit_shift for n, x in heads.items() if x is not None}
    return dataclasses.replace(outputs, logit_shift=None, **shifted)


def hierarchical_loss(
    outputs: Outputs,
    targets_BN: jax.Array,
    settings: config.Loss,
    criterion: Criterion = cross_entropy,
) -> jax.Array:
    """Returns the loss of the video, its clips, the long-term stream and the key instants, float32 [B].

    Terms whose logits are None, such as those of a network without a long-term stream, are left out. With
    outputs.key_class, so are the instants of videos whose target's likeliest class is another one.
    The logits are the `adjusted` ones.
    """
    outputs = adjusted(outputs)
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
        keys_B = settings.instants * total_B / jnp.maximum(jnp.sum(is_key_BI, axis=1), 1)
        if outputs.key_class is not None:
            keys_B = jnp.where(jnp.argmax(targets_BN, axis=-1) == outputs.key_class, keys_B, 0.0)
        loss_B += keys_B
    return loss_B


def supervised(
    outputs: Outputs,
    label_B: jax.Array,
    settings: config.Loss,
    criterion: Criterion = cross_entropy,
) -> jax.Array:
    """Returns the hierarchical loss with smoothed labels as targets, float32 [B]."""
    targets_BN = smooth_labels(label_B, outputs.video_logits.shape[-1], settings.label_smoothing)
    return hierarchical_loss(outputs, targets_BN, settings, criterion)


def mean_over(loss_B: jax.Array, chosen_B: jax.Array) -> jax.Array:
    """Returns losses scaled such that their batch mean is the mean over the chosen ones; 0 for the rest."""
    weight_B = chosen_B.astype(jnp.float32)
    return loss_B * weight_B * len(loss_B) / jnp.maximum(jnp.sum(weight_B), 1)


def log_probs(logits_N: jax.Array) -> jax.Array:
    """Returns the logarithms of the softmax, float32 [..., N]."""
    return jax.nn.log_softmax(logits_N.astype(jnp.float32))
