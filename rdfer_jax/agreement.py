"""Agreement of a video's clips, and the verdict on its label. Pure functions, to be jitted.

From the logits of K clips of a video: their agreement in [0, 1], their consensus, and the partition of the
videos into clean, noisy and hard ones. The public text of the paper gives no formulas; these are our
interpretation, see docs/explanation/method.md.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from rdfer_jax import config


@struct.dataclass
class Verdict:
    """Agreement, consensus and noise score of each video.

    Attributes:
      agreement: float32 [B] in [0, 1], 1 if all clips predict the same.
      consensus: int32 [B], the class with the highest mean probability.
      probs: float32 [B, N], mean of the clips' distributions, now or, with a memory, over the epochs.
      noise_score: float32 [B] in [0, 1], higher if the label is more likely wrong.
    """

    agreement: jax.Array
    consensus: jax.Array
    probs: jax.Array
    noise_score: jax.Array


@struct.dataclass
class Partition:
    """Which videos are clean, noisy and hard: three bool [B], exactly one of them True for each video."""

    clean: jax.Array
    noisy: jax.Array
    hard: jax.Array


def vote_agreement(logits_BKN: jax.Array) -> jax.Array:
    """Returns the share of the clips that vote for the majority class, float32 [B] in [1/K, 1].

    A = max_c (1/K) sum_k [argmax_n logits_kn = c].
    """
    votes_BKN = jax.nn.one_hot(jnp.argmax(logits_BKN, -1), logits_BKN.shape[-1])
    return jnp.max(jnp.mean(votes_BKN, axis=1), axis=-1)


def soft_agreement(logits_BKN: jax.Array) -> jax.Array:
    """Returns one minus the normalized Jensen-Shannon divergence of the clips, float32 [B] in [0, 1].

    A = 1 - (H(mean_k p_k) - mean_k H(p_k)) / log min(K, N), after the generalized divergence of Lin
    (1991), "Divergence measures based on the Shannon entropy". The agreement of a single clip is 1.
    """
    clips, classes = logits_BKN.shape[-2:]
    most = math.log(min(clips, classes))
    if most == 0:
        return jnp.ones(logits_BKN.shape[0], jnp.float32)
    logp_BKN = jax.nn.log_softmax(logits_BKN.astype(jnp.float32))
    entropy_BK = -jnp.sum(jnp.exp(logp_BKN) * logp_BKN, axis=-1)
    logmean_BN = jax.nn.logsumexp(logp_BKN, axis=1) - math.log(clips)
    entropy_B = -jnp.sum(jnp.exp(logmean_BN) * logmean_BN, axis=-1)
    divergence_B = entropy_B - jnp.mean(entropy_BK, axis=1)
    return 1 - jnp.clip(divergence_B / most, 0, 1)


def mean_probs(logits_BKN: jax.Array) -> jax.Array:
    """Returns the mean of the clips' distributions, float32 [B, N]."""
    return jnp.mean(jax.nn.softmax(logits_BKN.astype(jnp.float32)), axis=1)


def odds_against(probs_BN: jax.Array, label_B: jax.Array) -> jax.Array:
    """Returns p(best other class) / (p(best other class) + p(label)), float32 [B] in [0, 1].

    The odds of the most likely other class against the label. They are above 1/2 if the consensus is
    another class. Unlike the margin p(c*) - p(label), they are not small if the consensus is weak.
    """
    at_label_BN = jax.nn.one_hot(label_B, probs_BN.shape[-1], dtype=bool)
    other_B = jnp.max(jnp.where(at_label_BN, 0.0, probs_BN), axis=-1)
    label_prob_B = at_label(probs_BN, label_B)
    return other_B / jnp.maximum(other_B + label_prob_B, 1e-30)


def no_support(logits_BKN: jax.Array, label_B: jax.Array) -> jax.Array:
    """Returns 1 - max_k p_k(label), float32 [B] in [0, 1].

    At least one clip of a hard video supports the label; no clip of a mislabeled one does.
    """
    probs_BKN = jax.nn.softmax(logits_BKN.astype(jnp.float32))
    return 1 - jnp.max(at_label(probs_BKN, label_B[:, None]), axis=1)


def judge(
    logits_BKN: jax.Array,
    label_B: jax.Array,
    settings: config.Agreement,
    probs_BN: jax.Array | None = None,
) -> Verdict:
    """Measures how far the clips agree with each other and contradict the label.

    Args:
      logits_BKN: float [B, K, N].
      label_B: int [B], the given labels.
      settings: which measure of agreement and which noise score to use.
      probs_BN: float32 [B, N], replaces the clips' mean distribution, such as the video's memory.
    """
    agreement_B = {"soft": soft_agreement, "vote": vote_agreement}[settings.measure](logits_BKN)
    probs_BN = mean_probs(logits_BKN) if probs_BN is None else probs_BN
    if settings.score == "support":
        noise_B = no_support(logits_BKN, label_B)
    else:
        noise_B = odds_against(probs_BN, label_B)
    return Verdict(
        agreement=agreement_B,
        consensus=jnp.argmax(probs_BN, axis=-1).astype(jnp.int32),
        probs=probs_BN,
        noise_score=noise_B,
    )


def at_label(values_N: jax.Array, label: jax.Array) -> jax.Array:
    """Returns the value of each label's class: [..., N] and [...] -> [...].

    Computed as a product with one-hot rows, whose gradient needs no scatter.
    """
    return jnp.sum(values_N * jax.nn.one_hot(label, values_N.shape[-1]), axis=-1)


def partition(verdict: Verdict, label_B: jax.Array, settings: config.Agreement) -> Partition:
    """Returns which videos are clean, noisy and hard.

    clean: the clips agree (A >= tau) on the label. noisy: they agree on another class, and the noise
    score is above its threshold. hard: the rest. tau is settings.threshold, or that quantile of the batch.
    """
    tau: jax.Array | float = settings.threshold
    if settings.threshold_kind == "quantile":
        # Rounding must not move videos at the quantile below it.
        tau = jnp.quantile(jax.lax.stop_gradient(verdict.agreement), settings.threshold) - 1e-6
    agrees_B = verdict.agreement >= tau
    on_label_B = verdict.consensus == label_B
    clean_B = agrees_B & on_label_B
    noisy_B = agrees_B & ~on_label_B & (verdict.noise_score > settings.noise_threshold)
    return Partition(clean=clean_B, noisy=noisy_B, hard=~(clean_B | noisy_B))


def all_clean(num: int) -> Partition:
    """Returns the partition for early training, before the agreement is reliable: all videos are clean."""
    true_B = jnp.ones(num, bool)
    return Partition(clean=true_B, noisy=~true_B, hard=~true_B)


def stop(verdict: Verdict, settings: config.Agreement) -> Verdict:
    """Stops the gradient through the verdict, unless settings.gradient is on."""
    return verdict if settings.gradient else jax.lax.stop_gradient(verdict)
