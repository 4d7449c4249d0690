"""How many labels are wrong? An interval, an estimate, and whether the predictions can tell.

Enters: the given labels and out-of-fold class probabilities, or the labels of videos that people checked.
Leaves: `Share`. Plain arrays and NumPy, no model.

Predictions alone do not identify the share. Probabilities that were learned from wrong labels are explained
best by "nothing is wrong", and a weak network errs as if labels were wrong. So two estimates that err to
different sides are the ends of an interval.

Shape letters: N videos, C classes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rdfer_jax.labels import noise_matrix
from rdfer_jax.labels.noise_matrix import Floats

#: Part of the upper end by which the ends of the interval may differ before the share cannot be told.
APART = 1 / 3
#: Votes that a video needs, and the share of voted labels that must differ from the most frequent vote, for
#: the votes to tell the share: labels that were made from the votes say nothing about themselves.
VOTES, NOT_FROM_VOTES = 3, 0.01
#: Confidence of the interval whose lower limit is `Share.sure`.
SURE_CONFIDENCE = 0.8


class Share(NamedTuple):
    """The share of wrong labels.

    Attributes:
      estimate: the share; see `of_predictions`.
      low: lower end of the interval.
      high: upper end of the interval.
      sure: a share that the true one hardly falls below, for promises about a list.
      told: whether the ends agree; if not, the estimate is a guess.
      source: predictions, votes or review.
    """

    estimate: float
    low: float
    high: float
    sure: float
    told: bool
    source: str

    def describe(self) -> str:
        """Returns a clause such as "an estimated 20.1% of the labels are wrong (17.3% to 22.0%)".

        Predictions cannot see that hard videos are mislabeled more often, so the clause says that.
        """
        ends = f"{self.low:.1%} to {self.high:.1%}"
        if not self.told:
            return f"how many labels are wrong cannot be told from these predictions ({ends})"
        by = {"votes": " by the annotators' votes", "review": " by the review"}.get(self.source, "")
        text = f"an estimated {self.estimate:.1%} of the labels are wrong{by} ({ends})"
        if self.source == "predictions":
            text += ", more if hard clips are mislabeled more often than easy ones"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Returns the share for JSON, and its text; the estimate is None if it cannot be told."""
        told = {"estimate": self.estimate if self.told else None, "text": self.describe()}
        return self._asdict() | told


def of_predictions(labels_N: ArrayLike, probs_NC: ArrayLike, fitted: float) -> Share:
    """Estimates the share of wrong labels from predictions.

    estimate: the geometric mean of the share among the surest videos, `noise_matrix.count_sure`, which is
      too low if hard videos have wrong labels more often than easy ones, and of that of confident learning,
      which is too high as it counts confident mistakes of the network, too. It is 0 if either is.
    low: the least of the fitted share and the 95 % limits (Wilson) of that among the surest videos.
    high: that of confident learning, or the upper limit.
    told: whether the fitted share and that of confident learning differ by at most a third of the larger.

    Args:
      labels_N: int [N], the given labels, in [0, C).
      probs_NC: float [N, C], out-of-fold class probabilities of each video.
      fitted: the share of `noise_matrix.fit_noise` for the same predictions.

    Raises:
      ValueError: an argument has the wrong shape, type or value.
    """
    counted = noise_matrix.noise_matrix(labels_N, probs_NC).share
    wrong, total = noise_matrix.count_sure(labels_N, probs_NC)
    low, high = limits(wrong, total)
    return Share(
        estimate=math.sqrt(wrong / total * counted),
        low=min(fitted, low),
        high=max(counted, high),
        sure=min(counted, limits(wrong, total, SURE_CONFIDENCE)[0]),
        told=abs(counted - fitted) <= APART * max(counted, fitted),
        source="predictions",
    )


def of_votes(labels_N: ArrayLike, votes_NC: ArrayLike) -> Share | None:
    """Estimates the share of wrong labels from annotators' votes: wrong if another class has more.

    Args:
      labels_N: int [N], the given labels, in [0, C).
      votes_NC: [N, C], numbers of votes. Videos count that have VOTES or more, and one most frequent class.

    Returns:
      The share with its 95 % limits (Wilson); None if no video counts, or if the labels were made from the
      votes, that is, if at most 1 % differ from them.
    """
    labels_N, votes_NC = np.asarray(labels_N), np.asarray(votes_NC, np.float64)
    most_N1 = votes_NC.max(axis=1, keepdims=True)
    counts_N = (votes_NC.sum(axis=1) >= VOTES) & ((votes_NC == most_N1).sum(axis=1) == 1)
    wrong, total = int((votes_NC.argmax(axis=1) != labels_N)[counts_N].sum()), int(counts_N.sum())
    if not total or wrong <= NOT_FROM_VOTES * total:
        return None
    low, high = limits(wrong, total)
    return Share(wrong / total, low, high, limits(wrong, total, SURE_CONFIDENCE)[0], True, "votes")


def of_strata(counts: Sequence[int], samples: Sequence[tuple[int, int]]) -> Share:
    """Estimates the share of wrong labels from a reviewed sample of each stratum.

    The mean of the strata's shares by their size; its limits by those of the strata (Wilson) with the
    method of Zou and Donner (2008), "Construction of confidence limits about effect measures".

    Args:
      counts: the number of videos of each stratum.
      samples: the number of wrong labels and of reviewed ones of each; some of every stratum with videos.
    """

    def interval(confidence: float) -> tuple[float, float, float]:
        mean = below = above = 0.0
        for count, (wrong, total) in zip(counts, samples, strict=True):
            if count:
                weight, share = count / sum(counts), wrong / total
                low, high = limits(wrong, total, confidence)
                mean += weight * share
                below += (weight * (share - low)) ** 2
                above += (weight * (high - share)) ** 2
        return mean, mean - math.sqrt(below), mean + math.sqrt(above)

    mean, low, high = interval(0.95)
    return Share(
        mean, max(low, 0), min(high, 1), max(interval(SURE_CONFIDENCE)[1], 0), True, "review"
    )


def matrix(labels_N: ArrayLike, probs_NC: ArrayLike, share: float) -> Floats:
    """Returns P(given = column | true = row) with `share` wrong labels, float64 [C, C].

    The smoothed matrix of confident learning, with its wrong labels scaled; no more than all labels of a
    class are wrong.
    """
    counted = noise_matrix.noise_matrix(labels_N, probs_NC)
    given_CC = noise_matrix.smoothed(counted.joint.T * len(np.asarray(labels_N)))
    wrong_CC = (
        given_CC * (1 - np.eye(len(given_CC))) * (share / counted.share if counted.share else 0)
    )
    wrong_CC /= np.maximum(wrong_CC.sum(axis=1, keepdims=True), 1)
    return wrong_CC + np.diag(1 - wrong_CC.sum(axis=1))


def limits(part: int, whole: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the limits of the Wilson score interval of a share; whole > 0."""
    found = stats.binomtest(part, whole).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)
