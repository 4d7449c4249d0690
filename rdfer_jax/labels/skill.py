"""Are predictions better than chance? A test against always naming the most frequent class.

Letters: N videos.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

#: Predictions are not better than chance if these would be as good with a higher probability.
LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Skill:
    """How predictions compare with the most frequent class.

    Attributes:
      right: number of videos whose label is predicted.
      most: number of videos of the most frequent class.
      total: N.
      majority: the most frequent class.
      p_value: probability of as many right predictions or more, if each were right with the probability
        most / total (one-sided binomial test).
    """

    right: int
    most: int
    total: int
    majority: int
    p_value: float

    @property
    def proven(self) -> bool:
        """Whether the predictions are better than the most frequent class."""
        return self.p_value < LEVEL

    def describe(self, name: str) -> str:
        """Returns the comparison in half a sentence; `name` is that of the most frequent class."""
        return (
            f"{self.right / self.total:.1%} of {self.total} labels are predicted, and always predicting "
            f"{name!r} gives {self.most / self.total:.1%} (p = {self.p_value:.2g})"
        )


def measure(labels_N: ArrayLike, predicted_N: ArrayLike) -> Skill:
    """Compares predictions with the most frequent class.

    Args:
      labels_N: int [N], the given labels; N is 1 or more.
      predicted_N: int [N], the predicted classes.
    """
    labels_N, predicted_N = np.asarray(labels_N), np.asarray(predicted_N)
    counts = np.bincount(labels_N)
    right, total, most = int((labels_N == predicted_N).sum()), len(labels_N), int(counts.max())
    test = stats.binomtest(right, total, most / total, alternative="greater")
    return Skill(right, most, total, int(counts.argmax()), float(test.pvalue))
