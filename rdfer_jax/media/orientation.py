"""How a video wants to be turned and mirrored: the display matrix that phones and editors write."""

import struct
from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame


class Orientation(NamedTuple):
    """What makes a stored picture upright: first swap rows and columns, then mirror."""

    transpose: bool = False
    mirror_columns: bool = False
    mirror_rows: bool = False

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns uint8 [H, W, 3] upright."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        if self.mirror_columns:
            image = image[:, ::-1]
        return image[::-1] if self.mirror_rows else image


def of_frame(frame: VideoFrame) -> Orientation:
    """Returns the orientation of a decoded frame, the nearest of the eight that need no interpolation."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    # A pixel at (x, y) is shown at (a x + c y, b x + d y), where y points down.
    a, b, _, c, d, *_ = struct.unpack("=9i", data)
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)
