"""Numbers that say how good predictions are.

Enters: labels, predictions, scores as plain arrays. Leaves: plain arrays and floats.

Two parts. On the host, in NumPy and float64, the results of an evaluation: WAR, UAR, recall per
class, the confusion matrix, AUROC, calibration, risk and coverage, intervals over seeds. In the train
step, in JAX, `TrainMetrics`: sums and counts that stay on the device until the loop reads them, so that
no step waits for a number.

Shape letters: N examples, C classes, M bins, T distinct confidences, S seeds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def confusion_matrix(
    labels_N: ArrayLike,
    predictions_N: ArrayLike,
    num_classes: int,
    mask_N: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Counts how often each class was predicted as each class.

    Args:
      labels_N: the true class of each example, integers in [0, num_classes).
      predictions_N: the predicted class of each example, integers in [0, num_classes).
      num_classes: C.
      mask_N: True for the examples that count; None counts all. Labels and predictions of the
        others may be anything.

    Returns:
      int64 [C, C]: the row is the true class, the column the predicted one.

    Raises:
      ValueError: the shapes differ, a value is no integer, or a counted class is out of range.
    """
    labels_N, predictions_N = np.asarray(labels_N), np.asarray(predictions_N)
    mask_N = np.ones(labels_N.shape, bool) if mask_N is None else np.asarray(mask_N, bool)
    if labels_N.ndim != 1 or not labels_N.shape == predictions_N.shape == mask_N.shape:
        raise ValueError(
            "labels, predictions and mask must be vectors of one length, got shapes "
            f"{labels_N.shape}, {predictions_N.shape} and {mask_N.shape}"
        )
    counted = []
    for name, values_N in (("labels", labels_N), ("predictions", predictions_N)):
        values_N = values_N[mask_N]
        if values_N.size and not np.issubdtype(values_N.dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {values_N.dtype}")
        values_N = values_N.astype(np.int64)
        if values_N.size and not 0 <= values_N.min() <= values_N.max() < num_classes:
            raise ValueError(
                f"{name} must lie in [0, {num_classes}), got values from {values_N.min()} "
                f"to {values_N.max()}"
            )
        counted.append(values_N)
    cells_N = counted[0] * num_classes + counted[1]
    return np.bincount(cells_N, minlength=num_classes**2).reshape(num_classes, num_classes)


def war(confusion_CC: ArrayLike) -> float:
    """Weighted average recall, which is accuracy: the share of examples that are right.

    Args:
      confusion_CC: counts, rows true, columns predicted.

    Returns:
      A share in [0, 1]; NaN without examples.
    """
    confusion_CC = np.asarray(confusion_CC)
    total = confusion_CC.sum()
    return float(np.trace(confusion_CC) / total) if total else float("nan")


def recall_per_class(confusion_CC: ArrayLike) -> NDArray[np.float64]:
    """The share of each class's examples that are right.

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
    """The indices of the classes that do not occur among the labels, in rising order.

    Args:
      confusion_CC: counts, rows true, columns predicted.
    """
    return np.flatnonzero(np.asarray(confusion_CC).sum(axis=1) == 0).tolist()


def uar(confusion_CC: ArrayLike) -> float:
    """Unweighted average recall, or balanced accuracy: the mean of the classes' recalls.

    A class that does not occur among the labels has no recall and is left out of the mean, as
    scikit-learn does; `absent_classes` names it.

    Args:
      confusion_CC: counts, rows true, columns predicted.

    Returns:
      A share in [0, 1]; NaN without examples.
    """
    recall_C = recall_per_class(confusion_CC)
    occurs_C = ~np.isnan(recall_C)
    return float(recall_C[occurs_C].mean()) if occurs_C.any() else float("nan")


def auroc(scores_N: ArrayLike, is_positive_N: ArrayLike) -> float:
    """The area under the ROC curve.

    The chance that a random positive example scores higher than a random negative one, where a
    tie counts as half (the Mann-Whitney U statistic, by mid-ranks).

    Args:
      scores_N: real numbers, higher means more likely positive; infinities are allowed.
      is_positive_N: booleans, or 0 and 1.

    Returns:
      A number in [0, 1]; NaN when there is no positive or no negative example.

    Raises:
      ValueError: the shapes differ, a score is NaN, or a truth is neither 0 nor 1.
    """
    scores_N, truth_N = np.asarray(scores_N, np.float64), np.asarray(is_positive_N)
    if scores_N.ndim != 1 or scores_N.shape != truth_N.shape:
        raise ValueError(
            f"scores and truth must be vectors of one length, got {scores_N.shape} "
            f"and {truth_N.shape}"
        )
    if np.isnan(scores_N).any():
        raise ValueError(f"{np.isnan(scores_N).sum()} of {scores_N.size} scores are NaN")
    is_positive_N = truth_N.astype(bool)
    if not np.array_equal(is_positive_N, truth_N):
        raise ValueError("is_positive must hold booleans, or 0 and 1")
    num_positive = int(is_positive_N.sum())
    num_negative = is_positive_N.size - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    rank_sum = stats.rankdata(scores_N)[is_positive_N].sum()
    smallest_rank_sum = num_positive * (num_positive + 1) / 2
    return float((rank_sum - smallest_rank_sum) / (num_positive * num_negative))


def loss_per_example(logits_NC: ArrayLike, labels_N: ArrayLike) -> NDArray[np.float64]:
    """Cross-entropy of each example's label, in nats.

    Args:
      logits_NC: real numbers.
      labels_N: integers in [0, C).

    Returns:
      float64 [N], not negative.

    Raises:
      ValueError: the shapes do not fit together, or a label is no integer or out of range.
    """
    logits_NC, labels_N = np.asarray(logits_NC, np.float64), np.asarray(labels_N)
    if logits_NC.ndim != 2 or labels_N.shape != logits_NC.shape[:1]:
        raise ValueError(
            f"logits must be [N, C] and labels [N], got {logits_NC.shape} and {labels_N.shape}"
        )
    if not labels_N.size:
        return np.zeros(0)
    num_classes = logits_NC.shape[1]
    if not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels_N.dtype}")
    if labels_N.min() < 0 or labels_N.max() >= num_classes:
        raise ValueError(f"labels must lie in [0, {num_classes})")
    shifted_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
    label_logit_N = np.take_along_axis(shifted_NC, labels_N[:, None], axis=1)[:, 0]
    return np.log(np.exp(shifted_NC).sum(axis=1)) - label_logit_N


class Reliability(NamedTuple):
    """How right each of M bins of confidence is, from the least to the most confident.

    Attributes:
      centre: float64 [M], the middle of the bin.
      confidence: float64 [M], mean confidence of the bin's examples; NaN if it has none.
      accuracy: float64 [M], share of them that is right; NaN if it has none.
      size: int64 [M], examples in the bin.
    """

    centre: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    size: NDArray[np.int64]


def reliability(confidence_N: ArrayLike, correct_N: ArrayLike, bins: int = 15) -> Reliability:
    """The reliability curve: accuracy against confidence, in bins of equal width.

    Bin m of M holds the confidences in ((m - 1) / M, m / M], and the first one also 0. Guo et al.
    (2017), "On calibration of modern neural networks", section 2.

    Args:
      confidence_N: numbers in [0, 1]; rounding may leave them 1e-6 outside.
      correct_N: booleans, or 0 and 1: whether the prediction was right.
      bins: M.

    Raises:
      ValueError: the shapes differ, a confidence is not in [0, 1], a correct is neither 0 nor 1,
        or there is no bin.
    """
    confidence_N, correct_N = _confidence_and_correct(confidence_N, correct_N)
    if not ((confidence_N >= -1e-6) & (confidence_N <= 1 + 1e-6)).all():
        raise ValueError("confidence must lie in [0, 1]")
    if bins < 1:
        raise ValueError(f"bins must be positive, got {bins}")
    upper_M = np.arange(1, bins + 1) / bins
    bin_N = np.minimum(np.searchsorted(upper_M, confidence_N), bins - 1)
    count_M = np.bincount(bin_N, minlength=bins)
    sums = (np.bincount(bin_N, values_N, bins) for values_N in (confidence_N, correct_N))
    mean_confidence_M, accuracy_M = (
        np.divide(sum_M, count_M, out=np.full(bins, np.nan), where=count_M > 0) for sum_M in sums
    )
    return Reliability(upper_M - 0.5 / bins, mean_confidence_M, accuracy_M, count_M)


def ece(confidence_N: ArrayLike, correct_N: ArrayLike, bins: int = 15) -> float:
    """The expected calibration error, sum_m (n_m / N) |accuracy_m - confidence_m| over the bins.

    Guo et al. (2017), "On calibration of modern neural networks", equation 3; its estimate
    depends on the number of bins.

    Args:
      confidence_N: as in `reliability`.
      correct_N: as in `reliability`.
      bins: M, of equal width.

    Returns:
      A number in [0, 1], 0 where confidence is accuracy; NaN without examples.

    Raises:
      ValueError: as in `reliability`.
    """
    curve = reliability(confidence_N, correct_N, bins)
    if not curve.size.any():
        return float("nan")
    gap_M = np.abs(curve.accuracy - curve.confidence)
    return float(np.average(gap_M[curve.size > 0], weights=curve.size[curve.size > 0]))


class RiskCoverage(NamedTuple):
    """The share of errors among the i most confident examples, for i from 1 to N.

    Attributes:
      coverage: float64 [N], i / N.
      risk: float64 [N] in [0, 1].
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


def risk_coverage(confidence_N: ArrayLike, correct_N: ArrayLike) -> RiskCoverage:
    """The risk-coverage curve: how many errors are left if only the most confident count.

    Geifman and El-Yaniv (2017), "Selective classification for deep neural networks", section 2.
    Among equal confidences any order is as good, so each of them counts as the mean of all: this is
    the expected risk of a random order, and depends on no order.

    Args:
      confidence_N: real numbers, higher is more confident; infinities are allowed.
      correct_N: booleans, or 0 and 1: whether the prediction was right.

    Raises:
      ValueError: the shapes differ, a confidence is NaN, or a correct is neither 0 nor 1.
    """
    confidence_N, correct_N = _confidence_and_correct(confidence_N, correct_N)
    _, tie_N = np.unique(-confidence_N, return_inverse=True)
    error_share_T = np.bincount(tie_N, ~correct_N) / np.maximum(np.bincount(tie_N), 1)
    taken_N = np.arange(1, len(tie_N) + 1)
    risk_N = np.cumsum(error_share_T[np.sort(tie_N)]) / taken_N
    return RiskCoverage(taken_N / max(len(tie_N), 1), risk_N)


def aurc(confidence_N: ArrayLike, correct_N: ArrayLike) -> float:
    """The area under the risk-coverage curve, as the mean of its N risks; lower is better.

    Geifman, Uziel and El-Yaniv (2019), "Bias-reduced uncertainty estimation for deep neural
    classifiers", section 3.

    Args:
      confidence_N: as in `risk_coverage`.
      correct_N: as in `risk_coverage`.

    Returns:
      A number in [0, 1]; the share of errors if the confidence says nothing; NaN without examples.

    Raises:
      ValueError: as in `risk_coverage`.
    """
    risk_N = risk_coverage(confidence_N, correct_N).risk
    return float(risk_N.mean()) if risk_N.size else float("nan")


def excess_aurc(confidence_N: ArrayLike, correct_N: ArrayLike) -> float:
    """E-AURC: AURC less that of the best order, in which every right prediction comes first.

    Unlike AURC, it does not fall only because there are fewer errors. Source, arguments and errors
    as for `aurc`.
    """
    return aurc(confidence_N, correct_N) - aurc(correct_N, correct_N)


def _confidence_and_correct(
    confidence_N: ArrayLike, correct_N: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    confidence_N, truth_N = np.asarray(confidence_N, np.float64), np.asarray(correct_N)
    if confidence_N.ndim != 1 or confidence_N.shape != truth_N.shape:
        raise ValueError(
            f"confidence and correct must be vectors of one length, got {confidence_N.shape} "
            f"and {truth_N.shape}"
        )
    if np.isnan(confidence_N).any():
        raise ValueError(f"{np.isnan(confidence_N).sum()} of {confidence_N.size} are NaN")
    correct_N = truth_N.astype(bool)
    if not np.array_equal(correct_N, truth_N):
        raise ValueError("correct must hold booleans, or 0 and 1")
    return confidence_N, correct_N


class Interval(NamedTuple):
    """A mean and the limits between which it lies with some confidence."""

    mean: float
    low: float
    high: float


def mean_interval(values_S: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of a few runs, with its confidence interval by Student's t.

    mean +- t s / sqrt(S), where s is the standard deviation with S - 1 in the denominator and t the
    (1 + confidence) / 2 quantile of Student's distribution with S - 1 degrees of freedom. It takes
    the runs for independent draws of a normal distribution.

    Args:
      values_S: a number for each of S seeds.
      confidence: in (0, 1).

    Returns:
      The mean and the limits, NaN for the limits of a single value.

    Raises:
      ValueError: there is no value, they are no vector, or confidence is not in (0, 1).
    """
    values_S = np.asarray(values_S, np.float64)
    if values_S.ndim != 1 or not values_S.size:
        raise ValueError(f"values must be a vector with at least one, got shape {values_S.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    mean, degrees = float(values_S.mean()), values_S.size - 1
    if not degrees:
        return Interval(mean, float("nan"), float("nan"))
    standard_error = float(values_S.std(ddof=1)) / values_S.size**0.5
    reach = float(stats.t.ppf((1 + confidence) / 2, degrees)) * standard_error
    return Interval(mean, mean - reach, mean + reach)


def paired_interval(differences_S: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean difference of two methods over seeds, with its interval by Student's paired t.

    Both methods ran with each seed, so what a seed does to both cancels. The difference is
    significant at 1 - confidence if the interval leaves out 0.

    Args:
      differences_S: one method's number less the other's, for each of S seeds.
      confidence: in (0, 1).

    Returns:
      As `mean_interval`, of the differences.

    Raises:
      ValueError: as `mean_interval`.
    """
    return mean_interval(differences_S, confidence)


def summarize(confusion_CC: ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """The part of results.json that follows from the confusion matrix.

    Args:
      confusion_CC: counts, rows true, columns predicted.
      class_names: C names, in the order of the classes' indices.

    Returns:
      war and uar (shares, or None without examples), recall_per_class {name: share, or None
      for a class that does not occur}, confusion_matrix (nested lists), num_examples,
      absent_classes (names). Every value is plain Python that JSON can hold.

    Raises:
      ValueError: the names do not fit the matrix.
    """
    confusion_CC = np.asarray(confusion_CC)
    if confusion_CC.shape != (len(class_names), len(class_names)):
        raise ValueError(f"{len(class_names)} class names for a matrix {confusion_CC.shape}")
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
    """The value as JSON can hold it: None if it is NaN or infinite."""
    return float(value) if np.isfinite(value) else None


@flax.struct.dataclass
class ExampleAverage(clu_metrics.Average):
    """The mean over examples of the output with a given name, summed in float32."""

    @classmethod
    def of(cls, name: str) -> type["ExampleAverage"]:
        """Returns the average of the output `name`, a vector [N]; an optional `mask` [N] counts.

        Unlike clu's `from_output`, it sums bfloat16 and bool in float32, and refuses a mask of
        another length instead of ignoring it.
        """

        @flax.struct.dataclass
        class Of(cls):  # type: ignore[misc, valid-type]
            @classmethod
            def from_model_output(cls, **outputs: Any) -> "Of":
                values_N = jnp.asarray(outputs[name], jnp.float32)
                if values_N.ndim != 1:
                    raise ValueError(f"'{name}' must be a vector, got shape {values_N.shape}")
                return super().from_model_output(values_N, mask=outputs.get("mask"))

        return Of


@flax.struct.dataclass
class StepAverage(clu_metrics.Average):
    """The mean over steps of the output with a given name, a scalar for each step."""

    @classmethod
    def of(cls, name: str) -> type["StepAverage"]:
        """Returns the average over steps of the scalar output `name`."""

        @flax.struct.dataclass
        class Of(cls):  # type: ignore[misc, valid-type]
            @classmethod
            def from_model_output(cls, **outputs: Any) -> "Of":
                value = jnp.asarray(outputs[name], jnp.float32)
                if value.ndim != 0:
                    raise ValueError(f"'{name}' must be a scalar, got shape {value.shape}")
                return super().from_model_output(value)

        return Of


@flax.struct.dataclass
class TrainMetrics(clu_metrics.Collection):
    """What the train step reports: sums and counts that merge over steps.

    In the step: `TrainMetrics.single_from_model_output(loss=loss_N, accuracy=correct_N, ...,
    grad_norm=norm)`, with `mask=mask_N` when some examples are padding. Across steps:
    `metrics.merge(other)`. On the host: `metrics.compute()`, a dict of means. Under `jit` with a
    batch sharded over devices the sums are over the whole batch, no `axis_name` needed.

    A NaN loss of a single counted example makes the mean loss NaN, so the loop sees it.
    """

    loss: ExampleAverage.of("loss")  # type: ignore[valid-type]
    accuracy: ExampleAverage.of("accuracy")  # type: ignore[valid-type]
    agreement: ExampleAverage.of("agreement")  # type: ignore[valid-type]
    # Shares of the three kinds of example; they sum to 1.
    clean: ExampleAverage.of("clean")  # type: ignore[valid-type]
    noisy: ExampleAverage.of("noisy")  # type: ignore[valid-type]
    hard: ExampleAverage.of("hard")  # type: ignore[valid-type]
    grad_norm: StepAverage.of("grad_norm")  # type: ignore[valid-type]
