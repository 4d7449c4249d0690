"""How suspicious is each label? A score that combines the K clips of a video, learned without any truth.

Enters: the given labels and out-of-fold probabilities of K clips of each video. Leaves: a score that orders
the videos, and for each rank the share of false alarms up to there. Plain arrays and NumPy, no model.

The audit injects wrong labels itself: a copy of a video gets each other class as its label, with the weight
that the estimated noise gives this flip. Logistic regression learns to tell these copies from the videos as
they are, of which those with doubtful labels count little. What it learns are the weights of the EVIDENCE.

Shape letters: N videos, K clips, C classes, E kinds of evidence, M copies and videos to learn from.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from rdfer_jax.labels.noise_matrix import Floats, Ints, noise_matrix, smoothed

#: The evidence for a label, all logarithms: its odds against the best other class in the mean of the clips;
#: its probability there; the odds that it is right by Bayes' rule with the noise matrix; its odds in the
#: geometric mean of the clips; the highest probability that a clip gives it.
EVIDENCE = ("odds", "probability", "posterior", "odds of all clips", "support")
#: Most videos that the weights are learned from, evenly spaced.
LEARN_VIDEOS = 10_000
#: Penalty of the squared weights of standardized evidence.
RIDGE = 1.0
#: Least weight of an injected flip, so that there are some where no label is wrong.
RARE_FLIP = 1e-6
#: Probabilities are at least that.
_TINY = 1e-6


class Suspicion(NamedTuple):
    """How suspicious each label is.

    Attributes:
      score: float64 [N], higher for labels that are more likely wrong; of no unit.
      injected: float64 [M], the scores of the injected wrong labels.
      weight: float64 [M], how much each of these counts; their sum is 1.
    """

    score: Floats
    injected: Floats
    weight: Floats

    def false_alarms(self, share: float) -> Floats:
        """Returns the expected share of right labels among each video and all more suspicious ones.

        If `share` of all labels is wrong, and wrong labels have the scores of injected ones, then
        share P(injected >= s) of all videos are wrong and at s or above; the observed number of videos
        there is the whole. So this is the q-value of Storey (2002), "A direct approach to false discovery
        rates", turned around: known is how wrong labels look, not how right ones do.

        Args:
          share: the share of wrong labels, in [0, 1].

        Returns:
          float64 [N] in [0, 1], which does not fall with the rank.
        """
        order = np.argsort(-self.injected, kind="stable")
        reached = np.searchsorted(-self.injected[order], -self.score, side="right")
        wrong_N = share * np.append(0, self.weight[order].cumsum())[reached]
        by_rank = np.argsort(-self.score, kind="stable")
        sorted_N = -self.score[by_rank]
        seen_N = np.searchsorted(sorted_N, sorted_N, side="right") / len(self.score)
        alarms_N = 1 - np.clip(wrong_N[by_rank] / seen_N, 0, 1)
        # A longer list may be purer by chance; the promise of a rank is the best of the longer lists.
        result_N = np.empty_like(alarms_N)
        result_N[by_rank] = np.minimum.accumulate(alarms_N[::-1])[::-1]
        return result_N


def suspicion(labels_N: Ints, clip_probs_NKC: Floats) -> Suspicion:
    """Scores the labels.

    The score is the mean of two standardized numbers: the learned combination of the EVIDENCE, and the odds
    alone. The learned one is better on average, and worse where the noise is unlike the injected one; see
    docs/evidence/audit.md.

    Args:
      labels_N: int64 [N], the given labels, in [0, C).
      clip_probs_NKC: float64 [N, K, C], checked distributions.
    """
    mean_NC = clip_probs_NKC.mean(axis=1)
    count, num_classes = mean_NC.shape
    noise_CC = smoothed(noise_matrix(labels_N, mean_NC).joint.T * count)
    few = np.arange(0, count, -(-count // LEARN_VIDEOS))
    copies_MCE = _evidence(clip_probs_NKC[few], mean_NC[few], noise_CC)
    label_M = labels_N[few]
    right_M = special.expit(copies_MCE[np.arange(len(few)), label_M, EVIDENCE.index("posterior")])
    flip_CC = (noise_CC + RARE_FLIP) * (1 - np.eye(num_classes))
    weight_MC = right_M[:, None] * flip_CC[label_M]
    is_copy_MC = np.arange(num_classes) != label_M[:, None]
    videos_ME = copies_MCE[~is_copy_MC]
    copies_ME, weight_M = copies_MCE[is_copy_MC], weight_MC[is_copy_MC] / weight_MC.sum()
    half = len(few) / 2
    learned = _logistic(
        np.concatenate([videos_ME, copies_ME]),
        np.arange(len(videos_ME) + len(copies_ME)) >= len(videos_ME),
        half * np.concatenate([right_M / right_M.sum(), weight_M]),
    )
    evidence_NE = (
        videos_ME if len(few) == count else _evidence(clip_probs_NKC, mean_NC, noise_CC, labels_N)
    )
    both = [np.stack([e @ learned, -e[:, 0]], axis=1) for e in (evidence_NE, copies_ME)]
    scale = np.maximum(both[0].std(axis=0), _TINY)
    score_N, injected_M = ((b / scale).mean(axis=1) for b in both)
    return Suspicion(score_N, injected_M, weight_M)


def _evidence(
    clip_probs_NKC: Floats, mean_NC: Floats, noise_CC: Floats, labels_N: Ints | None = None
) -> Floats:
    """The EVIDENCE for each class as the label, float64 [N, C, E]; or for the given one, [N, E]."""
    log_NKC = np.log(np.maximum(clip_probs_NKC, _TINY))
    log_NC = np.log(np.maximum(mean_NC, _TINY))
    all_NC = log_NKC.mean(axis=1)
    right_NC = mean_NC * np.diagonal(noise_CC)
    wrong_NC = np.maximum(mean_NC @ noise_CC - right_NC, _TINY)
    values = [
        log_NC - _best_other(log_NC),
        log_NC,
        np.log(np.maximum(right_NC, _TINY)) - np.log(wrong_NC),
        all_NC - _best_other(all_NC),
        log_NKC.max(axis=1),
    ]
    if labels_N is None:
        return np.stack(values, axis=-1)
    which = np.arange(len(labels_N))
    return np.stack([value[which, labels_N] for value in values], axis=-1)


def _best_other(values_NC: Floats) -> Floats:
    """The largest value of the other classes, for each class."""
    second_N1, first_N1 = np.split(np.partition(values_NC, -2, axis=1)[:, -2:], 2, axis=1)
    return np.where(values_NC < first_N1, first_N1, second_N1)


def _logistic(evidence_ME: Floats, is_wrong_M: np.ndarray, weight_M: Floats) -> Floats:
    """Returns the weights of the evidence by penalized logistic regression, float64 [E]."""
    shift_E, scale_E = evidence_ME.mean(axis=0), np.maximum(evidence_ME.std(axis=0), _TINY)
    design = np.append((evidence_ME - shift_E) / scale_E, np.ones((len(evidence_ME), 1)), axis=1)
    penalty = np.append(np.full(len(shift_E), RIDGE), _TINY)
    sign_M = np.where(is_wrong_M, 1.0, -1.0)

    def loss(weights: Floats) -> float:
        return float(
            -(weight_M * special.log_expit(sign_M * (design @ weights))).sum()
            + (penalty * weights**2).sum() / 2
        )

    def slope(weights: Floats) -> Floats:
        error_M = weight_M * (special.expit(design @ weights) - is_wrong_M)
        return np.asarray(error_M @ design + penalty * weights)

    def curvature(weights: Floats) -> Floats:
        p_M = special.expit(design @ weights)
        return np.asarray(
            (design * (weight_M * p_M * (1 - p_M))[:, None]).T @ design + np.diag(penalty)
        )

    start = np.zeros(design.shape[1])
    found = optimize.minimize(loss, start, jac=slope, hess=curvature, method="trust-exact")
    return np.asarray(found.x[:-1] / scale_E)
