"""The face detector BlazeFace, short range (Bazarevsky et al. 2019), run by OpenCV.

The network sees a square of 128 pixels and finds faces of a seventh of it or more. So a search of a
whole frame also looks at smaller squares that overlap, and looks again, closer, at each face it found. The
file of the network comes from MediaPipe; model/README.md has its source and license.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from etils import epath

from rdfer_jax.faces.boxes import Box, Detection, best_overlap, overlap
from rdfer_jax.faces.halving import halved, steps

MODEL = epath.Path(__file__).parent / "model" / "face_detection_short_range.tflite"
#: Height and width of the network's input, pixels.
INPUT = 128
#: Stride of each grid of anchors, pixels of the input -> anchors at each of its places.
ANCHORS = {8: 2, 16: 6}
#: Numbers for each anchor: center, size, and six key points: eyes, nose, mouth, ears.
NUMBERS = 16
#: Lowest score of a face, in [0, 1], at first sight and when looked at again.
FIRST_SCORE, SCORE = 0.5, 0.6
#: Detections that overlap more are one face.
SAME = 0.3
#: Smallest face that the network finds reliably, as a share of the square that it sees.
SMALLEST = 0.15
#: Side of a smaller square, at least, as a share of the next larger one.
STEP = 0.35
#: The network's boxes go from the eyebrows to below the chin. They are raised by this share of their
#: height: with a margin of 0.1, crops then are as in FER2013 and synthetic_faces. They are raised along the
#: frame, not along the face: in turned faces, the network's boxes lie lower in the frame too.
RAISED = 0.1
#: Side of the square in which a known face is searched, as a multiple of its size.
AROUND = 2.0
#: Such squares lie on a grid of 1 / GRID to 2 / GRID of their side, so that they stay where they are while
#: the face hardly moves: the network's boxes jump when the square moves by a pixel.
GRID = 64


class NotReadableError(ValueError):
    """OpenCV cannot read the network's file."""


class Square(NamedTuple):
    """A square part of a frame, in its pixels; it may reach over the border."""

    left: int
    top: int
    side: int


class BlazeFace:
    """Finds faces, and their eyes, nose, mouth and ears."""

    def __init__(self, min_size: float):
        """Reads the network.

        Args:
          min_size: height of the smallest face, as a share of the frame's short side.

        Raises:
          ValueError: OpenCV cannot read its file.
        """
        try:
            self._net = cv2.dnn.readNetFromTFLite(str(MODEL))
        except (cv2.error, AttributeError) as error:  # some builds of OpenCV lack TFLite
            reason = str(getattr(error, "err", error)).strip()
            raise NotReadableError(
                f"{MODEL}: OpenCV {cv2.__version__} cannot read it ({reason})"
            ) from None
        self._min_size = min_size

    def __call__(
        self, image: np.ndarray, near: Sequence[Box] = (), small: bool = True
    ) -> list[Detection]:
        """See detect.Detector."""
        least = self._min_size * min(image.shape[:2])
        if not near:
            squares = search_squares(image.shape[0], image.shape[1], least)
            found = self._look(image, squares if small else squares[:1], FIRST_SCORE)
            near = [face.box for face in found]
        return self._closely(image, near, least)

    def _closely(self, image: np.ndarray, boxes: Sequence[Box], least: float) -> list[Detection]:
        """Returns the faces at these boxes."""
        found = self._look(image, [square_around(box) for box in boxes], SCORE)
        best = [best_overlap(found, box, SAME) for box in boxes]
        faces = [face for face in dict.fromkeys(best) if face]
        return [face for face in faces if min(face.box.width, face.box.height) >= least]

    def _look(self, image: np.ndarray, squares: Sequence[Square], score: float) -> list[Detection]:
        """Returns the faces in these squares."""
        rows, scores = [np.empty((0, NUMBERS // 2, 2))], [np.empty(0)]
        for square in map(snapped, squares):
            self._net.setInput(network_input(image, square)[None])
            regressors_1A16, logits_1A1 = self._net.forward(("regressors", "classificators"))
            rows_R82, scores_R = decode(regressors_1A16[0], logits_1A1[0, :, 0], square, score)
            rows.append(rows_R82)
            scores.append(scores_R)
        return [_detection(row) for row in merge(np.concatenate(rows), np.concatenate(scores))]


def search_squares(height: int, width: int, least: float) -> list[Square]:
    """Returns the squares in which to search a frame for faces of `least` pixels or more.

    The first one holds the whole frame. If the smallest face is too small for it, smaller ones follow. They
    overlap, so that a face that is too small for the larger ones lies within one of them.
    """
    side = max(height, width)
    squares = [Square((width - side) // 2, (height - side) // 2, side)]
    last = max(1, int(least / SMALLEST))
    while side > last:
        smallest = SMALLEST * side
        side = max(last, math.ceil(STEP * side))
        squares += [
            Square(left, top, side)
            for top in _starts(height, side, smallest)
            for left in _starts(width, side, smallest)
        ]
    return squares


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Returns where squares start that cover a length and overlap at least this much."""
    if side >= length:
        return [(length - side) // 2]
    count = math.ceil((length - overlap) / (side - overlap) - 1e-9)
    return np.linspace(0, length - side, max(count, 2)).round().astype(int).tolist()


def square_around(box: Box) -> Square:
    """Returns the square in which to look for the face at a box."""
    side = AROUND * max(box.width, box.height)
    step = steps(side / GRID)
    side = max(1, math.ceil(side / (2 * step)) * 2 * step)
    left, top = box.left + (box.width - side) / 2, box.top + (box.height - side) / 2
    return Square(round(left / step) * step, round(top / step) * step, side)


def network_input(image: np.ndarray, square: Square) -> np.ndarray:
    """Returns a square of uint8 [H, W, 3] as the network reads it, float32 [3, 128, 128] in [-1, 1].

    Where it reaches over the border, it is black. It must be `snapped`.
    """
    left, top, side = square
    step = _step(side)
    inside = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    inside = halved(inside, step, cv2.BORDER_CONSTANT)
    above, before, side = max(-top, 0) // step, max(-left, 0) // step, side // step
    below, after = side - above - inside.shape[0], side - before - inside.shape[1]
    if above or below or before or after:
        inside = cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_CONSTANT)
    method = cv2.INTER_AREA if side > INPUT else cv2.INTER_LINEAR
    small = cv2.resize(inside, (INPUT, INPUT), interpolation=method)
    return (small.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)


def snapped(square: Square) -> Square:
    """Returns a square that, if it is large, is a little larger, so that it can be halved a few times."""
    step = _step(square.side)
    left, top = square.left // step * step, square.top // step * step
    reach = square.side + max(square.left - left, square.top - top)
    grown = Square(left, top, -(-reach // step) * step)
    return grown if _step(grown.side) == step else snapped(grown)


def _step(side: int) -> int:
    """Returns by what to divide the side of a square before it is shrunk to the input.

    Two to four times the input are left: averages over little more than one pixel depend on where the
    square begins, and boxes with them.
    """
    return steps(side / INPUT / 2)


def anchors() -> np.ndarray:
    """Returns the centers of the anchors in the order of the network's output, float32 [896, 2].

    As (x, y), where the input is 1 wide and high.
    """
    grids = []
    for stride, number in ANCHORS.items():
        centers = (np.arange(INPUT // stride) + 0.5) * stride / INPUT
        y, x = np.meshgrid(centers, centers, indexing="ij")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], 1), number, axis=0))
    return np.concatenate(grids).astype(np.float32)


_ANCHORS = anchors()


def decode(
    regressors_A16: np.ndarray, logits_A: np.ndarray, square: Square, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """Converts the network's output to boxes and key points in the frame.

    Args:
      regressors_A16: float [896, 16], for each anchor: center, width and height, and six key points; in
        pixels of the input, and the positions relative to the anchor.
      logits_A: float [896].
      square: what the network saw.
      least: lowest score.

    Returns:
      float [R, 8, 2], for each anchor with a higher score: left and top, width and height, key points; in
      pixels of the frame. And the scores, float [R].
    """
    scores_A = 1 / (1 + np.exp(-np.clip(logits_A.astype(np.float64), -80, 80)))
    chosen = np.flatnonzero((scores_A > least) & (regressors_A16[:, 2:4] > 0).all(axis=1))
    rows_R82 = regressors_A16[chosen].astype(np.float64).reshape(-1, NUMBERS // 2, 2) / INPUT
    rows_R82[:, 0] -= rows_R82[:, 1] / 2
    is_place = np.arange(NUMBERS // 2) != 1  # the others are places, this is the size
    rows_R82[:, is_place] += _ANCHORS[chosen, None]
    rows_R82 *= square.side
    rows_R82[:, is_place] += (square.left, square.top)
    return rows_R82, scores_A[chosen]


def merge(rows_R82: np.ndarray, scores_R: np.ndarray) -> list[np.ndarray]:
    """Averages detections of the same face, weighted by their scores; the best one's face first.

    This is the blending that BlazeFace uses in place of non-maximum suppression.

    Returns:
      float [8, 2] for each face.
    """
    faces = []
    boxes = rows_R82[:, :2].reshape(-1, 4).tolist()
    remaining = np.argsort(-scores_R, kind="stable")
    while len(remaining):
        best = boxes[remaining[0]]
        same = np.array([overlap(best, boxes[i]) > SAME for i in remaining])
        chosen = remaining[same]
        faces.append(np.average(rows_R82[chosen], axis=0, weights=scores_R[chosen]))
        remaining = remaining[~same]
    return faces


def _detection(row_82: np.ndarray) -> Detection:
    (left, top), (width, height), *points = row_82.tolist()
    box = Box(left, top - RAISED * height, width, height)
    return Detection(box, tuple((x, y) for x, y in points))
