"""Statistics over seeds: means and paired differences with their intervals, and how tables show them.

Enters: results of training runs by seed. Leaves: intervals, their JSON form, their text in percent.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rdfer_jax import metrics
from rdfer_jax.metrics import Interval

#: Results of the runs that differ only in their seed: what results.json holds, by seed.
BySeed = Mapping[int, Mapping[str, Any]]


def mean(by_seed: BySeed, column: str) -> Interval | None:
    """Returns mean and 95 % interval of a column over the seeds that have it; None if none has."""
    values = [row[column] for row in by_seed.values() if row.get(column) is not None]
    return metrics.mean_interval(values) if values else None


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
    return metrics.mean_interval(differences) if differences else None


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
