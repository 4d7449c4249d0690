"""Statistics over seeds: means and paired differences with their intervals, and how tables show them.

Input: results of training runs by seed. Output: intervals, their JSON form, their text in percent.

Shape letters: S seeds.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rdfer_jax.metrics import Interval

#: Results of the runs that differ only in their seed: what results.json holds, by seed.
BySeed = Mapping[int, Mapping[str, Any]]


def mean_interval(values_S: ArrayLike, confidence: float = 0.95) -> Interval:
    """Returns the mean over seeds with its confidence interval by Student's t.

    mean +- t s / sqrt(S), where s is the standard deviation with S - 1 in the denominator and t the
    (1 + confidence) / 2 quantile of Student's distribution with S - 1 degrees of freedom. Assumes
    independent samples of a normal distribution. For two methods that ran with the same seeds, pass the
    differences: this is the paired t-test, significant if the interval excludes 0.

    Args:
      values_S: a number for each of S seeds.
      confidence: in (0, 1).

    Returns:
      The mean and its limits; the limits are NaN for a single value.

    Raises:
      ValueError: values_S is empty or not a vector, or confidence is not in (0, 1).
    """
    values_S = np.asarray(values_S, np.float64)
    if values_S.ndim != 1 or not values_S.size:
        raise ValueError(f"expected a vector with at least one value, got shape {values_S.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a value in (0, 1), got {confidence}")
    mean = float(values_S.mean())
    if values_S.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    error = float(stats.sem(values_S))
    if not error:  # equal values, of which SciPy's interval would be NaN
        return Interval(mean, mean, mean)
    low, high = stats.t.interval(confidence, values_S.size - 1, loc=mean, scale=error)
    return Interval(mean, float(low), float(high))


def mean(by_seed: BySeed, column: str) -> Interval | None:
    """Returns mean and 95 % interval of a column over the seeds that have it; None if none has."""
    values = [row[column] for row in by_seed.values() if row.get(column) is not None]
    return mean_interval(values) if values else None


def paired(
    first: BySeed, second: BySeed, column: str, second_column: str | None = None
) -> Interval | None:
    """Returns the mean difference first - second, and its interval by Student's paired t-test.

    Args:
      first: results by seed.
      second: results by seed; only seeds that both have count.
      column: the compared column.
      second_column: column of `second`, if it is another one.

    Returns:
      None if the two share no seed with values.
    """
    pairs = [
        (first[seed].get(column), second[seed].get(second_column or column))
        for seed in sorted(set(first) & set(second))
    ]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return mean_interval(differences) if differences else None


def compared(by_seed: BySeed, versus: BySeed, columns: Iterable[str]) -> dict[str, Any]:
    """Returns mean and paired difference of each column for JSON: COLUMN and COLUMN_difference."""
    found = {}
    for column in columns:
        found[column] = to_dict(mean(by_seed, column))
        found[f"{column}_difference"] = to_dict(paired(by_seed, versus, column))
    return found


def to_dict(interval: Interval | None) -> dict[str, float] | None:
    """Returns an interval for JSON: mean, low, high."""
    return interval._asdict() if interval else None


def percent(interval: Mapping[str, float] | None) -> str:
    """Returns a mean and half the width of its interval in percent, such as "84.7 ± 0.5"."""
    if interval is None:
        return "-"
    half = (interval["high"] - interval["low"]) / 2
    return f"{100 * interval['mean']:.1f}" + (f" ± {100 * half:.1f}" if np.isfinite(half) else "")


def points(difference: Mapping[str, float] | None) -> str:
    """Returns a difference and its interval in percentage points, such as "+3.0 (+0.1 to +5.9)"."""
    if difference is None:
        return "-"
    text = f"{100 * difference['mean']:+.1f}"
    if np.isfinite(difference["low"]):
        text += f" ({100 * difference['low']:+.1f} to {100 * difference['high']:+.1f})"
    return text


def shown(row: Mapping[str, Any], columns: Iterable[str], with_difference: bool) -> list[str]:
    """Returns the cells of a row of `compared` for a table: mean, or "mean; difference", of each column."""
    return [
        percent(row[name]) + (f"; {points(row[f'{name}_difference'])}" if with_difference else "")
        for name in columns
    ]
