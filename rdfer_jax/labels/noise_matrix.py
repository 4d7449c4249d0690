"""Estimates label noise: P(given | true), and the share of wrong labels.

Enters: the given labels, and out-of-fold class probabilities of each video. Leaves: noise matrices, by
confident learning and by maximum likelihood, and the wrong labels among the surest videos. Plain arrays
and NumPy, no model. labels/share.py makes one estimate of these three.

Shape letters: N videos, C classes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Tolerance of the sum of a row of probabilities.
SUM_TOLERANCE = 1e-3
#: Iterations of `fit_noise`; more change its result by less than its error.
ROUNDS = 50
#: Most videos that `fit_noise` reads, evenly spaced; more change its result by less than its error.
FIT_VIDEOS = 10_000
#: Share of each predicted class that is sure, see `count_sure`.
SURE = 0.2
#: Pseudo-counts of `fit_noise`: videos for each wrong cell, and videos for each class at the overall rate.
PRIOR_CELL, PRIOR_CLASS = 1.0, 10.0
#: Pseudo-counts of `posterior`, videos of each class with a right label.
PRIOR_RIGHT = 10.0
SHARPNESS_LIMITS = (0.2, 5.0)


class NoiseMatrix(NamedTuple):
    """Label noise according to confident learning.

    Attributes:
      given: float64 [C, C], P(given = column | true = row); rows sum to 1.
      joint: float64 [C, C], P(given = row, true = column), as in the paper; sums to 1.
      share: share of wrong labels, the off-diagonal part of joint.
      absent: classes without any video according to confident learning. Their row of `given` is
        unknown and set to that of right labels.
    """

    given: Floats
    joint: Floats
    share: float
    absent: tuple[int, ...]


class NoiseFit(NamedTuple):
    """The label noise under which the given labels are most likely.

    Attributes:
      given: float64 [C, C], P(given = column | true = row); rows sum to 1.
      share: expected share of wrong labels.
      sharpness: s; above 1 the probabilities were underconfident, below 1 overconfident.
      belief: float64 [N, C], the probabilities to the power s, normalized.
    """

    given: Floats
    share: float
    sharpness: float
    belief: Floats


def noise_matrix(labels_N: ArrayLike, probs_NC: ArrayLike) -> NoiseMatrix:
    """Estimates label noise by confident learning.

    Northcutt, Jiang and Chuang (2021), "Confident learning", section 3.1. The threshold of class j is the
    mean probability of j where j is given, t_j = mean {p_j : given = j}. A video is counted as truly j
    for its most probable class j among those with p_j >= t_j, and not counted if there is none. The counts
    C[given, true] are scaled to the number of videos of each given class, then to the sum 1.

    If no video of a given class is counted, its labels are considered right. A class that is never given
    has no threshold and is the true class of no video.

    Args:
      labels_N: int [N], the given labels, in [0, C).
      probs_NC: float [N, C], class probabilities of each video.

    Raises:
      ValueError: an argument has the wrong shape, type or value.
    """
    labels_N, probs_NC = checked_pair(labels_N, probs_NC)
    num_classes = probs_NC.shape[1]
    given_C = np.bincount(labels_N, minlength=num_classes)
    p_label_N = probs_NC[np.arange(len(labels_N)), labels_N]
    sum_C = np.bincount(labels_N, p_label_N, num_classes)
    threshold_C = np.where(given_C > 0, sum_C / np.maximum(given_C, 1), np.inf)
    # By rounding, the mean of equal numbers may exceed them.
    above_NC = probs_NC >= threshold_C - 1e-6
    true_N = np.where(above_NC, probs_NC, -1).argmax(axis=1)
    counts_N = above_NC.any(axis=1)
    cells_N = (labels_N * num_classes + true_N)[counts_N]
    count_CC = np.bincount(cells_N, minlength=num_classes**2).reshape(num_classes, num_classes)
    count_CC = count_CC + np.diag(count_CC.sum(axis=1) == 0)
    joint_CC = count_CC / count_CC.sum(axis=1, keepdims=True) * given_C[:, None] / len(labels_N)
    true_C = joint_CC.sum(axis=0)
    absent_C = true_C == 0
    given_CC = (joint_CC / np.where(absent_C, 1, true_C)).T + np.diag(absent_C)
    share = float(1 - np.trace(joint_CC))
    return NoiseMatrix(
        given_CC, joint_CC, max(share, 0.0), tuple(np.flatnonzero(absent_C).tolist())
    )


def fit_noise(labels_N: ArrayLike, probs_NC: ArrayLike) -> NoiseFit:
    """Estimates label noise and the confidence of the model jointly by maximum likelihood.

    P(given = y | video) = sum_c b_c T[c, y] with the noise matrix T and the belief b_c ~ p_c^s. EM: the
    truth q_c ~ b_c T[c, y]; T from its counts, as Dawid and Skene (1979); one Newton step for s, which
    moves b towards q. It starts from the matrix of confident learning and s = 1. Without s, the uncertainty
    of an underconfident model (s > 1) would count as wrong labels.

    The counts are smoothed, see `smoothed`.

    Arguments and errors as in `noise_matrix`.
    """
    labels_N, probs_NC = checked_pair(labels_N, probs_NC)
    all_log_NC = np.log(np.maximum(probs_NC, 1e-9))
    few = slice(None, None, -(-len(labels_N) // FIT_VIDEOS))
    labels_N, log_NC = labels_N[few], all_log_NC[few]
    given_NC = np.eye(probs_NC.shape[1])[labels_N]
    noise_CC = smoothed(noise_matrix(labels_N, probs_NC[few]).joint.T * len(labels_N))
    belief_NC, sharpness = special.softmax(log_NC, axis=1), 1.0
    for _ in range(ROUNDS):
        truth_NC = _truth(belief_NC, noise_CC, labels_N)
        noise_CC = smoothed(truth_NC.T @ given_NC)
        slope = ((truth_NC - belief_NC) * log_NC).sum()
        mean_N = (belief_NC * log_NC).sum(axis=1)
        curvature = (belief_NC * log_NC**2).sum() - (mean_N**2).sum()
        sharpness = float(np.clip(sharpness + slope / max(curvature, 1e-9), *SHARPNESS_LIMITS))
        belief_NC = special.softmax(sharpness * log_NC, axis=1)
    right_N = (_truth(belief_NC, noise_CC, labels_N) * given_NC).sum(axis=1)
    belief_NC = special.softmax(sharpness * all_log_NC, axis=1)
    return NoiseFit(noise_CC, float(1 - right_N.mean()), sharpness, belief_NC)


def count_sure(labels_N: ArrayLike, probs_NC: ArrayLike) -> tuple[int, int]:
    """Returns how many of the surest videos have another label than predicted, and how many these are.

    For each predicted class, the fifth (SURE, rounded up) with the highest probability of it. Networks
    rarely err there, so the others are wrong labels; where no label is wrong, there are next to none. Only
    the order of the probabilities counts: the share is the same whether they speak of the true or of the
    given labels, and however sure they are. It is that of all videos if labels are wrong as often in hard
    videos as in easy ones, and too low if more often. After the anchor points of Liu and Tao (2016),
    "Classification with noisy labels by importance reweighting", and confident.wrong_share_of_sure.

    Arguments and errors as in `noise_matrix`.
    """
    labels_N, probs_NC = checked_pair(labels_N, probs_NC)
    predicted_N, peak_N = probs_NC.argmax(axis=1), probs_NC.max(axis=1)
    order_N = np.lexsort((-peak_N, predicted_N))
    count_C = np.bincount(predicted_N, minlength=probs_NC.shape[1])
    place_N = np.arange(len(order_N)) - np.repeat(count_C.cumsum() - count_C, count_C)
    sure_N = order_N[place_N < np.ceil(SURE * count_C)[predicted_N[order_N]]]
    return int((predicted_N[sure_N] != labels_N[sure_N]).sum()), len(sure_N)


def posterior(labels_N: ArrayLike, probs_NC: ArrayLike) -> Floats:
    """Returns the distribution of each video's true class given its label, float64 [N, C].

    Bayes' rule with the prediction as the prior and the noise matrix T of the same predictions,
    P(c | p, y) = p_c T_cy / sum_j p_j T_jy; T by `noise_matrix`, with PRIOR_RIGHT more videos with a right
    label in each class. No true label is used.

    Arguments and errors as in `noise_matrix`.
    """
    labels_N, probs_NC = checked_pair(labels_N, probs_NC)
    count_CC = noise_matrix(labels_N, probs_NC).joint.T * len(labels_N)
    count_CC += PRIOR_RIGHT * np.eye(len(count_CC))
    noise_CC = count_CC / count_CC.sum(axis=1, keepdims=True)
    joint_NC = probs_NC * noise_CC.T[labels_N]
    total_N1 = joint_NC.sum(axis=1, keepdims=True)
    # Where no class is possible, the label is believed.
    label_NC = np.eye(len(count_CC))[labels_N]
    return np.where(total_N1 > 0, joint_NC / np.where(total_N1 > 0, total_N1, 1), label_NC)


def _truth(belief_NC: Floats, noise_CC: Floats, labels_N: Ints) -> Floats:
    """The distribution of the true class given the label."""
    joint_NC = belief_NC * noise_CC.T[labels_N]
    return joint_NC / joint_NC.sum(axis=1, keepdims=True)


def smoothed(count_CC: Floats) -> Floats:
    """Returns the noise matrix P(given = column | true = row) of counts of videos, float64 [C, C].

    PRIOR_CELL videos in every cell spread the wrong labels of a class over the other classes, and
    PRIOR_CLASS videos pull its rate of wrong labels towards the overall rate.
    """
    other_CC = 1 - np.eye(len(count_CC))
    wrong_CC = count_CC * other_CC
    wrong_C, total_C = wrong_CC.sum(axis=1), count_CC.sum(axis=1)
    share = wrong_C.sum() / total_C.sum()
    rate_C1 = ((wrong_C + PRIOR_CLASS * share) / (total_C + PRIOR_CLASS))[:, None]
    wrong_CC += PRIOR_CELL * other_CC
    return (1 - rate_C1) * (1 - other_CC) + rate_C1 * wrong_CC / wrong_CC.sum(axis=1, keepdims=True)


def checked_pair(labels_N: ArrayLike, probs_NC: ArrayLike) -> tuple[Ints, Floats]:
    """Returns labels as int64 [N] and their distributions as float64 [N, C] that sum to 1.

    Raises:
      ValueError: an argument has the wrong shape, type or value.
    """
    labels_N, probs_NC = checked_labels(labels_N), np.asarray(probs_NC)
    if probs_NC.ndim != 2:
        raise ValueError(f"probs: expected shape [N, C], got {probs_NC.shape}")
    return labels_N, checked_probs("probs", probs_NC, labels_N)


def checked_labels(labels_N: ArrayLike) -> Ints:
    """Returns labels as int64 [N]; raises ValueError unless they are integers of shape [N], N > 0."""
    labels_N = np.asarray(labels_N)
    if labels_N.ndim != 1 or not labels_N.size or not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(
            "labels: expected integers of shape [N] with N > 0, got "
            f"{labels_N.dtype} of shape {labels_N.shape}; use class indices from 0"
        )
    return labels_N.astype(np.int64)


def checked_probs(name: str, probs: NDArray[Any], labels_N: Ints) -> Floats:
    """Returns distributions over the last axis as float64 that sum to 1.

    Raises:
      ValueError: they are no distributions or do not match the labels; the message calls them `name`.
    """
    num_classes = probs.shape[-1]
    if len(probs) != len(labels_N) or num_classes < 2:
        raise ValueError(
            f"{name}: expected {len(labels_N)} rows, one per label, and at least 2 classes; "
            f"got shape {probs.shape}"
        )
    if labels_N.min() < 0 or labels_N.max() >= num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes}), as {name} have {num_classes} classes; got "
            f"values from {labels_N.min()} to {labels_N.max()}"
        )
    probs = probs.astype(np.float64)
    bad = np.argwhere(~(np.isfinite(probs) & (probs >= 0)))
    if len(bad):
        value = probs[tuple(bad[0])]
        raise ValueError(
            f"{name} of video {bad[0][0]} contain {value}; expected probabilities, such as a softmax "
            "of logits"
        )
    total = probs.sum(axis=-1, keepdims=True)
    wrong = np.argwhere(np.abs(total[..., 0] - 1) > SUM_TOLERANCE)
    if len(wrong):
        value = total[..., 0][tuple(wrong[0])]
        raise ValueError(
            f"{name} of video {wrong[0][0]} sum to {value:.4g} instead of 1; expected probabilities, "
            "such as a softmax of logits"
        )
    return probs / total
