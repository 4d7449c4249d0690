"""Which labels of a data set are wrong, and which clips are merely hard.

Enters: the given labels; any model's predictions, one for each of K clips of a video, out of fold, that is,
by a model that was not trained on this video (one that was may have memorised its wrong label); and the
annotators' votes where they are known. Leaves: a verdict on every video, issues.csv, a summary. Plain
arrays and NumPy, no model. Scores lie in [0, 1], lower is worse.

1. Belief: the mean of the clips' distributions, and of the votes where there are some.
2. How many labels are wrong: `noise_matrix` counts by confident learning. It takes every confident mistake
   of the model for a wrong label, so `fit_noise` goes on from there by maximum likelihood.
3. Which: those with the lowest odds of the label against the strongest other class.
4. Hard: of the others, those whose belief is flat or whose clips disagree.

Shape letters: N videos, K clips of a video, C classes.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Rows of issues.csv, see `write_csv`.
COLUMNS = (
    "clip_id", "kind", "label", "suggested",
    "label_quality", "ease", "agreement", "p_label", "p_suggested",
)  # fmt: skip
#: What `find_issues` calls a video.
KINDS = ("mislabelled", "hard", "fine")
#: Votes count as much as the clips, where there are some.
VOTES_WEIGHT = 0.5
#: How far a row of probabilities may be from the sum 1.
SUM_TOLERANCE = 1e-3
#: Rounds of `fit_noise`; more change its result by less than it errs.
ROUNDS = 50
#: Videos that `fit_noise` adds to every way of being wrong, and to every class at the overall rate.
PRIOR_CELL, PRIOR_CLASS = 1.0, 10.0
SHARPNESS_LIMITS = (0.2, 5.0)


class NoiseMatrix(NamedTuple):
    """What confident learning says of the labels.

    Attributes:
      given: float64 [C, C], P(given = column | true = row); rows sum to 1.
      joint: float64 [C, C], P(given = row, true = column), as in the paper; sums to 1.
      share: share of the labels that is wrong, the part of joint off its diagonal.
      absent: classes that confident learning finds no video of. Nothing is known of their row of
        `given`: it says that they are labelled rightly.
    """

    given: Floats
    joint: Floats
    share: float
    absent: tuple[int, ...]


class NoiseFit(NamedTuple):
    """The noise under which the given labels are most likely.

    Attributes:
      given: float64 [C, C], P(given = column | true = row); rows sum to 1.
      share: expected share of the labels that is wrong.
      sharpness: s; above 1 the probabilities were not confident enough, below 1 too confident.
      belief: float64 [N, C], the probabilities to the power s, normalised.
    """

    given: Floats
    share: float
    sharpness: float
    belief: Floats


@dataclasses.dataclass(frozen=True)
class Findings:
    """A verdict on each of N videos. A score in [0, 1] is worse the lower it is.

    Attributes:
      kind: str [N], one of KINDS.
      label: int64 [N], the given label.
      suggested: int64 [N], the class with the highest belief; the label where they are level.
      label_quality: float64 [N] in [0, 1], p(label) / (p(label) + p(strongest other class)); below 1/2
        where another class is suggested.
      ease: float64 [N] in [0, 1], lower where the belief is flat or the clips disagree.
      agreement: float64 [N] in [0, 1], see `clip_agreement`.
      p_label: float64 [N], belief in the label.
      p_suggested: float64 [N], belief in the suggested class.
      rank: int64 [N], 0 for the most suspicious label; equal ones in the order of the videos.
      noise: how much noise there is.
    """

    kind: NDArray[np.str_]
    label: Ints
    suggested: Ints
    label_quality: Floats
    ease: Floats
    agreement: Floats
    p_label: Floats
    p_suggested: Floats
    rank: Ints
    noise: NoiseFit


def find_issues(
    labels_N: ArrayLike,
    clip_probs_NKC: ArrayLike,
    votes_NC: ArrayLike | None = None,
    hard_below: float = 0.5,
) -> Findings:
    """Finds wrong labels and hard clips.

    Mislabelled: as many videos as `fit_noise` expects wrong labels, those of the lowest label_quality, if
    another class is suggested. This is confident learning's pruning by noise rate, with the fitted rate.
    Hard: of the others, those of ease below hard_below; ease = A (1 - H(b) / log C), with the agreement A
    and the clips' belief b as sharp as `fit_noise` finds right. Fine: the rest.

    Args:
      labels_N: int [N], the given labels, in [0, C).
      clip_probs_NKC: float [N, K, C], distributions that a model predicts out of fold for K clips of
        each video, of any K.
      votes_NC: [N, C], annotators' votes in any unit; a row of zeros where they are unknown. With votes
        the belief is the mean of the clips' mean and the shares of the votes. Leave them out where
        the labels are nothing but their majority.
      hard_below: more videos are called hard the higher it is.

    Raises:
      ValueError: an argument does not fit, by shape, type or value.
    """
    labels_N, clip_probs_NKC = _checked_labels(labels_N), np.asarray(clip_probs_NKC)
    if clip_probs_NKC.ndim != 3 or not clip_probs_NKC.shape[1]:
        raise ValueError(
            f"clip_probs must have the shape [N, K, C], got {clip_probs_NKC.shape}; give a single "
            "prediction for each video as probs[:, None]"
        )
    clip_probs_NKC = _checked_probs("clip_probs", clip_probs_NKC, labels_N)
    if not 0 <= hard_below <= 1:
        raise ValueError(f"hard_below must lie in [0, 1], got {hard_below}")
    mean_NC = clip_probs_NKC.mean(axis=1)
    clips = noise = fit_noise(labels_N, mean_NC)
    belief_NC, sharp_NC = mean_NC, clips.belief
    if votes_NC is not None:
        # The sharpness is the model's: votes are as sharp as they are.
        belief_NC, sharp_NC = (_with_votes(b, votes_NC) for b in (mean_NC, clips.belief))
        noise = fit_noise(labels_N, belief_NC)
    p_label_N, p_other_N = _label_and_best_other(belief_NC, labels_N)
    quality_N = p_label_N / (p_label_N + p_other_N)
    suggested_N = np.where(p_label_N >= p_other_N, labels_N, belief_NC.argmax(axis=1))
    order_N = np.lexsort((p_label_N, quality_N))
    rank_N = np.empty_like(order_N)
    rank_N[order_N] = np.arange(len(order_N))
    agreement_N = clip_agreement(clip_probs_NKC)
    ease_N = agreement_N * (1 - np.clip(_entropy(sharp_NC) / np.log(sharp_NC.shape[1]), 0, 1))
    wrong_N = (rank_N < round(noise.share * len(labels_N))) & (suggested_N != labels_N)
    return Findings(
        kind=np.select([wrong_N, ease_N < hard_below], KINDS[:2], KINDS[2]),
        label=labels_N,
        suggested=suggested_N,
        label_quality=quality_N,
        ease=ease_N,
        agreement=agreement_N,
        p_label=p_label_N,
        p_suggested=np.maximum(p_label_N, p_other_N),
        rank=rank_N,
        noise=noise,
    )


def noise_matrix(labels_N: ArrayLike, probs_NC: ArrayLike) -> NoiseMatrix:
    """Estimates how labels are wrong by confident learning.

    Northcutt, Jiang and Chuang (2021), "Confident learning", section 3.1. The threshold of class j is the
    mean probability of j where j is given, t_j = mean {p_j : given = j}. A video counts as truly j, its
    most probable class among those with p_j >= t_j; without such a class it does not count. The counts
    C[given, true] are scaled to the number of videos of each given class, then to the sum 1.

    Where no video of a given class counts, its labels are taken for right. A class that is never given
    has no threshold and is no video's true class.

    Args:
      labels_N: int [N], the given labels, in [0, C).
      probs_NC: float [N, C], a distribution for each video.

    Raises:
      ValueError: an argument does not fit, by shape, type or value.
    """
    labels_N, probs_NC = _checked_pair(labels_N, probs_NC)
    num_classes = probs_NC.shape[1]
    given_C = np.bincount(labels_N, minlength=num_classes)
    p_label_N = probs_NC[np.arange(len(labels_N)), labels_N]
    sum_C = np.bincount(labels_N, p_label_N, num_classes)
    threshold_C = np.where(given_C > 0, sum_C / np.maximum(given_C, 1), np.inf)
    # A mean of equal numbers may be above them by rounding.
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
    """Estimates how labels are wrong by maximum likelihood, with the model's confidence.

    P(given = y | video) = sum_c b_c T[c, y] with the noise matrix T and the belief b_c ~ p_c^s. EM: the
    truth q_c ~ b_c T[c, y]; T from its counts, as Dawid and Skene (1979); one Newton step for s, by which
    b comes nearer to q; from confident learning's matrix and s = 1 on. Without s, what a model is unsure
    of would count as wrong labels, for a model that is right more often than it claims (s > 1).

    The counts are smoothed: PRIOR_CELL videos in every cell spread a class's wrong labels over the other
    classes, and PRIOR_CLASS videos draw its rate of wrong labels to the overall one.

    Args:
      labels_N: int [N], the given labels, in [0, C).
      probs_NC: float [N, C], a distribution for each video.

    Raises:
      ValueError: an argument does not fit, by shape, type or value.
    """
    labels_N, probs_NC = _checked_pair(labels_N, probs_NC)
    given_NC = np.eye(probs_NC.shape[1])[labels_N]
    log_NC = np.log(np.maximum(probs_NC, 1e-9))
    noise_CC = _smoothed(noise_matrix(labels_N, probs_NC).joint.T * len(labels_N))
    belief_NC, sharpness = _softmax(log_NC), 1.0
    for _ in range(ROUNDS):
        truth_NC = _truth(belief_NC, noise_CC, labels_N)
        noise_CC = _smoothed(truth_NC.T @ given_NC)
        slope = ((truth_NC - belief_NC) * log_NC).sum()
        mean_N = (belief_NC * log_NC).sum(axis=1)
        curvature = (belief_NC * log_NC**2).sum() - (mean_N**2).sum()
        sharpness = float(np.clip(sharpness + slope / max(curvature, 1e-9), *SHARPNESS_LIMITS))
        belief_NC = _softmax(sharpness * log_NC)
    right_N = (_truth(belief_NC, noise_CC, labels_N) * given_NC).sum(axis=1)
    return NoiseFit(noise_CC, float(1 - right_N.mean()), sharpness, belief_NC)


def clip_agreement(clip_probs_NKC: Floats) -> Floats:
    """One minus the normalised Jensen-Shannon divergence of the clips, float64 [N] in [0, 1].

    A = 1 - (H(mean_k p_k) - mean_k H(p_k)) / log min(K, C), as agreement.soft_agreement, after Lin (1991).
    A single clip agrees with itself: 1.
    """
    most = np.log(min(clip_probs_NKC.shape[1:]))
    if most == 0:
        return np.ones(len(clip_probs_NKC))
    divergence_N = _entropy(clip_probs_NKC.mean(axis=1)) - _entropy(clip_probs_NKC).mean(axis=1)
    return 1 - np.clip(divergence_N / most, 0, 1)


def write_csv(
    path: epath.PathLike, clip_ids: Sequence[str], findings: Findings, classes: Sequence[str]
) -> None:
    """Writes one row for each video, the most suspicious first; numbers with four decimals.

    Args:
      path: of the file; may be gs://. Overwritten if it exists.
      clip_ids: N names, in the order of the findings.
      findings: of `find_issues`.
      classes: C names.

    Raises:
      ValueError: there are not N names of clips, or not C names of classes.
    """
    _check_classes(findings, classes)
    if len(clip_ids) != len(findings.label):
        raise ValueError(f"{len(clip_ids)} clip_ids for {len(findings.label)} videos")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for i in np.argsort(findings.rank).tolist():
        names = (classes[findings.label[i]], classes[findings.suggested[i]])
        scores = (f"{getattr(findings, name)[i]:.4f}" for name in COLUMNS[4:])
        writer.writerow([clip_ids[i], findings.kind[i], *names, *scores])
    epath.Path(path).write_text(text.getvalue())


def summary(findings: Findings, classes: Sequence[str]) -> dict[str, Any]:
    """Counts and the fitted noise, as plain Python that JSON can hold.

    Args:
      findings: of `find_issues`.
      classes: C names.

    Returns:
      num_videos and the number of each kind; noise_share, the expected share of wrong labels; sharpness;
      noise_matrix, nested lists, P(given = column | true = row); per_class {name: {num_videos, the number
      of each kind}} by given label; absent_classes, those never given; confusions, which label is
      mislabelled instead of which class how often, the most frequent first.

    Raises:
      ValueError: there are not C names of classes.
    """
    _check_classes(findings, classes)
    wrong_N = findings.kind == "mislabelled"
    pairs, counts = np.unique(
        np.stack([findings.label, findings.suggested], 1)[wrong_N], axis=0, return_counts=True
    )
    per_class = {name: _kinds(findings.kind[findings.label == c]) for c, name in enumerate(classes)}
    return {
        **_kinds(findings.kind),
        "noise_share": findings.noise.share,
        "sharpness": findings.noise.sharpness,
        "noise_matrix": findings.noise.given.tolist(),
        "per_class": per_class,
        "absent_classes": [n for n, kinds in per_class.items() if not kinds["num_videos"]],
        "confusions": [
            {
                "label": classes[pairs[i, 0]],
                "suggested": classes[pairs[i, 1]],
                "count": int(counts[i]),
            }
            for i in np.argsort(-counts, kind="stable")
        ],
    }


def _kinds(kind_N: NDArray[np.str_]) -> dict[str, int]:
    return {"num_videos": len(kind_N)} | {kind: int((kind_N == kind).sum()) for kind in KINDS}


def _entropy(probs_NC: Floats) -> Floats:
    """In nats, over the last axis."""
    return -(probs_NC * np.log(np.maximum(probs_NC, 1e-300))).sum(axis=-1)


def _softmax(logits_NC: Floats) -> Floats:
    weights_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return weights_NC / weights_NC.sum(axis=1, keepdims=True)


def _label_and_best_other(probs_NC: Floats, labels_N: Ints) -> tuple[Floats, Floats]:
    """The probability of the label, and the highest one of another class."""
    at_label_NC = np.eye(probs_NC.shape[1], dtype=bool)[labels_N]
    return probs_NC[at_label_NC], np.where(at_label_NC, -1, probs_NC).max(axis=1)


def _truth(belief_NC: Floats, noise_CC: Floats, labels_N: Ints) -> Floats:
    """The distribution of the true class where the label is known, too."""
    joint_NC = belief_NC * noise_CC.T[labels_N]
    return joint_NC / joint_NC.sum(axis=1, keepdims=True)


def _smoothed(count_CC: Floats) -> Floats:
    """Numbers of videos, rows true, columns given -> the noise matrix, see `fit_noise`."""
    other_CC = 1 - np.eye(len(count_CC))
    wrong_CC = count_CC * other_CC
    wrong_C, total_C = wrong_CC.sum(axis=1), count_CC.sum(axis=1)
    share = wrong_C.sum() / total_C.sum()
    rate_C1 = ((wrong_C + PRIOR_CLASS * share) / (total_C + PRIOR_CLASS))[:, None]
    wrong_CC += PRIOR_CELL * other_CC
    return (1 - rate_C1) * (1 - other_CC) + rate_C1 * wrong_CC / wrong_CC.sum(axis=1, keepdims=True)


def _with_votes(probs_NC: Floats, votes_NC: ArrayLike) -> Floats:
    """Blends the shares of the votes in, where there are votes."""
    votes_NC = np.asarray(votes_NC, np.float64)
    if votes_NC.shape != probs_NC.shape:
        raise ValueError(
            f"votes must have the shape {probs_NC.shape} of [N, C], got {votes_NC.shape}"
        )
    bad_NC = ~(np.isfinite(votes_NC) & (votes_NC >= 0))
    if bad_NC.any():
        row, value = np.argwhere(bad_NC)[0][0], votes_NC[bad_NC][0]
        raise ValueError(f"votes of video {row} hold {value}; give zeros where they are unknown")
    total_N1 = votes_NC.sum(axis=1, keepdims=True)
    weight_N1 = VOTES_WEIGHT * (total_N1 > 0)
    return (1 - weight_N1) * probs_NC + weight_N1 * votes_NC / np.where(total_N1 > 0, total_N1, 1)


def _checked_pair(labels_N: ArrayLike, probs_NC: ArrayLike) -> tuple[Ints, Floats]:
    labels_N, probs_NC = _checked_labels(labels_N), np.asarray(probs_NC)
    if probs_NC.ndim != 2:
        raise ValueError(f"probs must have the shape [N, C], got {probs_NC.shape}")
    return labels_N, _checked_probs("probs", probs_NC, labels_N)


def _checked_labels(labels_N: ArrayLike) -> Ints:
    labels_N = np.asarray(labels_N)
    if labels_N.ndim != 1 or not labels_N.size or not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(
            "labels must be integers of the shape [N] with at least one, got "
            f"{labels_N.dtype} of {labels_N.shape}; give classes as indices from 0 on"
        )
    return labels_N.astype(np.int64)


def _checked_probs(name: str, probs: NDArray[Any], labels_N: Ints) -> Floats:
    """Returns distributions over the last axis as float64 that sum to 1, if they fit the labels."""
    num_classes = probs.shape[-1]
    if len(probs) != len(labels_N) or num_classes < 2:
        raise ValueError(
            f"{name} must have {len(labels_N)} rows, one for each label, and 2 classes or more; "
            f"got the shape {probs.shape}"
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
            f"{name} of video {bad[0][0]} hold {value}; give probabilities, such as a softmax of logits"
        )
    total = probs.sum(axis=-1, keepdims=True)
    wrong = np.argwhere(np.abs(total[..., 0] - 1) > SUM_TOLERANCE)
    if len(wrong):
        value = total[..., 0][tuple(wrong[0])]
        raise ValueError(
            f"{name} of video {wrong[0][0]} sum to {value:.4g} and not to 1; give probabilities, such "
            "as a softmax of logits"
        )
    return probs / total


def _check_classes(findings: Findings, classes: Sequence[str]) -> None:
    if len(classes) != len(findings.noise.given):
        raise ValueError(f"{len(classes)} names of classes for {len(findings.noise.given)} classes")
