"""Where a face is: its box and its key points."""

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """The box of a face, in pixels of the frame; width and height are positive."""

    left: float
    top: float
    width: float
    height: float


class Detection(NamedTuple):
    """A face that a detector found in a frame.

    Attributes:
      box: around the face, from the eyebrows or the forehead to the chin.
      points: key points as (x, y) in pixels of the frame; the first two are the eyes, first the one on the
        left of an upright face as we see it. Empty for detectors that give none.
    """

    box: Box
    points: tuple[tuple[float, float], ...] = ()


def overlap(one: Sequence[float], two: Sequence[float]) -> float:
    """Returns the intersection over union of two boxes, in [0, 1]."""
    width = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    height = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one[2] * one[3] + two[2] * two[3] - shared)


def best_overlap(detections: Sequence[Detection], box: Box, least: float) -> Detection | None:
    """Returns the detection that overlaps a box most, if that is at least `least`."""
    best = max(detections, key=lambda found: overlap(found.box, box), default=None)
    return best if best and overlap(best.box, box) >= least else None
