"""Which labels of a data set are wrong, and which clips are merely hard.

Enters: the given labels; any model's predictions, one for each of K clips of a video, out of fold, that is,
by a model that was not trained on this video (one that was may have memorised its wrong label); and the
annotators' votes where they are known. Leaves: a verdict on every video, issues.csv, a summary. Plain
arrays and NumPy, no model. Scores lie in [0, 1], lower is worse.

1. Belief: the mean of the clips' distributions, and of the votes where there are some.
2. How many labels are wrong: confident learning, and from there maximum likelihood; see noise_matrix.
3. Which: those with the lowest odds of the label against the strongest other class.
4. Hard: of the others, those whose belief is flat or whose clips disagree.

Shape letters: N videos, K clips of a video, C classes.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import ArrayLike, NDArray
from scipy import special

from rdfer_jax.labels.noise_matrix import (
    Floats,
    Ints,
    NoiseFit,
    checked_labels,
    checked_probs,
    fit_noise,
)

#: Rows of issues.csv, see `write_csv`.
COLUMNS = (
    "clip_id", "kind", "label", "suggested",
    "label_quality", "ease", "agreement", "p_label", "p_suggested",
)  # fmt: skip
#: What `find_issues` calls a video.
KINDS = ("mislabelled", "hard", "fine")
#: Votes count as much as the clips, where there are some.
VOTES_WEIGHT = 0.5


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
    labels_N, clip_probs_NKC = checked_labels(labels_N), np.asarray(clip_probs_NKC)
    if clip_probs_NKC.ndim != 3 or not clip_probs_NKC.shape[1]:
        raise ValueError(
            f"clip_probs must have the shape [N, K, C], got {clip_probs_NKC.shape}; give a single "
            "prediction for each video as probs[:, None]"
        )
    clip_probs_NKC = checked_probs("clip_probs", clip_probs_NKC, labels_N)
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
    _check_names(clip_ids, findings, classes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for i in np.argsort(findings.rank).tolist():
        names = (classes[findings.label[i]], classes[findings.suggested[i]])
        scores = (f"{getattr(findings, name)[i]:.4f}" for name in COLUMNS[4:])
        writer.writerow([clip_ids[i], findings.kind[i], *names, *scores])
    epath.Path(path).write_text(text.getvalue())


def write_labels(
    path: epath.PathLike, clip_ids: Sequence[str], findings: Findings, classes: Sequence[str]
) -> None:
    """Writes the suggested label of each video that is called mislabelled, as config.data.labels takes it.

    Arguments and errors as `write_csv`.
    """
    _check_names(clip_ids, findings, classes)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("clip_id", "label"))
    for i in np.flatnonzero(findings.kind == "mislabelled").tolist():
        writer.writerow([clip_ids[i], classes[findings.suggested[i]]])
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
    return special.entr(probs_NC).sum(axis=-1)


def _label_and_best_other(probs_NC: Floats, labels_N: Ints) -> tuple[Floats, Floats]:
    """The probability of the label, and the highest one of another class."""
    at_label_NC = np.eye(probs_NC.shape[1], dtype=bool)[labels_N]
    return probs_NC[at_label_NC], np.where(at_label_NC, -1, probs_NC).max(axis=1)


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


def _check_classes(findings: Findings, classes: Sequence[str]) -> None:
    if len(classes) != len(findings.noise.given):
        raise ValueError(f"{len(classes)} names of classes for {len(findings.noise.given)} classes")


def _check_names(clip_ids: Sequence[str], findings: Findings, classes: Sequence[str]) -> None:
    _check_classes(findings, classes)
    if len(clip_ids) != len(findings.label):
        raise ValueError(f"{len(clip_ids)} clip_ids for {len(findings.label)} videos")
