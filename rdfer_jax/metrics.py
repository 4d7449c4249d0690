"""Metrics: scores of an evaluation on the host, and `StepMetrics` in the training step.

The host functions take plain arrays and compute in NumPy and float64: WAR, UAR, recall per class, confusion
matrix, AUROC, risk and coverage.

Shape letters: N examples, C classes, T distinct confidences.
"""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from numpy.typing import ArrayLike, NDArray
from scipy import special


def confusion_matrix(
    labels_N: ArrayLike,
    predictions_N: ArrayLike,
    num_classes: int,
    mask_N: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Returns the confusion matrix.

    Args:
      labels_N: the true class of each example, integers in [0, num_classes).
      predictions_N: the predicted class of each example, integers in [0, num_classes).
      num_classes: C.
      mask_N: True for the examples that count; None counts all. The labels and predictions of the
        others are ignored.

    Returns:
      int64 [C, C]: the row is the true class, the column the predicted one.

    Raises:
      ValueError: the shapes differ, a value is not an integer, or a class is out of range.
    """
    labels_N, predictions_N = np.asarray(labels_N), np.asarray(predictions_N)
    mask_N = np.ones(labels_N.shape, bool) if mask_N is None else np.asarray(mask_N, bool)
    if labels_N.ndim != 1 or not labels_N.shape == predictions_N.shape == mask_N.shape:
        raise ValueError(
            "expected labels, predictions and mask to be vectors of one length, got shapes "
            f"{labels_N.shape}, {predictions_N.shape} and {mask_N.shape}"
        )
    counted = []
    for name, values_N in (("labels", labels_N), ("predictions", predictions_N)):
        values_N = values_N[mask_N]
        if values_N.size and not np.issubdtype(values_N.dtype, np.integer):
            raise ValueError(f"{name}: expected integers, got {values_N.dtype}")
        values_N = values_N.astype(np.int64)
        if values_N.size and not 0 <= values_N.min() <= values_N.max() < num_classes:
            raise ValueError(
                f"{name}: expected values in [0, {num_classes}), got {values_N.min()} to "
                f"{values_N.max()}"
            )
        counted.append(values_N)
    cell_N = counted[0] * num_classes + counted[1]
    return np.bincount(cell_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def war(confusion_CC: ArrayLike) -> float:
    """Returns the weighted average recall, which is the accuracy.

    Args:
      confusion_CC: counts, rows true, columns predicted.

    Returns:
      In [0, 1]; NaN without examples.
    """
    confusion_CC = np.asarray(confusion_CC)
    total = confusion_CC.sum()
    return float(np.trace(confusion_CC) / total) if total else float("nan")


def recall_per_class(confusion_CC: ArrayLike) -> NDArray[np.float64]:
    """Returns the recall of each class: the share of its examples that are predicted correctly.

    Args:
      confusion_CC: counts, rows true, columns predicted.

    Returns:
      float64 [C] in [0, 1]; NaN for a class that does not occur among the labels.
    """
    confusion_CC = np.asarray(confusion_CC)
    occurrences_C = confusion_CC.sum(axis=1)
    recall_C = np.full(occurrences_C.shape, np.nan)
    np.divide(np.diagonal(confusion_CC), occurrences_C, out=recall_C, where=occurrences_C > 0)
    return recall_C


def absent_classes(confusion_CC: ArrayLike) -> list[int]:
    """Returns the indices of the classes that do not occur among the labels, in ascending order.

    `confusion_CC` holds counts, rows true, columns predicted.
    """
    return np.flatnonzero(np.asarray(confusion_CC).sum(axis=1) == 0).tolist()


def uar(confusion_CC: ArrayLike) -> float:
    """Returns the unweighted average recall, or balanced accuracy: the mean of the classes' recalls.

    A class that does not occur among the labels is excluded, as in scikit-learn; see `absent_classes`.

    Args:
      confusion_CC: counts, rows true, columns predicted.

    Returns:
      In [0, 1]; NaN without examples.
    """
    recall_C = recall_per_class(confusion_CC)
    occurs_C = ~np.isnan(recall_C)
    return float(recall_C[occurs_C].mean()) if occurs_C.any() else float("nan")


def auroc(scores_N: ArrayLike, is_positive_N: ArrayLike) -> float:
    """Returns the area under the ROC curve.

    The probability that a random positive example scores higher than a random negative one; a tie
    counts as half (the Mann-Whitney U statistic, by mid-ranks).

    Args:
      scores_N: higher means more likely positive; infinities are allowed.
      is_positive_N: booleans, or 0 and 1.

    Returns:
      In [0, 1]; NaN if there is no positive or no negative example.

    Raises:
      ValueError: as in `checked_scores`.
    """
    scores_N, is_positive_N = checked_scores(scores_N, is_positive_N)
    num_positive = int(is_positive_N.sum())
    num_negative = is_positive_N.size - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    _, places_N, counts_K = np.unique(scores_N, return_inverse=True, return_counts=True)
    ranks_K = np.cumsum(counts_K) - (counts_K - 1) / 2
    rank_sum = ranks_K[places_N][is_positive_N].sum()
    smallest_rank_sum = num_positive * (num_positive + 1) / 2
    return float((rank_sum - smallest_rank_sum) / (num_positive * num_negative))


def loss_per_example(logits_NC: ArrayLike, labels_N: ArrayLike) -> NDArray[np.float64]:
    """Returns the cross-entropy of each example, in nats.

    Args:
      logits_NC: unnormalized log-probabilities.
      labels_N: integers in [0, C).

    Returns:
      float64 [N], not negative.

    Raises:
      ValueError: a shape is wrong, or a label is not an integer or out of range.
    """
    logits_NC, labels_N = np.asarray(logits_NC, np.float64), np.asarray(labels_N)
    if logits_NC.ndim != 2 or labels_N.shape != logits_NC.shape[:1]:
        raise ValueError(
            f"expected logits [N, C] and labels [N], got {logits_NC.shape} and {labels_N.shape}"
        )
    if not labels_N.size:
        return np.zeros(0)
    num_classes = logits_NC.shape[1]
    if not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(f"labels: expected integers, got {labels_N.dtype}")
    low, high = labels_N.min(), labels_N.max()
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels: expected values in [0, {num_classes}), got {low} to {high}")
    log_probs_NC = special.log_softmax(logits_NC, axis=1)
    return -np.take_along_axis(log_probs_NC, labels_N[:, None], axis=1)[:, 0]


def divergence_from_votes(logits_NC: ArrayLike, votes_NC: ArrayLike) -> NDArray[np.float64]:
    """Returns KL(votes || prediction) of each example, in nats: how far a prediction is from the voters.

    Args:
      logits_NC: unnormalized log-probabilities.
      votes_NC: how many annotators, or which share of them, voted for each class; not negative.

    Returns:
      float64 [N], not negative; NaN for an example without votes.

    Raises:
      ValueError: the shapes differ or are not [N, C], or a vote is negative or not finite.
    """
    logits_NC, votes_NC = np.asarray(logits_NC, np.float64), np.asarray(votes_NC, np.float64)
    if logits_NC.ndim != 2 or votes_NC.shape != logits_NC.shape:
        raise ValueError(
            f"expected logits and votes [N, C], got {logits_NC.shape} and {votes_NC.shape}"
        )
    if not (np.isfinite(votes_NC) & (votes_NC >= 0)).all():
        raise ValueError("votes: expected finite numbers of at least 0")
    total_N1 = votes_NC.sum(axis=1, keepdims=True)
    share_NC = np.full(votes_NC.shape, np.nan)
    np.divide(votes_NC, total_N1, out=share_NC, where=total_N1 > 0)
    log_probs_NC = special.log_softmax(logits_NC, axis=1)
    return (special.xlogy(share_NC, share_NC) - share_NC * log_probs_NC).sum(axis=1)


class RiskCoverage(NamedTuple):
    """The error rate of the i most confident examples, for i from 1 to N.

    Attributes:
      coverage: float64 [N], i / N.
      risk: float64 [N] in [0, 1].
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


def risk_coverage(confidence_N: ArrayLike, correct_N: ArrayLike) -> RiskCoverage:
    """Returns the risk-coverage curve: the error rate if only the most confident examples count.

    Geifman and El-Yaniv (2017), "Selective classification for deep neural networks", section 2. Ties
    contribute their mean, which is the expected risk over all their orders.

    Args:
      confidence_N: higher means more confident; infinities are allowed.
      correct_N: booleans, or 0 and 1: whether the prediction is correct.

    Raises:
      ValueError: as in `checked_scores`.
    """
    confidence_N, correct_N = checked_scores(confidence_N, correct_N)
    _, tie_N = np.unique(-confidence_N, return_inverse=True)
    error_share_T = np.bincount(tie_N, ~correct_N) / np.maximum(np.bincount(tie_N), 1)
    taken_N = np.arange(1, len(tie_N) + 1)
    risk_N = np.cumsum(error_share_T[np.sort(tie_N)]) / taken_N
    return RiskCoverage(taken_N / max(len(tie_N), 1), risk_N)


def aurc(confidence_N: ArrayLike, correct_N: ArrayLike) -> float:
    """Returns the area under the risk-coverage curve, as the mean of its N risks; lower is better.

    Geifman, Uziel and El-Yaniv (2019), "Bias-reduced uncertainty estimation for deep neural
    classifiers", section 3. Arguments and errors are those of `risk_coverage`. The area is in [0, 1], the
    error rate if the confidence carries no information, and NaN without examples.
    """
    risk_N = risk_coverage(confidence_N, correct_N).risk
    return float(risk_N.mean()) if risk_N.size else float("nan")


def checked_scores(
    scores_N: ArrayLike, truth_N: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns scores and their binary truth as arrays.

    Raises:
      ValueError: the shapes differ or are not [N], a score is NaN, or a truth is not 0 or 1.
    """
    scores_N, truth_N = np.asarray(scores_N, np.float64), np.asarray(truth_N)
    if scores_N.ndim != 1 or scores_N.shape != truth_N.shape:
        raise ValueError(
            f"expected two vectors of one length, got shapes {scores_N.shape} and {truth_N.shape}"
        )
    if np.isnan(scores_N).any():
        raise ValueError(f"{np.isnan(scores_N).sum()} of {scores_N.size} scores are NaN")
    if not np.isin(truth_N, (0, 1)).all():
        raise ValueError(f"expected booleans, or 0 and 1, got {np.unique(truth_N).tolist()}")
    return scores_N, truth_N.astype(bool)


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    mean: float
    low: float
    high: float


def summarize(confusion_CC: ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """Returns the entries of results.json that follow from the confusion matrix.

    Args:
      confusion_CC: counts, rows true, columns predicted.
      class_names: C names, by index.

    Returns:
      war and uar (None without examples), recall_per_class {name: recall, or None for a class that does
      not occur}, confusion_matrix (nested lists), num_examples, absent_classes (names); plain values,
      ready for JSON.

    Raises:
      ValueError: there are not as many names as classes.
    """
    confusion_CC = np.asarray(confusion_CC)
    if confusion_CC.shape != (len(class_names), len(class_names)):
        raise ValueError(
            f"expected a matrix for {len(class_names)} class names, got shape {confusion_CC.shape}"
        )
    recall_C = recall_per_class(confusion_CC)
    return {
        "war": finite_or_none(war(confusion_CC)),
        "uar": finite_or_none(uar(confusion_CC)),
        "recall_per_class": {
            name: finite_or_none(float(recall))
            for name, recall in zip(class_names, recall_C, strict=True)
        },
        "confusion_matrix": confusion_CC.tolist(),
        "num_examples": int(confusion_CC.sum()),
        "absent_classes": [class_names[index] for index in absent_classes(confusion_CC)],
    }


def finite_or_none(value: float) -> float | None:
    """Returns the value for JSON: None if it is NaN or infinite."""
    return float(value) if np.isfinite(value) else None


@flax.struct.dataclass
class StepMetrics:
    """Metrics of steps, as sums and counts that stay on the devices.

    Under `jit`, with a batch sharded over the devices, the sums are over the whole batch. A NaN loss of a
    single example makes the mean loss NaN, so that the training loop notices.

    Attributes:
      loss: mean over examples.
      grad_norm: norm of the gradient, mean over steps.
    """

    loss: clu_metrics.Average
    grad_norm: clu_metrics.Average

    @classmethod
    def of_step(
        cls, *, grad_norm: jax.Array, mask: jax.Array | None = None, **values: jax.Array
    ) -> Self:
        """Returns the metrics of one step, summed in float32.

        Args:
          grad_norm: a scalar.
          mask: bool [N], True for the examples that count; None counts all.
          **values: [N], of any real dtype or bool, for each of the other attributes.

        Raises:
          ValueError: a shape is wrong.
        """
        return cls(
            grad_norm=_average("grad_norm", grad_norm, 0),
            **{name: _average(name, values_N, 1, mask) for name, values_N in values.items()},
        )

    def merge(self, other: Self) -> Self:
        """Returns the metrics of the steps of both."""
        return jax.tree.map(operator.add, self, other)

    def compute(self) -> dict[str, jax.Array]:
        """Returns the means, by name."""
        return {f.name: getattr(self, f.name).compute() for f in dataclasses.fields(self)}


@flax.struct.dataclass
class TrainMetrics(StepMetrics):
    """Metrics of training steps with labels.

    Attributes:
      accuracy: mean over examples, as all others: share of correct predictions of the given label.
      agreement: in [0, 1].
      clean: share of clean examples; clean, noisy and hard sum to 1.
      noisy: share of noisy examples.
      hard: share of hard examples.
    """

    accuracy: clu_metrics.Average
    agreement: clu_metrics.Average
    clean: clu_metrics.Average
    noisy: clu_metrics.Average
    hard: clu_metrics.Average


def _average(
    name: str, values: jax.Array, dimensions: int, mask: jax.Array | None = None
) -> clu_metrics.Average:
    if values.ndim != dimensions:
        kind = ("a scalar", "a vector")[dimensions]
        raise ValueError(f"{name}: expected {kind}, got shape {values.shape}")
    if mask is not None and mask.shape != values.shape:
        raise ValueError(f"mask: expected shape {values.shape}, got {mask.shape}")
    values = jnp.asarray(values, jnp.float32)
    return clu_metrics.Average.from_model_output(values, mask=mask)
