"""What is predicted of a user's video: plain records, and their form in JSON.

Letters: A analysed frames of the video, N classes.
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of a video that was predicted at once.

    Attributes:
      start, end: times of its first and last frame, seconds.
      probs: float [N], probability of each class.
      agreement: how far the clips of the window agree, in [0, 1].
      key_numbers: frames around which the network read it again, best first; empty if it looks for none.
      key_times: their times, seconds.
    """

    start: float
    end: float
    probs: np.ndarray
    agreement: float
    key_numbers: tuple[int, ...]
    key_times: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Face:
    """One face over a video.

    Attributes:
      boxes: float [A, 4], left, top, width, height in pixels; NaN where it is absent.
      found: bool [A], where it was found; elsewhere a box is bridged over a short gap.
      timeline: float [A, N], probabilities in each analysed frame: the mean of the windows that it is
        in; NaN where it is in none.
      windows: in time order.
      thumbnails: key frames of the window that shows its key expression best, as (time, uint8
        [size, size, 3]); for pictures only.
    """

    boxes: np.ndarray
    found: np.ndarray
    timeline: np.ndarray
    windows: tuple[Window, ...]
    thumbnails: tuple[tuple[float, np.ndarray], ...] = ()

    @property
    def present(self) -> np.ndarray:
        """bool [A], where there is a box."""
        return ~np.isnan(self.boxes[:, 0])

    @property
    def probs(self) -> np.ndarray:
        """float [N], probabilities of the whole: the mean of the windows."""
        return np.mean([window.probs for window in self.windows], axis=0)

    @property
    def agreement(self) -> float:
        """Mean over the windows, in [0, 1]."""
        return float(np.mean([window.agreement for window in self.windows]))

    @property
    def expression(self) -> int:
        """The most probable class."""
        return int(self.probs.argmax())

    @property
    def best_window(self) -> Window:
        """The window that shows the key expression best."""
        return max(self.windows, key=lambda window: window.probs[self.expression])

    def key_span(self, times_A: np.ndarray) -> tuple[float, float]:
        """When the key expression shows, seconds.

        The stretch around its highest probability in which it stays at least half as probable.
        """
        value_A = np.nan_to_num(self.timeline[:, self.expression], nan=-1.0)
        first = last = int(value_A.argmax())
        least = value_A[first] / 2
        while first > 0 and value_A[first - 1] >= least:
            first -= 1
        while last + 1 < len(value_A) and value_A[last + 1] >= least:
            last += 1
        return float(times_A[first]), float(times_A[last])


@dataclasses.dataclass(frozen=True)
class VideoPrediction:
    """What is predicted of a video.

    Attributes:
      name: of the video.
      size: height and width of a frame, pixels.
      classes: names of the N classes.
      model: which run and checkpoint predicted.
      numbers: int [A], the frames that were looked at.
      times: float [A], their times, seconds.
      faces: largest first; empty if none was found.
      others: faces that were found and not predicted.
      unread: faces that were in view too briefly to be predicted.
    """

    name: str
    size: tuple[int, int]
    classes: tuple[str, ...]
    model: dict[str, Any]
    numbers: np.ndarray
    times: np.ndarray
    faces: tuple[Face, ...]
    others: int = 0
    unread: int = 0

    @property
    def with_face(self) -> int:
        """Frames with at least one of the faces."""
        if not self.faces:
            return 0
        return int(np.any([face.present for face in self.faces], axis=0).sum())

    def to_json(self) -> dict[str, Any]:
        """The record as docs/prediction.schema.json describes it."""
        return {
            "video": self.name,
            "height": self.size[0],
            "width": self.size[1],
            "model": self.model,
            "classes": list(self.classes),
            "analysed_frames": len(self.numbers),
            "frames_with_face": self.with_face,
            "seconds": _time(self.times[-1]) if len(self.times) else 0.0,
            "other_faces": self.others,
            "faces_too_brief": self.unread,
            "faces": [self._face(face) for face in self.faces],
        }

    def _face(self, face: Face) -> dict[str, Any]:
        start, end = face.key_span(self.times)
        best = face.best_window
        return {
            "expression": self.classes[face.expression],
            "probabilities": self._probs(face.probs),
            "agreement": _share(face.agreement),
            "key_expression": {
                "start": _time(start),
                "end": _time(end),
                "frames": _key_frames(best),
            },
            "frames_with_face": int(face.present.sum()),
            "windows": [
                {
                    "start": _time(window.start),
                    "end": _time(window.end),
                    "expression": self.classes[int(window.probs.argmax())],
                    "probabilities": self._probs(window.probs),
                    "agreement": _share(window.agreement),
                    "key_frames": _key_frames(window),
                }
                for window in face.windows
            ],
            "timeline": [
                {
                    "frame": int(number),
                    "time": _time(time),
                    "status": status(face, place),
                    "box": _box(face.boxes[place]),
                    "probabilities": self._probs(face.timeline[place]),
                }
                for place, (number, time) in enumerate(zip(self.numbers, self.times, strict=True))
            ],
        }

    def _probs(self, probs_N: np.ndarray) -> dict[str, float] | None:
        if np.isnan(probs_N).any():
            return None
        return {name: _share(p) for name, p in zip(self.classes, probs_N, strict=True)}


def status(face: Face, place: int) -> str:
    """Whether a face was "found" in an analysed frame, is "bridged" over a gap, or "absent"."""
    if face.found[place]:
        return "found"
    return "bridged" if face.present[place] else "absent"


def stretches(flags_A: np.ndarray) -> list[np.ndarray]:
    """Returns the places, int, of each run of True in bool [A], in order."""
    places = np.flatnonzero(flags_A)
    if not len(places):
        return []
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)


def _key_frames(window: Window) -> list[dict[str, float]]:
    pairs = zip(window.key_numbers, window.key_times, strict=True)
    return [{"frame": number, "time": _time(time)} for number, time in pairs]


def _box(box_4: np.ndarray) -> dict[str, float] | None:
    if np.isnan(box_4).any():
        return None
    names = ("left", "top", "width", "height")
    return {name: round(float(side), 1) for name, side in zip(names, box_4, strict=True)}


def _time(seconds: float) -> float:
    return round(float(seconds), 3)


def _share(value: float) -> float:
    return round(float(value), 4)
