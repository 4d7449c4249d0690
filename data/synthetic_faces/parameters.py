"""The parameters of the rendered data set, and its random streams.

Every random number of a clip comes from `rng(parameters, split, index, stream)`, with one stream for each
part of a clip. So a clip does not depend on the number of clips or worker processes, and a parameter
changes only its own part: flips do not change the frames, and `image_size` does not change the geometry.
"""

import dataclasses
import enum
import numbers
from typing import Any

import numpy as np

from ..schema import DFEW_CLASSES as CLASSES

NEUTRAL = CLASSES.index("neutral")
SPLITS = ("train", "test")
FLIP_KINDS = ("confusion", "symmetric", "instance", "fer2013", "crema_d")

#: The classes with `movement_pairs`, each pair together; `movement.MOVEMENTS` says what they show.
MOVEMENT_CLASSES = (
    "happy_quick_onset",
    "happy_slow_onset",
    "angry_quick_onset",
    "angry_slow_onset",
    "surprise_then_sad",
    "sad_then_surprise",
    "fear_brief_then_long",
    "fear_long_then_brief",
)

#: Clips per class in DFEW, which give the class shares of an imbalanced data set.
DFEW_COUNTS = (2445, 1894, 2669, 2173, 1469, 145, 902)


class Stream(enum.IntEnum):
    """The independent random streams of a clip (LABEL: of a block of clips)."""

    LABEL = 0
    HARD = 1
    FLIP = 2
    VOTES = 3
    TIMELINE = 4
    IDENTITY = 5
    ACTION = 6
    POSE = 7
    LIGHT = 8
    OCCLUSION = 9
    BACKGROUND = 10
    NOISE = 11
    DIRECTION = 12


def _require(good: bool, field: str, value: Any, allowed: str) -> None:
    if not good:
        raise ValueError(f"synthetic_faces: {field} must be {allowed}, got {value!r}")


@dataclasses.dataclass(kw_only=True, eq=False)
class Parameters:
    """The parameters of the rendered data set.

    Attributes:
      num_train: clips in the split `train`.
      num_test: clips in the split `test`, whose labels are never flipped.
      num_frames: frames of every clip.
      image_size: side of the square frames, in pixels.
      flip_rate: probability that a training label is wrong.
      flip_kind: `confusion` (wrong classes by a matrix of our own), `symmetric` (any other class),
        `instance` (hard clips three times as often as easy ones), `fer2013` or `crema_d` (wrong classes
        as people confuse them, counted in these data sets).
      hard_share: probability that a clip is hard.
      imbalance: whether classes have DFEW's shares instead of equal ones.
      balanced_test: whether the test split has equal shares nevertheless.
      movement_pairs: whether the classes are pairs that differ in movement only, those of
        MOVEMENT_CLASSES, instead of DFEW's.
      seed: seed of all random numbers.
      jpeg_quality: JPEG quality of the stored frames.

    Raises:
      ValueError: a value is out of range; the message names the field, the value and the range.
    """

    num_train: int = 4000
    num_test: int = 1000
    num_frames: int = 32
    image_size: int = 48
    flip_rate: float = 0.2
    flip_kind: str = "confusion"
    hard_share: float = 0.3
    imbalance: bool = False
    balanced_test: bool = False
    movement_pairs: bool = False
    seed: int = 0
    jpeg_quality: int = 95

    def __post_init__(self):
        ranges = {
            "num_train": (1, 10_000_000),
            "num_test": (1, 10_000_000),
            "num_frames": (8, 1024),
            "image_size": (16, 1024),
            "seed": (0, 2**63 - 1),
            "jpeg_quality": (1, 100),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            allowed = f"a whole number from {low} to {high}"
            _require(good and low <= value <= high, field, value, allowed)
            setattr(self, field, int(value))
        for field in ("flip_rate", "hard_share"):
            value = getattr(self, field)
            good = isinstance(value, numbers.Real) and not isinstance(value, bool)
            _require(good and 0 <= value <= 1, field, value, "a number from 0 to 1")
            setattr(self, field, float(value))
        _require(
            self.flip_kind in FLIP_KINDS, "flip_kind", self.flip_kind, "one of " + str(FLIP_KINDS)
        )
        for field in ("imbalance", "balanced_test", "movement_pairs"):
            value = getattr(self, field)
            _require(isinstance(value, bool | np.bool_), field, value, "True or False")
            setattr(self, field, bool(value))

        if self.movement_pairs:
            few = "28 or more with movement_pairs"
            _require(self.num_frames >= 28, "num_frames", self.num_frames, few)
            _require(not self.imbalance, "imbalance", True, "False with movement_pairs")
            kinds = ("confusion", "symmetric", "instance")
            allowed = f"one of {kinds} with movement_pairs"
            _require(self.flip_kind in kinds, "flip_kind", self.flip_kind, allowed)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return MOVEMENT_CLASSES if self.movement_pairs else CLASSES

    def num_clips(self, split: str) -> int:
        """Returns the number of clips in the split.

        Raises:
          ValueError: there is no such split.
        """
        split_id(split)
        return self.num_train if split == "train" else self.num_test

    def is_imbalanced(self, split: str) -> bool:
        """Returns whether the classes of the split have DFEW's shares."""
        return self.imbalance and not (split == "test" and self.balanced_test)


def split_id(split: str) -> int:
    """Returns the number of the split.

    Raises:
      ValueError: there is no such split.
    """
    _require(split in SPLITS, "split", split, "one of " + str(SPLITS))
    return SPLITS.index(split)


def rng(parameters: Parameters, split: str, index: int, stream: Stream) -> np.random.Generator:
    """Returns the generator of one stream of one clip (or block of clips)."""
    return np.random.default_rng([parameters.seed, split_id(split), index, int(stream)])
