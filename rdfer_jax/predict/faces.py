"""Faces in a video: detection in each frame, tracking over time, cropping.

Enters: frames of a video. Leaves: a track for each face, and its crops. Frames without the face are marked.
Short gaps between two frames with the face are filled by interpolation, and marked.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from etils import epath

#: Long side of the image in which the Haar cascade searches, pixels.
HAAR_SIDE = 400
#: Long side of the image in which YuNet searches, pixels.
YUNET_SIDE = 640
#: Time between two searches of the whole frame while a face is in view, seconds.
SEARCH_EVERY = 0.5
#: Between them, a face is searched within this distance of its last box, as a share of the box ...
AROUND = 0.5
#: ... and may have grown or shrunk by this factor.
GROWTH = 1.35
#: Smallest overlap (intersection over union) of a face with itself in the next frame.
SAME_FACE = 0.3
#: Faces found in fewer frames than this are errors of the detector.
LEAST_HITS = 3
#: Longest gap that is interpolated, seconds.
LONGEST_GAP = 0.5
#: Boxes are averaged over this many frames on either side.
SMOOTH = 1


class Box(NamedTuple):
    """The box of a face, in pixels of the frame; width and height are positive."""

    left: float
    top: float
    width: float
    height: float


class Detector(Protocol):
    """Finds the faces in one frame."""

    def __call__(self, image: np.ndarray, near: Sequence[Box] = ()) -> list[Box]:
        """Returns a box for each face in uint8 [H, W, 3], RGB.

        Given `near`, the boxes of the frame before, a detector may search around these only, to save time.
        """
        ...


class Finder:
    """Finds the faces in successive frames of a video. Searches the whole frame only from time to time."""

    def __init__(self, detect: Detector):
        self._detect, self._searched = detect, -math.inf
        self._before: list[Box] = []

    def __call__(self, image: np.ndarray, time: float) -> list[Box]:
        """Returns a box for each face in a frame, uint8 [H, W, 3] in RGB, at `time` seconds."""
        near = self._before if time - self._searched < SEARCH_EVERY - 1e-6 else []
        boxes = self._detect(image, near) if near else []
        if len(boxes) < max(1, len(near)):
            boxes, self._searched = self._detect(image), time
        self._before = boxes
        return boxes


@dataclasses.dataclass(frozen=True)
class Track:
    """One face over the analyzed frames of a video.

    Attributes:
      boxes: float64 [A, 4], left, top, width and height in each analyzed frame; NaN where the face
        is absent.
      found: bool [A], where the detector found it; other boxes are interpolated.
    """

    boxes: np.ndarray
    found: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """bool [A], where there is a box."""
        return ~np.isnan(self.boxes[:, 0])

    @property
    def size(self) -> float:
        """Sum of the areas over all frames, by which faces are ordered."""
        return float(np.nansum(self.boxes[:, 2] * self.boxes[:, 3]))


def create(kind: str, min_size: float, yunet: str = "") -> Detector:
    """Returns a detector.

    Args:
      kind: haar: the Haar cascade for frontal faces that comes with OpenCV (Viola and Jones 2001);
        yunet: the network YuNet, from a file; none: each frame already is a face.
      min_size: height of the smallest face, as a share of the frame's short side.
      yunet: the ONNX file of YuNet.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: there is no such kind, or the file does not hold YuNet.
    """
    if kind == "none":
        return whole_frame
    if kind == "haar":
        return _Haar(min_size)
    if kind == "yunet":
        return _YuNet(yunet, min_size)
    raise ValueError(f"no detector {kind!r}; choose haar, yunet or none")


def whole_frame(image: np.ndarray, near: Sequence[Box] = ()) -> list[Box]:
    """Returns the middle square of the frame, for videos that are cropped to the face."""
    height, width = image.shape[:2]
    side = min(height, width)
    return [Box((width - side) // 2, (height - side) // 2, side, side)]


class _Haar:
    def __init__(self, min_size: float):
        path = cv2.data.haarcascades + "haarcascade_frontalface_default.xml"  # type: ignore[attr-defined]
        self._cascade, self._min_size = cv2.CascadeClassifier(path), min_size

    def __call__(self, image: np.ndarray, near: Sequence[Box] = ()) -> list[Box]:
        small, scale = _shrink(image, HAAR_SIDE)
        gray = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        least = max(24, round(self._min_size * min(gray.shape)))
        if near:
            scaled = [Box(*(side * scale for side in box)) for box in near]
            boxes = [face for box in scaled for face in self._around(gray, box, least)]
        else:
            boxes = self._search(gray, least)
        return [Box(*(side / scale for side in box)) for box in boxes]

    def _search(self, gray: np.ndarray, least: int, most: int = 0) -> list[Box]:
        """Returns faces of `least` to `most` pixels; 0 is as large as the image."""
        boxes = self._cascade.detectMultiScale(
            gray, scaleFactor=1.1, minNeighbors=5, minSize=(least, least), maxSize=(most, most)
        )
        return [Box(*map(float, box)) for box in boxes]

    def _around(self, gray: np.ndarray, box: Box, least: int) -> list[Box]:
        """Returns the face at or near a box; none if it is not there."""
        wide, high = AROUND * box.width, AROUND * box.height
        left, top = max(0, round(box.left - wide)), max(0, round(box.top - high))
        right, bottom = round(box.left + box.width + wide), round(box.top + box.height + high)
        least, most = max(least, round(box.width / GROWTH)), round(box.width * GROWTH)
        candidates = [
            face._replace(left=face.left + left, top=face.top + top)
            for face in self._search(gray[top:bottom, left:right], least, most)
        ]
        best = max(candidates, key=lambda face: overlap(face, box), default=None)
        return [best] if best and overlap(best, box) >= SAME_FACE else []


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

    def __call__(self, image: np.ndarray, near: Sequence[Box] = ()) -> list[Box]:
        small, scale = _shrink(image, YUNET_SIDE)
        self._net.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        boxes = [
            Box(*(float(side) / scale for side in row[:4]))
            for row in (() if rows is None else rows)
        ]
        least = self._min_size * min(image.shape[:2])
        return [box for box in boxes if min(box.width, box.height) >= least]


def _shrink(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    scale = min(1.0, side / max(image.shape[:2]))
    if scale == 1:
        return image, 1.0
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), scale


def overlap(one: Sequence[float], two: Sequence[float]) -> float:
    """Returns the intersection over union of two boxes, in [0, 1]."""
    width = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    height = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one[2] * one[3] + two[2] * two[3] - shared)


def track(
    boxes: Sequence[Sequence[Box]], times: Sequence[float], least_hits: int = LEAST_HITS
) -> list[Track]:
    """Follows faces over time, and drops those that flicker, as errors of a detector do.

    In each frame, boxes are matched with the tracks that they overlap most, best pairs first; a box that
    overlaps none starts a track. A face that returns to its place after a while keeps its track, unless a
    track that has just been seen matches too. Boxes with fewer than least_hits boxes of their track
    within a second on either side are dropped.

    Args:
      boxes: for each analyzed frame, the boxes that the detector found.
      times: for each analyzed frame, seconds.
      least_hits: see above; videos with fewer frames need as many as they have.

    Returns:
      The faces, largest first, see Track.size.
    """
    chains: list[dict[int, Box]] = []  # boxes by place, in time order
    for place, detected in enumerate(boxes):
        lasts = [next(reversed(chain.items())) for chain in chains]
        pairs = sorted(
            (
                (times[place] - times[last] <= LONGEST_GAP, overlap(before, box), c, b)
                for c, (last, before) in enumerate(lasts)
                for b, box in enumerate(detected)
            ),
            reverse=True,
        )
        taken: set[int] = set()
        used: set[int] = set()
        for _, shared, c, b in pairs:
            if shared >= SAME_FACE and c not in used and b not in taken:
                chains[c][place] = detected[b]
                used.add(c)
                taken.add(b)
        chains += [{place: box} for b, box in enumerate(detected) if b not in taken]
    times_A = np.asarray(times, float)
    least_hits = min(least_hits, len(times_A))
    kept = [_without_flicker(chain, times_A, least_hits) for chain in chains]
    tracks = [_bridged(chain, times_A) for chain in kept if chain]
    return sorted(tracks, key=lambda track: track.size, reverse=True)


def _without_flicker(chain: dict[int, Box], times_A: np.ndarray, least_hits: int) -> dict[int, Box]:
    """Drops the boxes of a track that have too few others within a second on either side."""
    seen = times_A[sorted(chain)]
    near = {place: int(np.sum(np.abs(seen - times_A[place]) <= 1.0)) for place in chain}
    return {place: box for place, box in chain.items() if near[place] >= least_hits}


def _bridged(chain: dict[int, Box], times_A: np.ndarray) -> Track:
    """Interpolates over short gaps, and smooths the boxes."""
    places = np.array(sorted(chain))
    boxes_A4 = np.full((len(times_A), 4), np.nan)
    boxes_A4[places] = [chain[place] for place in places.tolist()]
    found_A = ~np.isnan(boxes_A4[:, 0])
    for before, after in itertools.pairwise(places.tolist()):
        if after - before > 1 and times_A[after] - times_A[before] <= LONGEST_GAP:
            inside = np.arange(before + 1, after)
            share = (times_A[inside] - times_A[before]) / (times_A[after] - times_A[before])
            step = boxes_A4[after] - boxes_A4[before]
            boxes_A4[inside] = boxes_A4[before] + share[:, None] * step
    return Track(_smooth(boxes_A4), found_A)


def _smooth(boxes_A4: np.ndarray) -> np.ndarray:
    """Averages boxes over their neighbors in time; gaps stay, and stop the averages."""
    smooth = boxes_A4.copy()
    for place in np.flatnonzero(~np.isnan(boxes_A4[:, 0])):
        near = boxes_A4[max(0, place - SMOOTH) : place + SMOOTH + 1]
        smooth[place] = np.nanmean(near, axis=0)
    return smooth


def crop(image: np.ndarray, box: Sequence[float], margin: float, size: int) -> np.ndarray:
    """Returns the square around a face; outside of the frame, its border is repeated.

    Args:
      image: uint8 [H, W, 3].
      box: left, top, width, height in pixels.
      margin: added on every side, as a share of the box's longer side.
      size: height and width of the crop, pixels.

    Returns:
      uint8 [size, size, 3].
    """
    left, top, width, height = box
    side = max(width, height) * (1 + 2 * margin)
    whole = round(max(side, 1.0))
    x = round(left + width / 2 - side / 2)
    y = round(top + height / 2 - side / 2)
    x_end, y_end = x + whole, y + whole
    inside = image[max(y, 0) : max(y_end, 0), max(x, 0) : max(x_end, 0)]
    if not inside.size:
        raise ValueError(f"the box {tuple(box)} lies outside of the frame {image.shape[:2]}")
    borders = (
        max(-y, 0),
        max(y_end - image.shape[0], 0),
        max(-x, 0),
        max(x_end - image.shape[1], 0),
    )
    if any(borders):
        inside = cv2.copyMakeBorder(inside, *borders, cv2.BORDER_REPLICATE)
    method = cv2.INTER_AREA if whole > size else cv2.INTER_LINEAR
    return cv2.resize(inside, (size, size), interpolation=method)
