"""Finding the faces in one frame."""

import logging
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from etils import epath

from rdfer_jax.faces.blazeface import BlazeFace
from rdfer_jax.faces.boxes import Box, Detection, best_overlap

log = logging.getLogger(__name__)

#: Long side of the image in which the Haar cascade searches, pixels.
HAAR_SIDE = 400
#: Long side of the image in which YuNet searches, pixels.
YUNET_SIDE = 640
#: Given its last box, the Haar cascade searches a face within this distance, as a share of the box ...
AROUND = 0.5
#: ... and it may have grown or shrunk by this factor.
GROWTH = 1.35
#: Smallest overlap (intersection over union) of a face with itself in the next frame.
SAME_FACE = 0.3


class Detector(Protocol):
    """Finds the faces in one frame."""

    def __call__(
        self, image: np.ndarray, near: Sequence[Box] = (), small: bool = True
    ) -> list[Detection]:
        """Returns the faces in uint8 [H, W, 3], RGB.

        To save time, a detector may search less when it is told to.

        Args:
          image: the frame.
          near: boxes of the frame before; if there are any, only faces around them are needed.
          small: whether faces that are small in the frame are needed.
        """
        ...


def create(kind: str, min_size: float, yunet: str = "") -> Detector:
    """Returns a detector.

    Args:
      kind: blazeface: the network BlazeFace, which comes with this package; haar: the Haar cascade for
        frontal faces that comes with OpenCV (Viola and Jones 2001), without key points; yunet: the network
        YuNet, from a file; none: each frame already is a face.
      min_size: height of the smallest face, as a share of the frame's short side.
      yunet: the ONNX file of YuNet.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: there is no such kind, OpenCV cannot read its network, or the file does not hold YuNet.
    """
    if kind == "none":
        return whole_frame
    if kind == "blazeface":
        return BlazeFace(min_size)
    if kind == "haar":
        return _Haar(min_size)
    if kind == "yunet":
        return _YuNet(yunet, min_size)
    raise ValueError(f"no detector {kind!r}; choose blazeface, haar, yunet or none")


def whole_frame(image: np.ndarray, near: Sequence[Box] = (), small: bool = True) -> list[Detection]:
    """Returns the middle square of the frame, for videos that are cropped to the face."""
    height, width = image.shape[:2]
    side = min(height, width)
    return [Detection(Box((width - side) // 2, (height - side) // 2, side, side))]


class _Haar:
    def __init__(self, min_size: float):
        path = cv2.data.haarcascades + "haarcascade_frontalface_default.xml"  # type: ignore[attr-defined]
        self._cascade, self._min_size = cv2.CascadeClassifier(path), min_size

    def __call__(
        self, image: np.ndarray, near: Sequence[Box] = (), small: bool = True
    ) -> list[Detection]:
        shrunk, scale = _shrink(image, HAAR_SIDE)
        gray = cv2.equalizeHist(cv2.cvtColor(shrunk, cv2.COLOR_RGB2GRAY))
        least = max(24, round(self._min_size * min(gray.shape)))
        if near:
            scaled = [Box(*(side * scale for side in box)) for box in near]
            found = [face for box in scaled for face in self._around(gray, box, least)]
        else:
            found = self._search(gray, least)
        return [Detection(Box(*(side / scale for side in face.box))) for face in found]

    def _search(self, gray: np.ndarray, least: int, most: int = 0) -> list[Detection]:
        """Returns faces of `least` to `most` pixels; 0 is as large as the image."""
        boxes = self._cascade.detectMultiScale(
            gray, scaleFactor=1.1, minNeighbors=5, minSize=(least, least), maxSize=(most, most)
        )
        return [Detection(Box(*map(float, box))) for box in boxes]

    def _around(self, gray: np.ndarray, box: Box, least: int) -> list[Detection]:
        """Returns the face at or near a box; none if it is not there."""
        wide, high = AROUND * box.width, AROUND * box.height
        left, top = max(0, round(box.left - wide)), max(0, round(box.top - high))
        right, bottom = round(box.left + box.width + wide), round(box.top + box.height + high)
        least, most = max(least, round(box.width / GROWTH)), round(box.width * GROWTH)
        found = self._search(gray[top:bottom, left:right], least, most)
        moved = [
            Detection(face.box._replace(left=face.box.left + left, top=face.box.top + top))
            for face in found
        ]
        best = best_overlap(moved, box, SAME_FACE)
        return [best] if best else []


class _YuNet:
    def __init__(self, path: str, min_size: float):
        if not path or not epath.Path(path).exists():
            raise FileNotFoundError(
                f"config.predict.yunet = {path!r}: there is no such file. Give the ONNX file of YuNet "
                "(face_detection_yunet, from OpenCV's model zoo), or set config.predict.detector = 'haar'"
            )
        try:
            self._net = cv2.FaceDetectorYN.create(path, "", (320, 320), 0.7)
        except cv2.error as error:
            raise ValueError(f"{path}: OpenCV cannot read it as YuNet: {error.err}") from None
        self._min_size = min_size

    def __call__(
        self, image: np.ndarray, near: Sequence[Box] = (), small: bool = True
    ) -> list[Detection]:
        shrunk, scale = _shrink(image, YUNET_SIDE)
        self._net.setInputSize((shrunk.shape[1], shrunk.shape[0]))
        _, rows = self._net.detect(cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR))
        # Box, five key points that begin with the eyes, score.
        found = [(row[:14] / scale).tolist() for row in (() if rows is None else rows)]
        faces = [
            Detection(Box(*row[:4]), tuple(zip(row[4:14:2], row[5:14:2], strict=True)))
            for row in found
        ]
        least = self._min_size * min(image.shape[:2])
        return [face for face in faces if min(face.box.width, face.box.height) >= least]


def _shrink(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    scale = min(1.0, side / max(image.shape[:2]))
    if scale == 1:
        return image, 1.0
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale
