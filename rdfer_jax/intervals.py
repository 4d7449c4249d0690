"""Confidence intervals of accuracy, recall and UAR for a test split of limited size.

They cover the choice of the clips in the split, not the variation between training runs.

Shape letters: C classes, R resamples.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rdfer_jax import metrics
from rdfer_jax.metrics import Interval

RESAMPLES = 10_000
_UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def wilson(right: int, total: int, confidence: float = 0.95) -> Interval:
    """Returns the share right / total with its Wilson score interval, which stays within [0, 1].

    Args:
      right: number of right predictions.
      total: number of predictions.
      confidence: confidence level, in (0, 1).

    Returns:
      The share and the limits; NaN if total is 0.
    """
    if not total:
        return _UNKNOWN
    limits = stats.binomtest(right, total).proportion_ci(confidence, method="wilson")
    return Interval(right / total, float(limits.low), float(limits.high))


def uar(
    confusion_CC: ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Returns UAR with its percentile bootstrap interval over clips.

    Each resample has as many clips as the split, sampled with replacement; a class without clips in a
    resample is left out of its mean, as in `metrics.uar`. Only the counts matter, so they are sampled
    from a multinomial distribution.

    Args:
      confusion_CC: counts, rows true, columns predicted.
      confidence: confidence level, in (0, 1).
      resamples: R.
      seed: seed of the resampling.

    Returns:
      UAR and the limits; NaN without clips.
    """
    confusion_CC = np.asarray(confusion_CC)
    total = int(confusion_CC.sum())
    if not total:
        return _UNKNOWN
    right_C = np.diagonal(confusion_CC)
    shares = np.concatenate([right_C, confusion_CC.sum(axis=1) - right_C]) / total
    counts = np.random.default_rng(seed).multinomial(total, shares, size=resamples)
    right_RC, wrong_RC = np.split(counts, 2, axis=1)
    total_RC = right_RC + wrong_RC
    recall_RC = np.full(right_RC.shape, np.nan)
    np.divide(right_RC, total_RC, out=recall_RC, where=total_RC > 0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.nanmean(recall_RC, axis=1), [tail, 1 - tail])
    return Interval(metrics.uar(confusion_CC), float(low), float(high))
