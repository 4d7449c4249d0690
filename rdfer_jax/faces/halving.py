"""Shrinking by halves: averages over whole pixels are much faster than those over parts of pixels."""

import cv2
import numpy as np


def steps(times: float) -> int:
    """Returns the largest power of two that is at most `times`; 1 if that is below 1."""
    return 1 << max(0, int(times).bit_length() - 1)


def halved(image: np.ndarray, step: int, border: int) -> np.ndarray:
    """Averages squares of step x step pixels.

    Args:
      image: uint8 [H, W, 3].
      step: a power of two.
      border: OpenCV's kind of border, what lies to the right and below, if a side is no multiple of step.

    Returns:
      uint8 [ceil(H / step), ceil(W / step), 3].
    """
    below, right = -image.shape[0] % step, -image.shape[1] % step
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, border)
    while step > 1:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
        step //= 2
    return image
