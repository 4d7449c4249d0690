"""Does a confidence predict errors? Reliability curve, ECE, excess AURC, and temperature scaling.

Shape letters: N examples, C classes, M bins.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from rdfer_jax.metrics import aurc, checked_scores, loss_per_example

#: Fewer examples than this say little about a temperature.
LEAST = 100
#: Lowest and highest logarithm of a temperature.
_BOUNDS = (-2.0, 2.0)


class Reliability(NamedTuple):
    """Accuracy in M bins of confidence, from the least to the most confident.

    Attributes:
      center: float64 [M], center of the bin.
      confidence: float64 [M], mean confidence of the bin's examples; NaN if it is empty.
      accuracy: float64 [M], accuracy of the bin's examples; NaN if it is empty.
      size: int64 [M], number of examples in the bin.
    """

    center: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    size: NDArray[np.int64]


def reliability(confidence_N: ArrayLike, correct_N: ArrayLike, bins: int = 15) -> Reliability:
    """Returns the reliability curve: accuracy over confidence, in bins of equal width.

    Bin m of M holds the confidences in ((m - 1) / M, m / M], and the first one also 0. Guo et al.
    (2017), "On calibration of modern neural networks", section 2.

    Args:
      confidence_N: in [0, 1], up to a rounding error of 1e-6.
      correct_N: booleans, or 0 and 1: whether the prediction is correct.
      bins: M.

    Raises:
      ValueError: the shapes differ, a value is out of range, or bins is not positive.
    """
    confidence_N, correct_N = checked_scores(confidence_N, correct_N)
    if not ((confidence_N >= -1e-6) & (confidence_N <= 1 + 1e-6)).all():
        low, high = confidence_N.min(), confidence_N.max()
        raise ValueError(f"confidence: expected values in [0, 1], got [{low}, {high}]")
    if bins < 1:
        raise ValueError(f"bins: expected a positive number, got {bins}")
    upper_M = np.arange(1, bins + 1) / bins
    bin_N = np.minimum(np.searchsorted(upper_M, confidence_N), bins - 1)
    count_M = np.bincount(bin_N, minlength=bins)
    sums = (np.bincount(bin_N, values_N, bins) for values_N in (confidence_N, correct_N))
    mean_confidence_M, accuracy_M = (
        np.divide(sum_M, count_M, out=np.full(bins, np.nan), where=count_M > 0) for sum_M in sums
    )
    return Reliability(upper_M - 0.5 / bins, mean_confidence_M, accuracy_M, count_M)


def ece(confidence_N: ArrayLike, correct_N: ArrayLike, bins: int = 15) -> float:
    """Returns the expected calibration error, sum_m (n_m / N) |accuracy_m - confidence_m|.

    Guo et al. (2017), "On calibration of modern neural networks", equation 3. The estimate depends on
    the number of bins.

    Args:
      confidence_N: as in `reliability`.
      correct_N: as in `reliability`.
      bins: M, of equal width.

    Returns:
      In [0, 1], 0 for a calibrated confidence; NaN without examples.

    Raises:
      ValueError: as in `reliability`.
    """
    curve = reliability(confidence_N, correct_N, bins)
    if not curve.size.any():
        return float("nan")
    gap_M = np.abs(curve.accuracy - curve.confidence)
    return float(np.average(gap_M[curve.size > 0], weights=curve.size[curve.size > 0]))


def excess_aurc(confidence_N: ArrayLike, correct_N: ArrayLike) -> float:
    """Returns E-AURC: AURC minus that of the best order, with all correct predictions first.

    Unlike AURC, it does not decrease just because there are fewer errors. Source, arguments and errors
    are those of `aurc`.
    """
    return aurc(confidence_N, correct_N) - aurc(correct_N, correct_N)


def temperature(logits_NC: ArrayLike, labels_N: ArrayLike) -> float:
    """Returns the temperature of lowest cross-entropy of softmax(logits / temperature), in [0.14, 7.4].

    Guo et al. (2017), "On calibration of modern neural networks", section 4.2.

    Args:
      logits_NC: float [N, C].
      labels_N: integers in [0, C).

    Raises:
      ValueError: as in `metrics.loss_per_example`.
    """
    logits_NC = np.asarray(logits_NC, np.float64)
    found = optimize.minimize_scalar(
        lambda log_t: loss_per_example(logits_NC / np.exp(log_t), labels_N).mean(),
        bounds=_BOUNDS,
        method="bounded",
    )
    return float(np.exp(found.x))


def calibrated(logits_NC: ArrayLike, labels_N: ArrayLike) -> dict[str, Any]:
    """Returns the temperature of a split, and what it does to the calibration error.

    Returns:
      temperature: of all examples; None with fewer than LEAST, and then the last entry is left out.
      ece: of the highest probability, as the logits are.
      ece_calibrated: the same where each half of the examples is divided by the temperature of the other.
    """
    logits_NC, labels_N = np.asarray(logits_NC, np.float64), np.asarray(labels_N)

    def error(scaled_NC: NDArray[np.float64]) -> float:
        probs_NC = special.softmax(scaled_NC, axis=-1)
        return ece(probs_NC.max(axis=-1), probs_NC.argmax(axis=-1) == labels_N)

    if len(labels_N) < LEAST:
        return {"temperature": None, "ece": error(logits_NC)}
    scaled_NC = logits_NC.copy()
    for half in (0, 1):
        other = slice(1 - half, None, 2)
        scaled_NC[half::2] /= temperature(logits_NC[other], labels_N[other])
    return {
        "temperature": temperature(logits_NC, labels_N),
        "ece": error(logits_NC),
        "ece_calibrated": error(scaled_NC),
    }
