"""JPEG bytes -> square RGB frames of one size."""

from collections.abc import Sequence

import cv2
import numpy as np

from rdfer_jax.media.files import MediaError
from rdfer_jax.media.images import decode_jpeg


def decode_frame(
    jpeg: bytes | memoryview, size: int, fit: str, into: np.ndarray | None = None
) -> np.ndarray:
    """Decodes one frame.

    A frame of at least twice the size is decoded at 1/2, 1/4 or 1/8 of its own.

    Args:
      jpeg: a JPEG.
      size: height and width of the result, pixels.
      fit: for frames that are not square, "crop" cuts out the middle square, "stretch" distorts.
      into: where to write it, uint8 [size, size, 3], contiguous; None for memory of its own.

    Returns:
      uint8 [size, size, 3], RGB.

    Raises:
      MediaError: the bytes are not a JPEG.
    """
    into = np.empty((size, size, 3), np.uint8) if into is None else into
    frame = decode_jpeg(jpeg, size, into)
    if frame is into:
        return into
    height, width = frame.shape[:2]
    if fit == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frame = frame[top : top + side, left : left + side]
    if frame.shape[:2] == (size, size):
        into[:] = frame
        return into
    # Below a factor of two, bilinear sampling looks the same as area averages, which take five times as
    # long.
    method = cv2.INTER_AREA if max(frame.shape[:2]) >= 2 * size else cv2.INTER_LINEAR
    cv2.resize(frame, (size, size), into, interpolation=method)
    return into


def decode_frames(
    jpegs: Sequence[bytes | memoryview],
    indices_F: np.ndarray,
    size: int,
    fit: str,
    into: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes the sampled frames of a video, each of them once.

    Args:
      jpegs: every frame of the video.
      indices_F: int [F], indices of the sampled frames; they may repeat.
      size, fit: as in decode_frame.
      into: where to write them, uint8 [F, size, size, 3], contiguous; None for memory of its own.

    Returns:
      uint8 [F, size, size, 3], RGB.

    Raises:
      MediaError: a frame cannot be decoded; the message names its number.
    """
    frames = np.empty((len(indices_F), size, size, 3), np.uint8) if into is None else into
    done: dict[int, int] = {}
    for place, index in enumerate(indices_F.tolist()):
        if index in done:
            frames[place] = frames[done[index]]
            continue
        try:
            decode_frame(jpegs[index], size, fit, frames[place])
        except MediaError as error:
            raise MediaError(f"frame {index}: {error}") from None
        done[index] = place
    return frames
