"""Finds wrong labels and hard clips from the predictions of any model.

Enters: the given labels; out-of-fold predictions for each video, or for each of its K clips, that is, by a
model that was not trained on this video (otherwise it may have memorized a wrong label); and the votes of
annotators, if known. Leaves: a verdict on every video, issues.csv, a summary. Plain arrays and NumPy, no
model. Scores lie in [0, 1], lower is worse.

1. Belief: the mean of the clips' distributions, averaged with the votes if there are any.
2. How many labels are wrong: see share.
3. Which labels: the most suspicious ones, see suspicion.
4. Hard clips: of the others, those with a flat belief or disagreeing clips.

Shape letters: N videos, K clips of a video, C classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import ArrayLike, NDArray
from scipy import special

from rdfer_jax.labels import csv_file, promise
from rdfer_jax.labels import share as share_lib
from rdfer_jax.labels.noise_matrix import (
    Floats,
    Ints,
    checked_labels,
    checked_probs,
    fit_noise,
)
from rdfer_jax.labels.share import Share
from rdfer_jax.labels.suspicion import suspicion

#: Columns of issues.csv, see `write_issues`.
COLUMNS = (
    "clip_id", "kind", "why", "label", "suggested",
    "false_alarms", "label_quality", "ease", "agreement", "p_label", "p_suggested",
)  # fmt: skip
_SCORES = COLUMNS[5:]
#: Verdicts of `find_label_issues`.
KINDS = ("mislabeled", "hard", "fine")
#: Why a video is hard: its clips differ; each shows the same two classes; or none is sure.
WHY = ("clips disagree", "two expressions", "unsure")
#: Two expressions have together at least the first probability, and the second one at least the other.
TWO, SECOND = 0.8, 0.25
#: Weight of the votes in the belief; the clips have the rest.
VOTES_WEIGHT = 0.5


@dataclasses.dataclass(frozen=True)
class Findings:
    """Verdicts on N videos. Scores lie in [0, 1]; lower is worse.

    Attributes:
      kind: str [N], one of KINDS.
      why: str [N], one of WHY for hard videos, else "".
      label: int64 [N], the given label.
      suggested: int64 [N], the class with the highest belief; the label in case of a tie.
      false_alarms: float64 [N] in [0, 1], the share of right labels that is expected among this and all
        more suspicious labels; see suspicion.Suspicion.
      label_quality: float64 [N] in [0, 1], p(label) / (p(label) + p(strongest other class)); below 1/2
        if another class is suggested.
      ease: float64 [N] in [0, 1], lower for a flat belief or disagreeing clips.
      agreement: float64 [N] in [0, 1], see `clip_agreement`.
      p_label: float64 [N], belief in the label.
      p_suggested: float64 [N], belief in the suggested class.
      rank: int64 [N], 0 for the most suspicious label; ties in the order of the videos.
      share: how many labels are wrong.
      given: float64 [C, C], the noise matrix P(given = column | true = row).
      sharpness: above 1 the probabilities are underconfident, below 1 overconfident; see NoiseFit.
      kept: what a person's decisions promise of the list; None without decisions or without a promise.
    """

    kind: NDArray[np.str_]
    why: NDArray[np.str_]
    label: Ints
    suggested: Ints
    false_alarms: Floats
    label_quality: Floats
    ease: Floats
    agreement: Floats
    p_label: Floats
    p_suggested: Floats
    rank: Ints
    share: Share
    given: Floats
    sharpness: float
    kept: promise.Kept | None


def find_label_issues(
    labels_N: ArrayLike,
    probs: ArrayLike,
    votes_NC: ArrayLike | None = None,
    hard_below: float = 0.5,
    precision: float | None = None,
    share: Share | None = None,
    decided: promise.Decided | None = None,
) -> Findings:
    """Finds wrong labels and hard clips.

    Mislabeled: the most suspicious videos for which another class is suggested, of as many as are estimated
    to be wrong; with `precision`, as many as keep the promise that at least this share of them is wrong.
    The promise rests on injected wrong labels, or on a person's decisions if there are any.
    Hard: of the others, those with ease below hard_below; ease = A (1 - H(b) / log C), with the agreement
    A and the clips' belief b at the sharpness that `fit_noise` estimates. Fine: the rest.

    Args:
      labels_N: int [N], the given labels, in [0, C).
      probs: float [N, C], out-of-fold class probabilities of each video; or [N, K, C], those of K clips
        of each video, which also tell hard videos by the disagreement of their clips.
      votes_NC: [N, C], annotators' votes in any unit; a row of zeros if unknown. With votes, the belief
        is the mean of the clips' mean and the shares of the votes. Leave them out if the labels are
        just their majority.
      hard_below: threshold of ease, in [0, 1]; higher values give more hard videos.
      precision: share of the mislabeled videos whose label is wrong, in (0, 1]; None: no promise.
      share: how many labels are wrong, if it is known better than from the predictions.
      decided: decisions on a random sample of an earlier list from the same predictions. A list with a
        promise is then the part of that list which `promise.keep` finds. Labels that were found right are
        not listed.

    Raises:
      ValueError: an argument has the wrong shape, type or value, or the decisions are of other predictions.
    """
    labels_N, probs = checked_labels(labels_N), np.asarray(probs)
    if probs.ndim not in (2, 3) or (probs.ndim == 3 and not probs.shape[1]):
        raise ValueError(f"probs: expected shape [N, C] or [N, K, C], got {probs.shape}")
    clip_probs_NKC = checked_probs("probs", probs, labels_N)
    if clip_probs_NKC.ndim == 2:
        clip_probs_NKC = clip_probs_NKC[:, None]
    if not 0 <= hard_below <= 1:
        raise ValueError(f"hard_below must lie in [0, 1], got {hard_below}")
    if precision is not None and not 0 < precision <= 1:
        raise ValueError(f"precision must lie in (0, 1], got {precision}")
    agreement_N = clip_agreement(clip_probs_NKC)
    fitted = fit_noise(labels_N, clip_probs_NKC.mean(axis=1))
    sharp_NC = fitted.belief
    if votes_NC is not None:
        # The sharpness concerns the model only; votes stay as they are.
        clip_probs_NKC = _with_votes(clip_probs_NKC, votes_NC)
        sharp_NC = _with_votes(sharp_NC[:, None], votes_NC)[:, 0]
        fitted = fit_noise(labels_N, clip_probs_NKC.mean(axis=1))
    belief_NC = clip_probs_NKC.mean(axis=1)
    predicted = share_lib.of_predictions(labels_N, belief_NC, fitted.share)
    share = share or predicted
    suspicious = suspicion(labels_N, clip_probs_NKC)
    # Wrong labels that predictions do not see are unlike the injected ones: knowing that there are more
    # must not lengthen a list with a promise. See docs/evidence/audit.md.
    false_alarms_N = suspicious.false_alarms(min(share.sure, predicted.sure))
    p_label_N, p_other_N = _label_and_best_other(belief_NC, labels_N)
    suggested_N = np.where(p_label_N >= p_other_N, labels_N, belief_NC.argmax(axis=1))
    rank_N = np.empty_like(labels_N)
    rank_N[np.argsort(-suspicious.score, kind="stable")] = np.arange(len(labels_N))
    kept = None
    if precision is None:
        listed_N = rank_N < round(share.estimate * len(labels_N))
    elif decided is None:
        listed_N = false_alarms_N <= 1 - precision + 1e-9
    else:
        by_rank = _candidates(rank_N, suggested_N, labels_N)
        kept = promise.keep(by_rank[: decided.drawn_from], decided, precision)
        listed_N = np.isin(np.arange(len(labels_N)), by_rank[: kept.length])
    if decided is not None:
        listed_N[decided.place[~decided.wrong]] = False
    flat_N = np.clip(_entropy(sharp_NC) / np.log(sharp_NC.shape[1]), 0, 1)
    ease_N = agreement_N * (1 - flat_N)
    kind_N = np.select(
        [listed_N & (suggested_N != labels_N), ease_N < hard_below], KINDS[:2], KINDS[2]
    )
    best_N2 = np.sort(sharp_NC, axis=1)[:, -2:]
    two_N = (best_N2.sum(axis=1) >= TWO) & (best_N2[:, 0] >= SECOND)
    why_N = np.select([agreement_N < 1 - flat_N, two_N], WHY[:2], WHY[2])
    return Findings(
        kind=kind_N,
        why=np.where(kind_N == "hard", why_N, ""),
        label=labels_N,
        suggested=suggested_N,
        false_alarms=false_alarms_N,
        label_quality=p_label_N / (p_label_N + p_other_N),
        ease=ease_N,
        agreement=agreement_N,
        p_label=p_label_N,
        p_suggested=np.maximum(p_label_N, p_other_N),
        rank=rank_N,
        share=share,
        given=share_lib.matrix(labels_N, belief_NC, share.estimate),
        sharpness=fitted.sharpness,
        kept=kept,
    )


def clip_agreement(clip_probs_NKC: Floats) -> Floats:
    """Returns one minus the normalized Jensen-Shannon divergence of the clips, float64 [N] in [0, 1].

    A = 1 - (H(mean_k p_k) - mean_k H(p_k)) / log min(K, C), as agreement.soft_agreement, after Lin (1991).
    It is 1 for a single clip.
    """
    most = np.log(min(clip_probs_NKC.shape[1:]))
    if most == 0:
        return np.ones(len(clip_probs_NKC))
    divergence_N = _entropy(clip_probs_NKC.mean(axis=1)) - _entropy(clip_probs_NKC).mean(axis=1)
    return 1 - np.clip(divergence_N / most, 0, 1)


def write_issues(
    path: epath.PathLike, clip_ids: Sequence[str], findings: Findings, classes: Sequence[str]
) -> None:
    """Writes issues.csv: one row per video, most suspicious first; numbers with four decimals.

    Args:
      path: the file; may be gs://. An existing file is replaced.
      clip_ids: N names, in the order of the findings.
      findings: the result of `find_label_issues`.
      classes: C names.

    Raises:
      ValueError: the number of clip names is not N, or that of class names not C.
    """
    _check_names(clip_ids, findings, classes)
    rows = [
        [
            clip_ids[i], findings.kind[i], findings.why[i],
            classes[findings.label[i]], classes[findings.suggested[i]],
            *(f"{getattr(findings, score)[i]:.4f}" for score in _SCORES),
        ]
        for i in np.argsort(findings.rank).tolist()
    ]  # fmt: skip
    csv_file.write(path, COLUMNS, rows)


def write_labels(
    path: epath.PathLike,
    clip_ids: Sequence[str],
    findings: Findings,
    classes: Sequence[str],
    decisions: Mapping[int, int] | None = None,
) -> None:
    """Writes the suggested labels of all mislabeled videos, in the format of config.data.labels.

    Other arguments and errors as in `write_issues`.

    Args:
      decisions: by place, the classes that a person finds right; they replace what is suggested.
    """
    _check_names(clip_ids, findings, classes)
    listed = np.flatnonzero(findings.kind == "mislabeled").tolist()
    labels = {i: int(findings.suggested[i]) for i in listed} | dict(decisions or {})
    changed = [
        (clip_ids[i], classes[c]) for i, c in sorted(labels.items()) if c != findings.label[i]
    ]
    csv_file.write(path, ("clip_id", "label"), changed)


def candidates(findings: Findings) -> Ints:
    """Returns the videos for which another class is suggested, int64, most suspicious first."""
    return _candidates(findings.rank, findings.suggested, findings.label)


def _candidates(rank_N: Ints, suggested_N: Ints, labels_N: Ints) -> Ints:
    by_rank = np.argsort(rank_N)
    return by_rank[suggested_N[by_rank] != labels_N[by_rank]]


def unsuspicious(findings: Findings) -> Findings:
    """Returns the findings of networks that know nothing: every video is fine, its label suggested."""
    return dataclasses.replace(
        findings,
        kind=np.full(len(findings.label), "fine"),
        why=np.full(len(findings.label), ""),
        suggested=findings.label,
    )


def summary(findings: Findings, classes: Sequence[str]) -> dict[str, Any]:
    """Returns counts and the estimated noise as plain Python values for JSON.

    Args:
      findings: the result of `find_label_issues`.
      classes: C names.

    Returns:
      num_videos and the number of each kind; why, the number of hard videos by reason; share, see
      share.Share; list_precision, the share of the mislabeled videos that is expected to be wrong, or the
      least by a person's decisions, None if there are none; kept, see promise.Kept; sharpness;
      noise_matrix, nested lists, P(given = column | true = row); per_class {name: {num_videos, the number
      of each kind}} by given label; absent_classes, those never given; confusions, the counts of
      mislabeled videos by label and suggested class, most frequent first.

    Raises:
      ValueError: the number of class names is not C.
    """
    _check_classes(findings, classes)
    wrong_N = findings.kind == "mislabeled"
    pairs, counts = np.unique(
        np.stack([findings.label, findings.suggested], 1)[wrong_N], axis=0, return_counts=True
    )
    list_precision = float(1 - findings.false_alarms[wrong_N].max()) if wrong_N.any() else None
    if findings.kept:
        list_precision = findings.kept.low
    per_class = {name: _kinds(findings.kind[findings.label == c]) for c, name in enumerate(classes)}
    return {
        **_kinds(findings.kind),
        "why": {why: int((findings.why == why).sum()) for why in WHY},
        "share": findings.share.to_dict(),
        "list_precision": list_precision,
        "kept": findings.kept._asdict() if findings.kept else None,
        "sharpness": findings.sharpness,
        "noise_matrix": findings.given.tolist(),
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
    """Entropy over the last axis, in nats."""
    return special.entr(probs_NC).sum(axis=-1)


def _label_and_best_other(probs_NC: Floats, labels_N: Ints) -> tuple[Floats, Floats]:
    """The probability of the label, and the highest probability of another class."""
    at_label_NC = np.eye(probs_NC.shape[1], dtype=bool)[labels_N]
    return probs_NC[at_label_NC], np.where(at_label_NC, -1, probs_NC).max(axis=1)


def _with_votes(probs_NKC: Floats, votes_NC: ArrayLike) -> Floats:
    """Averages the probabilities of each clip with the shares of the votes, where there are votes."""
    votes_NC = np.asarray(votes_NC, np.float64)
    shape = (len(probs_NKC), probs_NKC.shape[2])
    if votes_NC.shape != shape:
        raise ValueError(f"votes: expected shape {shape} of [N, C], got {votes_NC.shape}")
    bad_NC = ~(np.isfinite(votes_NC) & (votes_NC >= 0))
    if bad_NC.any():
        row, value = np.argwhere(bad_NC)[0][0], votes_NC[bad_NC][0]
        raise ValueError(f"votes of video {row} contain {value}; use zeros if they are unknown")
    total_N1 = votes_NC.sum(axis=1, keepdims=True)
    weight_N11 = (VOTES_WEIGHT * (total_N1 > 0))[..., None]
    shares_N1C = (votes_NC / np.where(total_N1 > 0, total_N1, 1))[:, None]
    return (1 - weight_N11) * probs_NKC + weight_N11 * shares_N1C


def _check_classes(findings: Findings, classes: Sequence[str]) -> None:
    if len(classes) != len(findings.given):
        raise ValueError(f"{len(classes)} class names for {len(findings.given)} classes")


def _check_names(clip_ids: Sequence[str], findings: Findings, classes: Sequence[str]) -> None:
    _check_classes(findings, classes)
    if len(clip_ids) != len(findings.label):
        raise ValueError(f"{len(clip_ids)} clip_ids for {len(findings.label)} videos")
