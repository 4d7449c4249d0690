"""JPEG bytes -> square RGB frames of one size."""

from collections.abc import Sequence

import cv2
import numpy as np

#: Reading a JPEG at a fraction of its size costs less than reading and shrinking it: by how much, how.
#: The flags of reduced sizes tell grey from colour by a bit that must not stand beside that of RGB.
_REDUCED = (
    (8, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB),
    (4, cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB),
    (2, cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB),
)


class FrameError(ValueError):
    """A stored frame cannot be decoded."""


def decode_frame(jpeg: bytes, size: int, fit: str) -> np.ndarray:
    """Decodes one frame.

    A frame of at least twice the size is decoded at 1/2, 1/4 or 1/8 of its own.

    Args:
      jpeg: an encoded image.
      size: height and width wanted, pixels.
      fit: "crop" cuts the middle square out of a frame that is not square, "stretch" distorts it.

    Returns:
      uint8 [size, size, 3], RGB.

    Raises:
      FrameError: the bytes are not an image.
    """
    stored = short_side(jpeg)
    how = next((flag for by, flag in _REDUCED if stored >= by * size), cv2.IMREAD_COLOR_RGB)
    frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), how) if jpeg else None
    if frame is None:
        raise FrameError(f"{len(jpeg)} bytes are not an image")
    height, width = frame.shape[:2]
    if fit == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frame = frame[top : top + side, left : left + side]
    if frame.shape[:2] != (size, size):
        # Below a factor of two, two neighbours say enough; area sums take five times as long.
        method = cv2.INTER_AREA if max(frame.shape[:2]) >= 2 * size else cv2.INTER_LINEAR
        frame = cv2.resize(frame, (size, size), interpolation=method)
    return frame


def short_side(jpeg: bytes) -> int:
    """Returns the smaller of height and width that a JPEG's header gives, in pixels; 0 if it gives none."""
    place = 2 if jpeg.startswith(b"\xff\xd8") else len(jpeg)
    while place + 9 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = (int.from_bytes(jpeg[place + i : place + i + 2], "big") for i in (5, 7))
            return min(height, width)
        # Fill bytes may stand in front of a marker; segments say how long they are.
        length = int.from_bytes(jpeg[place + 2 : place + 4], "big")
        place += 1 if marker == 0xFF else 2 + length
    return 0


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
