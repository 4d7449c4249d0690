"""Agreement of a video's clips, and the verdict on its label. Pure functions, to be jitted.

From the logits of K clips of a video: their agreement in [0, 1], their consensus, and the partition of the
videos into clean, noisy and hard ones. The formulas are ours, see docs/explanation/method.md.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from rdfer_jax import confident, config, mixture, priors
from rdfer_jax import memory as memory_lib
from rdfer_jax.memory import Memory

#: Agreements that differ by less are equal.
_ROUNDING = 1e-6


@struct.dataclass
class Verdict:
    """Agreement, consensus and noise score of each video.

    Attributes:
      agreement: float32 [B] in [0, 1], 1 if all clips predict the same.
      consensus: int32 [B], the class with the highest mean probability.
      probs: float32 [B, N], mean of the clips' distributions, now or, with a memory, over the epochs.
      noise_score: float32 [B] in [0, 1], higher if the label is more likely wrong.
      support: float32 [B] in [0, 1], share of the clips whose probability of the label is above the
        video's running threshold; None without a memory.
      rank: float32 [B] in [0, 1], rank of the agreement among all visited videos, or, without a memory,
        in the batch; None if it was not asked for.
    """

    agreement: jax.Array
    consensus: jax.Array
    probs: jax.Array
    noise_score: jax.Array
    support: jax.Array | None = None
    rank: jax.Array | None = None


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


def clip_support(logits_BKN: jax.Array, label_B: jax.Array, threshold_B: jax.Array) -> jax.Array:
    """Returns the share of the clips with p_k(label) > threshold, float32 [B] in [0, 1]."""
    probs_BKN = jax.nn.softmax(logits_BKN.astype(jnp.float32))
    supports_BK = at_label(probs_BKN, label_B[:, None]) > threshold_B[:, None]
    return jnp.mean(supports_BK, axis=1, dtype=jnp.float32)


def judge(
    logits_BKN: jax.Array,
    label_B: jax.Array,
    settings: config.Agreement,
    past: Memory | None = None,
) -> Verdict:
    """Measures how far the clips agree with each other and contradict the label.

    Args:
      logits_BKN: float [B, K, N].
      label_B: int [B], the given labels.
      settings: which measure of agreement and which noise score to use.
      past: the rows of these videos in the memory, after this visit. Its probabilities replace the
        clips' mean distribution, and with settings.remember its agreement replaces that of the clips.
    """
    measure = {"soft": soft_agreement, "vote": vote_agreement}[settings.measure]
    agreement_B = measure(logits_BKN / settings.temperature)
    probs_BN, support_B = mean_probs(logits_BKN), None
    if past is not None:
        probs_BN = memory_lib.remembered(past)
        support_B = clip_support(logits_BKN, label_B, past.threshold)
        if settings.remember:
            agreement_B = memory_lib.remembered_agreement(past, settings.remember)
    if settings.score == "support":
        noise_B = no_support(logits_BKN, label_B)
    else:
        noise_B = odds_against(probs_BN, label_B)
    return Verdict(
        agreement=agreement_B,
        consensus=jnp.argmax(probs_BN, axis=-1).astype(jnp.int32),
        probs=probs_BN,
        noise_score=noise_B,
        support=support_B,
    )


def at_label(values_N: jax.Array, label: jax.Array) -> jax.Array:
    """Returns the value of each label's class: [..., N] and [...] -> [...].

    Computed as a product with one-hot rows, whose gradient needs no scatter.
    """
    return jnp.sum(values_N * jax.nn.one_hot(label, values_N.shape[-1]), axis=-1)


def partition(
    verdict: Verdict, label_B: jax.Array, settings: config.Agreement, memory: Memory | None = None
) -> Partition:
    """Returns which videos are clean, noisy and hard.

    clean: the clips agree on the label. noisy: they agree on another class, and the noise score is above
    its threshold. hard: the rest. Without settings.noisy_agrees, noisy videos need not agree.
    settings.threshold_kind says what it takes to agree:

    fixed: A >= tau, with tau = settings.threshold.
    quantile: A >= that quantile of the agreement of all visited videos; of the batch without a memory.
    mixture: two normal distributions are fitted to the agreements of all visited videos, and two to their
      noise scores, both as log(x / (1 - x)). The probability that A is of the higher ones must reach
      settings.threshold, and the probability that the noise score is must exceed settings.noise_threshold.
    running: each video has a threshold of its own, after DISC (Li et al. 2023). clean: all clips give the
      label a probability above it. noisy: no clip does, and they agree (A >= tau) on another class.

    Args:
      verdict: of the batch.
      label_B: int [B], the given labels.
      settings: the kind of thresholds, and the thresholds.
      memory: of all training videos, after the visit of the batch; mixture and running need it.
    """
    on_label_B = verdict.consensus == label_B
    agrees_B, suspect_B = _exceeded(jax.lax.stop_gradient(verdict), settings, memory)
    clean_B = agrees_B & on_label_B
    if settings.threshold_kind == "running":
        assert verdict.support is not None
        clean_B, suspect_B = verdict.support >= 1, verdict.support <= 0
    noisy_B = ~on_label_B & suspect_B
    if settings.noisy_agrees:
        noisy_B = noisy_B & agrees_B
    return Partition(clean=clean_B, noisy=noisy_B, hard=~(clean_B | noisy_B))


def _exceeded(
    verdict: Verdict, settings: config.Agreement, memory: Memory | None
) -> tuple[jax.Array, jax.Array]:
    """Returns whether agreement and noise score pass their thresholds, two bool [B]."""
    agreement_B, noise_B = verdict.agreement, verdict.noise_score
    tau: jax.Array | float = settings.threshold
    if settings.threshold_kind == "quantile":
        known = agreement_B
        if memory is not None:
            known = memory_lib.remembered_agreement(memory, settings.remember)
            known = jnp.where(memory.visits > 0, known, jnp.nan)
        # Rounding must not move videos at the quantile below it.
        tau = jnp.nanquantile(known, settings.threshold) - _ROUNDING
    elif settings.threshold_kind == "mixture":
        assert memory is not None
        visited_M = memory.visits > 0
        known_M = memory_lib.remembered_agreement(memory, settings.remember)
        scores_M = _corrected_odds(
            memory_lib.remembered(memory), memory.label, memory, settings.prior_correction
        )
        agreement_B = _among_higher(agreement_B, known_M, visited_M)
        noise_B = _among_higher(noise_B, scores_M, visited_M)
    return agreement_B >= tau, noise_B > settings.noise_threshold


def _among_higher(values_B: jax.Array, known_M: jax.Array, chosen_M: jax.Array) -> jax.Array:
    """Returns the probability that a value in [0, 1] is of the higher of two groups, float32 [B].

    The mixture is fitted to log(x / (1 - x)): near 0 and 1, where most values are, it tells them apart, and
    for odds it is the difference of two log probabilities.
    """

    def logit(values: jax.Array) -> jax.Array:
        return jax.scipy.special.logit(jnp.clip(values, 1e-4, 1 - 1e-4))

    return mixture.above(mixture.fit(logit(known_M), chosen_M), logit(values_B))


def rank(agreement_B: jax.Array, known_M: jax.Array, chosen_M: jax.Array) -> jax.Array:
    """Returns the rank of each agreement among the chosen ones, float32 [B] in [0, 1].

    The share of the chosen that are smaller; those that are equal but for rounding count half. One of them
    is the remembered agreement of the video itself.
    """
    below_BM = known_M < agreement_B[:, None] - _ROUNDING
    equal_BM = jnp.abs(known_M - agreement_B[:, None]) <= _ROUNDING
    total_B = jnp.sum((below_BM + 0.5 * equal_BM) * chosen_M, axis=1)
    return total_B / jnp.maximum(jnp.sum(chosen_M), 1)


def score_by_posterior(verdict: Verdict, label_B: jax.Array, memory: Memory) -> Verdict:
    """Returns the verdict with the noise score 1 - P(label | prediction, label).

    By Bayes' rule, see `confident.posterior`, with the noise matrix that confident learning estimates from
    the memory: a class that is often given the label in error makes it more doubtful. No truth is used.
    """
    noise_NN = confident.noise_matrix(memory.label, memory_lib.remembered(memory))
    truth_BN = confident.posterior(verdict.probs, label_B, noise_NN)
    return dataclasses.replace(verdict, noise_score=1 - at_label(truth_BN, label_B))


def correct_for_prior(
    verdict: Verdict, label_B: jax.Array, memory: Memory, strength: float
) -> Verdict:
    """Returns the verdict with its noise score replaced by odds that are corrected for the class prior.

    Predictions favor frequent classes, so the label of a rare class looks wrong more often. The corrected
    odds are those of p_n / m_n^strength, m the mean of the remembered predictions over all visited videos.
    The consensus and the probabilities are left as they are, so a frequent class is not relabeled to a
    rare one for being frequent.
    """
    noise_B = _corrected_odds(verdict.probs, label_B, memory, strength)
    return dataclasses.replace(verdict, noise_score=noise_B)


def _corrected_odds(
    probs_BN: jax.Array, label_B: jax.Array, memory: Memory, strength: float
) -> jax.Array:
    if not strength:
        return odds_against(probs_BN, label_B)
    mean_N = priors.class_mean(memory_lib.remembered(memory), memory.visits > 0)
    probs_BN = priors.divided(probs_BN, jax.lax.stop_gradient(mean_N), strength)
    return odds_against(probs_BN, label_B)


def protect(
    verdict: Verdict,
    partition: Partition,
    label_B: jax.Array,
    prior_N: jax.Array,
    settings: config.Agreement,
) -> tuple[Verdict, Partition]:
    """Keeps the labels of rare classes unless there is strong evidence against them.

    A label is rare if its class has less than settings.protect_below of the training labels. Evidence is
    weak if the noise score is at most settings.protect_threshold. A noisy video with a rare label and weak
    evidence becomes a hard one, and the noise score of all such videos becomes 0.
    """
    weak_B = verdict.noise_score <= settings.protect_threshold
    kept_B = weak_B & (prior_N[label_B] < settings.protect_below)
    noise_B = jnp.where(kept_B, 0.0, verdict.noise_score)
    return dataclasses.replace(verdict, noise_score=noise_B), Partition(
        clean=partition.clean,
        noisy=partition.noisy & ~kept_B,
        hard=partition.hard | (partition.noisy & kept_B),
    )


def all_clean(num: int) -> Partition:
    """Returns the partition for early training, before the agreement is reliable: all videos are clean."""
    true_B = jnp.ones(num, bool)
    return Partition(clean=true_B, noisy=~true_B, hard=~true_B)


def stop(verdict: Verdict, settings: config.Agreement) -> Verdict:
    """Stops the gradient through the verdict, unless settings.gradient is on."""
    return verdict if settings.gradient else jax.lax.stop_gradient(verdict)
