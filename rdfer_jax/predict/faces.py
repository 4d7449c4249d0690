"""Faces in a video: found in each frame, followed over time, cut out.

Enters: frames of a video. Leaves: tracks, one for each face, and crops of its face. A frame in which no
face was found is marked so. Only short gaps between two frames with the face are bridged, and marked.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from etils import epath

#: Long side of the picture in which Haar cascades look for faces, pixels.
HAAR_SIDE = 400
#: Long side for YuNet, likewise.
YUNET_SIDE = 640
#: How often the whole frame is searched while a face is in view, seconds.
SEARCH_EVERY = 0.5
#: Between two searches, how far around a face it is looked for, as a share of its size ...
AROUND = 0.5
#: ... and how many times larger or smaller it may have become.
GROWTH = 1.35
#: Least overlap (intersection over union) of a face with itself in its next frame.
SAME_FACE = 0.3
#: A face that is seen less often than this is taken for an error of the detector.
LEAST_HITS = 3
#: Longest gap that is bridged, seconds.
LONGEST_GAP = 0.5
#: Boxes are averaged over this many frames to either side.
SMOOTH = 1


class Box(NamedTuple):
    """Where a face is, in pixels of the frame; width and height are above 0."""

    left: float
    top: float
    width: float
    height: float


class Detector(Protocol):
    """Finds the faces in one frame."""

    def __call__(self, image: np.ndarray, near: Sequence[Box] = ()) -> list[Box]:
        """Returns a box for each face in uint8 [H, W, 3], RGB.

        With `near`, boxes of a moment ago, a detector may look around these only, to save time.
        """
        ...


class Finder:
    """Finds the faces of one video, in time order; between searches of the whole frame, where they were."""

    def __init__(self, detect: Detector):
        self._detect, self._searched = detect, -math.inf
        self._before: list[Box] = []

    def __call__(self, image: np.ndarray, time: float) -> list[Box]:
        """Returns a box for each face in uint8 [H, W, 3], RGB, that is shown at `time` seconds."""
        near = self._before if time - self._searched < SEARCH_EVERY - 1e-6 else []
        found = self._detect(image, near) if near else []
        if len(found) < max(1, len(near)):
            found, self._searched = self._detect(image), time
        self._before = found
        return found


@dataclasses.dataclass(frozen=True)
class Track:
    """One face over the analysed frames of a video.

    Attributes:
      boxes: float64 [A, 4], left, top, width and height in each analysed frame; NaN where the face
        is absent.
      found: bool [A], where the detector found it; elsewhere a box is bridged.
    """

    boxes: np.ndarray
    found: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """bool [A], where there is a box."""
        return ~np.isnan(self.boxes[:, 0])

    @property
    def size(self) -> float:
        """Area times frames: what makes a face the largest."""
        return float(np.nansum(self.boxes[:, 2] * self.boxes[:, 3]))


def create(kind: str, min_size: float, yunet: str = "") -> Detector:
    """Returns a detector.

    Args:
      kind: haar: the Haar cascade for frontal faces that comes with OpenCV (Viola and Jones 2001);
        yunet: the network YuNet, from a file; none: each frame is one face as it is.
      min_size: height of the smallest face, as a share of the frame's shorter side.
      yunet: the ONNX file of YuNet.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: there is no such kind, or the file is not YuNet.
    """
    if kind == "none":
        return whole_frame
    if kind == "haar":
        return _Haar(min_size)
    if kind == "yunet":
        return _YuNet(yunet, min_size)
    raise ValueError(f"no detector {kind!r}; there are haar, yunet and none")


def whole_frame(image: np.ndarray, near: Sequence[Box] = ()) -> list[Box]:
    """The square in the middle of the frame, for videos that were cut to the face before."""
    height, width = image.shape[:2]
    side = min(height, width)
    return [Box((width - side) // 2, (height - side) // 2, side, side)]


class _Haar:
    def __init__(self, min_size: float):
        path = cv2.data.haarcascades + "haarcascade_frontalface_default.xml"  # type: ignore[attr-defined]
        self._cascade, self._min_size = cv2.CascadeClassifier(path), min_size

    def __call__(self, image: np.ndarray, near: Sequence[Box] = ()) -> list[Box]:
        small, scale = _shrink(image, HAAR_SIDE)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        least = max(24, round(self._min_size * min(grey.shape)))
        if near:
            scaled = [Box(*(side * scale for side in box)) for box in near]
            found = [face for box in scaled for face in self._around(grey, box, least)]
        else:
            found = self._search(grey, least)
        return [Box(*(side / scale for side in box)) for box in found]

    def _search(self, grey: np.ndarray, least: int, most: int = 0) -> list[Box]:
        """Finds faces of `least` to `most` pixels, 0 being as large as the picture."""
        found = self._cascade.detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least), maxSize=(most, most)
        )
        return [Box(*map(float, box)) for box in found]

    def _around(self, grey: np.ndarray, box: Box, least: int) -> list[Box]:
        """Finds the one face that is at, or close to, the place of a box, if it is there."""
        wide, high = AROUND * box.width, AROUND * box.height
        left, top = max(0, round(box.left - wide)), max(0, round(box.top - high))
        right, bottom = round(box.left + box.width + wide), round(box.top + box.height + high)
        least, most = max(least, round(box.width / GROWTH)), round(box.width * GROWTH)
        found = [
            face._replace(left=face.left + left, top=face.top + top)
            for face in self._search(grey[top:bottom, left:right], least, most)
        ]
        best = max(found, key=lambda face: overlap(face, box), default=None)
        return [best] if best and overlap(best, box) >= SAME_FACE else []


class _YuNet:
    def __init__(self, path: str, min_size: float):
        if not path or not epath.Path(path).exists():
            raise FileNotFoundError(
                f"config.predict.yunet = {path!r}: there is no such file. Give the ONNX file of YuNet "
                "(face_detection_yunet, from OpenCV's model zoo), or take config.predict.detector = 'haar'"
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
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    height = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one[2] * one[3] + two[2] * two[3] - shared)


def track(
    boxes: Sequence[Sequence[Box]], times: Sequence[float], least_hits: int = LEAST_HITS
) -> list[Track]:
    """Follows faces over time, and leaves out what flickers up as a detector's errors do.

    In each frame, boxes go to the tracks that they overlap most, best pairs first; a box that overlaps
    none begins a track. A face that comes back to its place after a while is the same, unless a track
    that has just been seen claims the box. Where a face was found in less than least_hits frames within
    two seconds around, it is taken for an error.

    Args:
      boxes: of each analysed frame, what the detector found.
      times: of each analysed frame, in seconds.
      least_hits: see above; videos with fewer frames need as many as they have.

    Returns:
      The faces, largest first, see Track.size.
    """
    chains: list[dict[int, Box]] = []  # boxes by place, in time order
    for place, found in enumerate(boxes):
        lasts = [next(reversed(chain.items())) for chain in chains]
        pairs = sorted(
            (
                (times[place] - times[last] <= LONGEST_GAP, overlap(before, box), c, b)
                for c, (last, before) in enumerate(lasts)
                for b, box in enumerate(found)
            ),
            reverse=True,
        )
        taken: set[int] = set()
        used: set[int] = set()
        for _, shared, c, b in pairs:
            if shared >= SAME_FACE and c not in used and b not in taken:
                chains[c][place] = found[b]
                used.add(c)
                taken.add(b)
        chains += [{place: box} for b, box in enumerate(found) if b not in taken]
    times_A = np.asarray(times, float)
    least_hits = min(least_hits, len(times_A))
    kept = [_without_flicker(chain, times_A, least_hits) for chain in chains]
    tracks = [_bridged(chain, times_A) for chain in kept if chain]
    return sorted(tracks, key=lambda found: found.size, reverse=True)


def _without_flicker(chain: dict[int, Box], times_A: np.ndarray, least_hits: int) -> dict[int, Box]:
    """Drops the frames of a track that have too few others of it within a second to either side."""
    seen = times_A[sorted(chain)]
    near = {place: int(np.sum(np.abs(seen - times_A[place]) <= 1.0)) for place in chain}
    return {place: box for place, box in chain.items() if near[place] >= least_hits}


def _bridged(chain: dict[int, Box], times_A: np.ndarray) -> Track:
    """Fills short gaps on a straight line, and smooths the boxes."""
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
    """Averages boxes over their neighbours in time; a gap is neither filled nor looked across."""
    smooth = boxes_A4.copy()
    for place in np.flatnonzero(~np.isnan(boxes_A4[:, 0])):
        near = boxes_A4[max(0, place - SMOOTH) : place + SMOOTH + 1]
        smooth[place] = np.nanmean(near, axis=0)
    return smooth


def crop(image: np.ndarray, box: Sequence[float], margin: float, size: int) -> np.ndarray:
    """Cuts out a square around a face; what lies outside of the frame repeats its border.

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
