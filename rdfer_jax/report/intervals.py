"""How far a share on so many clips can be trusted: intervals of WAR, recall and UAR.

They cover which clips happened to be in the split, not what another training run would give.

Shape letters: C classes, R resamples.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rdfer_jax import metrics
from rdfer_jax.metrics import Interval

RESAMPLES = 10_000


def wilson(right: int, total: int, confidence: float = 0.95) -> Interval:
    """The share right / total with its Wilson score interval, which stays within [0, 1].

    Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Args:
      right: how many are right.
      total: of how many.
      confidence: in (0, 1).

    Returns:
      The share and the limits; NaN where there is nothing to count.
    """
    if not total:
        return Interval(float("nan"), float("nan"), float("nan"))
    z, share = float(stats.norm.ppf((1 + confidence) / 2)), right / total
    scale = 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / scale
    reach = z / scale * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
    # Rounding could leave a limit a hair on the wrong side of a share of 0 or 1.
    return Interval(
        share, max(min(middle - reach, share), 0.0), min(max(middle + reach, share), 1.0)
    )


def uar(
    confusion_CC: ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """UAR with its percentile bootstrap interval over clips.

    Each resample draws as many clips as there are, with replacement; a class of which it draws none is
    left out of its mean, as in `metrics.uar`. Only the counts matter, so they are drawn at once,
    from a multinomial distribution.

    Args:
      confusion_CC: counts, rows true, columns predicted.
      confidence: in (0, 1).
      resamples: R.
      seed: of the draw.

    Returns:
      UAR and the limits; NaN without clips.
    """
    confusion_CC = np.asarray(confusion_CC)
    total = int(confusion_CC.sum())
    if not total:
        return Interval(float("nan"), float("nan"), float("nan"))
    right_C = np.diagonal(confusion_CC)
    cells = np.concatenate([right_C, confusion_CC.sum(axis=1) - right_C]) / total
    drawn = np.random.default_rng(seed).multinomial(total, cells, size=resamples)
    right_RC, wrong_RC = np.split(drawn, 2, axis=1)
    recall_RC = np.full(right_RC.shape, np.nan)
    drawn_RC = right_RC + wrong_RC
    np.divide(right_RC, drawn_RC, out=recall_RC, where=drawn_RC > 0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.nanmean(recall_RC, axis=1), [tail, 1 - tail])
    return Interval(metrics.uar(confusion_CC), float(low), float(high))
