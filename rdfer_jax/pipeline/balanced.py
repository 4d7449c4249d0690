"""Class-balanced sampling: an endless order of the training videos with all classes equally frequent.

The order is a function of the position, so training can resume at any step and processes can share it.
"""

import dataclasses
import functools
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

#: What a generator decides: the order of the classes in a block, or of the videos of a class.
_CLASSES, _VIDEOS = 0, 1


@dataclasses.dataclass(frozen=True, eq=False)
class BalancedOrder:
    """The video at each position.

    Of C classes, each block of C positions has one video of every class, in an order of its own. So an
    epoch of n positions has n / C videos of each class, to within one or, where it begins and ends within
    a block, two. Each class takes its videos in turn: all of them in a random order, then again in another
    one. Classes without a video are left out.

    Attributes:
      labels: int [n], the given labels.
      seed: of the order.
    """

    labels: np.ndarray
    seed: int

    def __getitem__(self, position: int) -> int:
        """Returns the video at a position, which may be any number from 0 on."""
        block, place = divmod(int(position), len(self.videos))
        which = int(_permutation(self.seed, _CLASSES, block, 0, len(self.videos))[place])
        videos = self.videos[which]
        turn, place = divmod(block, len(videos))
        return int(videos[_permutation(self.seed, _VIDEOS, turn, which, len(videos))[place]])

    @functools.cached_property
    def videos(self) -> tuple[np.ndarray, ...]:
        """The videos of each class that has any, int [n_c]."""
        return tuple(np.flatnonzero(self.labels == label) for label in np.unique(self.labels))

    def describe(self, classes: Sequence[str]) -> str:
        """Returns how often an epoch shows a class, and the videos of the largest and the smallest one."""
        each = len(self.labels) / len(self.videos)
        counts = {classes[int(self.labels[v[0]])]: len(v) for v in self.videos}
        names = {min(counts, key=counts.__getitem__): 0, max(counts, key=counts.__getitem__): 0}
        shown = " and ".join(
            f"{each / counts[name]:.2f} times each of the {counts[name]} videos of {name}"
            for name in names
        )
        return (
            f"class-balanced sampling: an epoch of {len(self.labels)} examples shows each of "
            f"{len(self.videos)} classes {each:.0f} times: {shown}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Reordered:
    """Endless elements of a source in a class-balanced order."""

    source: Any
    order: BalancedOrder

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> Any:
        return self.source[self.order[position]]


@functools.lru_cache(maxsize=1024)
def _permutation(seed: int, what: int, number: int, which: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, what, number, which]).permutation(size)
