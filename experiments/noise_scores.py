"""Scores of videos from the predictions for their clips: is the label wrong, is the video hard?

Enters: the predictions of one epoch, as `Evidence`. Leaves: a float64 number for each video, higher for a
label that is more likely wrong, or a video that is more likely hard. NumPy on the host, written from the
formulas and independent of `rdfer_jax.agreement`, so that tests can compare the two.

Notation: y is the given label, p the distribution of the video, p_k that of its clip k of K,
pm = mean_k p_k, c* = argmax pm, A the soft agreement.

To add a score, write a function of `Evidence` and add it to `SCORES`.

Shape letters: B videos, K clips, N classes, E epochs.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Predictions for B videos after one epoch.

    Attributes:
      label: int [B], the given labels.
      logp: float64 [B, N], log p.
      clip_logp: float64 [B, K, N], log p_k.
    """

    label: NDArray[np.integer]
    logp: Vector
    clip_logp: Vector

    @classmethod
    def of(cls, logits_BN: ArrayLike, clip_logits_BKN: ArrayLike, label_B: ArrayLike) -> "Evidence":
        """Returns evidence from logits.

        Args:
          logits_BN: logits of the videos.
          clip_logits_BKN: logits of the clips.
          label_B: integers in [0, N).

        Raises:
          ValueError: the shapes do not match, a label is out of range, or a logit is not finite.
        """
        logits_BN = np.asarray(logits_BN, np.float64)
        clips_BKN = np.asarray(clip_logits_BKN, np.float64)
        label_B = np.asarray(label_B)
        if (
            label_B.ndim != 1
            or clips_BKN.ndim != 3
            or not clips_BKN.shape[1]
            or logits_BN.shape != (len(label_B), clips_BKN.shape[2])
            or clips_BKN.shape[0] != len(label_B)
        ):
            raise ValueError(
                "logits must be [B, N], logits of clips [B, K, N] and labels [B], got "
                f"{logits_BN.shape}, {clips_BKN.shape} and {label_B.shape}"
            )
        num_classes = logits_BN.shape[1]
        if not np.issubdtype(label_B.dtype, np.integer):
            raise ValueError(f"labels must be integers, got {label_B.dtype}")
        if not ((label_B >= 0) & (label_B < num_classes)).all():
            raise ValueError(f"labels must lie in [0, {num_classes})")
        if not (np.isfinite(logits_BN).all() and np.isfinite(clips_BKN).all()):
            raise ValueError("logits must be finite")
        return cls(
            label_B,
            special.log_softmax(logits_BN, axis=-1),
            special.log_softmax(clips_BKN, axis=-1),
        )

    @functools.cached_property
    def mean(self) -> Vector:
        """pm, float64 [B, N]."""
        return np.exp(self.clip_logp).mean(axis=1)

    @functools.cached_property
    def clip_logp_label(self) -> Vector:
        """log p_k(y), float64 [B, K]."""
        return np.take_along_axis(self.clip_logp, self.label[:, None, None], axis=2)[..., 0]

    @functools.cached_property
    def votes(self) -> Vector:
        """The share of the clips that vote for each class, float64 [B, N]."""
        best_BK = self.clip_logp.argmax(axis=2)
        return np.eye(self.clip_logp.shape[2])[best_BK].mean(axis=1)

    def at_label(self, values_BN: Vector) -> Vector:
        """The value of each video's label, float64 [B]."""
        return np.take_along_axis(values_BN, self.label[:, None], axis=1)[:, 0]


def loss(evidence: Evidence) -> Vector:
    """-log p(y), the cross-entropy of the video, in nats."""
    return -evidence.at_label(evidence.logp)


def clips_loss(evidence: Evidence) -> Vector:
    """-mean_k log p_k(y), the cross-entropy of the clips, in nats."""
    return -evidence.clip_logp_label.mean(axis=1)


def no_support(evidence: Evidence) -> Vector:
    """1 - max_k p_k(y): no clip supports the label."""
    return 1 - np.exp(evidence.clip_logp_label.max(axis=1))


def margin(evidence: Evidence) -> Vector:
    """pm(c*) - pm(y): by how much the consensus beats the label."""
    return evidence.mean.max(axis=1) - evidence.at_label(evidence.mean)


def log_odds(evidence: Evidence) -> Vector:
    """log max_{n != y} pm(n) - log pm(y): the odds of the strongest other class against the label.

    Unlike the margin, it also ranks the videos whose consensus is the label.
    """
    # K pm(n) for each class: their common factor cancels.
    log_BN = special.logsumexp(evidence.clip_logp, axis=1)
    is_label_BN = np.arange(log_BN.shape[1]) == evidence.label[:, None]
    return np.where(is_label_BN, -np.inf, log_BN).max(axis=1) - evidence.at_label(log_BN)


def agreement_elsewhere(evidence: Evidence) -> Vector:
    """A [c* != y]: the clips agree on another class than the label."""
    return soft_agreement(evidence) * (evidence.mean.argmax(axis=1) != evidence.label)


def votes_against(evidence: Evidence) -> Vector:
    """1 - (1/K) sum_k [argmax p_k = y]: the share of the clips that vote against the label."""
    return 1 - evidence.at_label(evidence.votes)


def soft_agreement(evidence: Evidence) -> Vector:
    """A = 1 - (H(pm) - mean_k H(p_k)) / log min(K, N), in [0, 1]; 1 for a single clip.

    One minus the normalized Jensen-Shannon divergence, Lin (1991), "Divergence measures based on the
    Shannon entropy".
    """
    clips, classes = evidence.clip_logp.shape[1:]
    if min(clips, classes) == 1:
        return np.ones(len(evidence.label))
    mean_entropy_B = special.entr(np.exp(evidence.clip_logp)).sum(axis=-1).mean(axis=1)
    divergence_B = special.entr(evidence.mean).sum(axis=-1) - mean_entropy_B
    return 1 - np.clip(divergence_B / np.log(min(clips, classes)), 0, 1)


def vote_agreement(evidence: Evidence) -> Vector:
    """max_c (1/K) sum_k [argmax p_k = c], in [1/K, 1]: the share of the most voted class."""
    return evidence.votes.max(axis=1)


def confidence(evidence: Evidence) -> Vector:
    """max_n pm(n), of the clips' mean distribution, in [1/N, 1]."""
    return evidence.mean.max(axis=1)


def video_confidence(evidence: Evidence) -> Vector:
    """max_n p(n), the maximum softmax of the video, in [1/N, 1].

    Hendrycks and Gimpel (2017), "A baseline for detecting misclassified and out-of-distribution
    examples in neural networks".
    """
    return np.exp(evidence.logp.max(axis=1))


class Score(NamedTuple):
    """A score and its purpose.

    Attributes:
      function: maps evidence to float64 [B].
      flipped: whether it ranks videos by the probability of a wrong label.
      hard: whether it ranks videos by difficulty.
      memory: whether its mean over the epochs so far is measured, too.
    """

    function: Callable[[Evidence], Vector]
    flipped: bool = False
    hard: bool = False
    memory: bool = False


#: The scores, by their name in tables and charts.
SCORES: dict[str, Score] = {
    "loss of the video": Score(loss, flipped=True, hard=True, memory=True),
    "loss of the clips": Score(clips_loss, flipped=True, memory=True),
    "no clip supports the label": Score(no_support, flipped=True),
    "margin over the label": Score(margin, flipped=True),
    "log-odds of another class": Score(log_odds, flipped=True),
    "agreement on another class": Score(agreement_elsewhere, flipped=True),
    "votes against the label": Score(votes_against, flipped=True),
    "1 - soft agreement": Score(lambda e: 1 - soft_agreement(e), hard=True, memory=True),
    "1 - vote agreement": Score(lambda e: 1 - vote_agreement(e), hard=True, memory=True),
    "1 - max softmax of the clips": Score(lambda e: 1 - confidence(e), hard=True),
    "1 - max softmax of the video": Score(lambda e: 1 - video_confidence(e), hard=True),
}
#: Suffix of the name of a mean over epochs.
MEMORY = ", mean of epochs"


def names(goal: str) -> list[str]:
    """Returns the names of the scores for a goal, each followed by that of its mean over epochs.

    Args:
      goal: what to find, "flipped" or "hard".
    """
    return [
        name + suffix
        for name, score in SCORES.items()
        if getattr(score, goal)
        for suffix in ("", *([MEMORY] if score.memory else []))
    ]


def over_epochs(evidences: Iterable[Evidence]) -> dict[str, NDArray[np.float64]]:
    """Returns every score after every epoch, and means over the epochs so far if there are several.

    Args:
      evidences: evidence of the same videos after each of E epochs, in order; consumed one by one.

    Returns:
      float64 [E, B] by name.

    Raises:
      ValueError: there is no epoch, or the number of videos differs.
    """
    rows: dict[str, list[Vector]] = {name: [] for name in SCORES}
    for evidence in evidences:
        for name, score in SCORES.items():
            rows[name].append(score.function(evidence))
    found: dict[str, NDArray[np.float64]] = {}
    for name, score in SCORES.items():
        values_EB = found[name] = np.stack(rows[name])
        if score.memory and len(values_EB) > 1:
            epochs_E1 = np.arange(1, len(values_EB) + 1)[:, None]
            found[name + MEMORY] = np.cumsum(values_EB, axis=0) / epochs_E1
    return found
