"""JPEG bytes -> square RGB frames of one size."""

from collections.abc import Sequence

import cv2
import numpy as np


class FrameError(ValueError):
    """A stored frame cannot be decoded."""


def decode_frame(jpeg: bytes, size: int, fit: str) -> np.ndarray:
    """Decodes one frame.

    Args:
      jpeg: an encoded image.
      size: height and width wanted, pixels.
      fit: "crop" cuts the middle square out of a frame that is not square, "stretch" distorts it.

    Returns:
      uint8 [size, size, 3], RGB.

    Raises:
      FrameError: the bytes are not an image.
    """
    frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if frame is None:
        raise FrameError(f"{len(jpeg)} bytes are not an image")
    height, width = frame.shape[:2]
    if fit == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frame = frame[top : top + side, left : left + side]
    if frame.shape[:2] != (size, size):
        shrinks = frame.shape[0] > size or frame.shape[1] > size
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        frame = cv2.resize(frame, (size, size), interpolation=method)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def decode_frames(jpegs: Sequence[bytes], indices_F: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Decodes the sampled frames of a video, each of them once.

    Args:
      jpegs: every frame of the video, encoded.
      indices_F: int [F], the frames wanted; repeats are allowed.
      size: height and width wanted, pixels.
      fit: as in decode_frame.

    Returns:
      uint8 [F, size, size, 3], RGB.

    Raises:
      FrameError: a frame cannot be decoded; the message names its number.
    """
    frames = np.empty((len(indices_F), size, size, 3), np.uint8)
    done: dict[int, int] = {}
    for place, index in enumerate(indices_F.tolist()):
        if index in done:
            frames[place] = frames[done[index]]
            continue
        try:
            frames[place] = decode_frame(jpegs[index], size, fit)
        except FrameError as error:
            raise FrameError(f"frame {index}: {error}") from None
        done[index] = place
    return frames
