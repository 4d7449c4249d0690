"""The prediction of a user's video: plain data, and their form in JSON.

Letters: A analyzed frames of the video, N classes.
"""

import dataclasses
from typing import Any

import numpy as np

from rdfer_jax.faces.tracks import runs_of_true

NO_FACE = "no face was found"
TOO_BRIEF = "no face was in view long enough"
UNSURE = "unsure"


@dataclasses.dataclass(frozen=True)
class Window:
    """The prediction of a few seconds of a video, one input of the network.

    Attributes:
      start, end: times of its first and last frame, seconds.
      probs: float [N], probability of each class.
      agreement: how far the clips of the window agree, in [0, 1].
      key_numbers: numbers of its key frames, best first; empty for networks that choose none.
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
    """The prediction of one face over a video.

    Attributes:
      boxes: float [A, 4], left, top, width, height in pixels; NaN where it is absent.
      found: bool [A], where the detector found it; other boxes are interpolated over short gaps.
      timeline: float [A, N], probabilities in each analyzed frame, see timecourse; NaN if no window
        contains it.
      windows: in time order.
      thumbnails: key frames of best_window, as (time, uint8 [S, S, 3] in RGB); for pictures only.
      portraits: the face at even steps of time, in the same form.
    """

    boxes: np.ndarray
    found: np.ndarray
    timeline: np.ndarray
    windows: tuple[Window, ...]
    thumbnails: tuple[tuple[float, np.ndarray], ...] = ()
    portraits: tuple[tuple[float, np.ndarray], ...] = ()

    @property
    def present(self) -> np.ndarray:
        """bool [A], where there is a box."""
        return ~np.isnan(self.boxes[:, 0])

    @property
    def probs(self) -> np.ndarray:
        """float [N], probabilities for the whole video: the mean over the windows."""
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
        """The window in which the key expression is most probable."""
        return max(self.windows, key=lambda window: window.probs[self.expression])

    def key_span(self, times_A: np.ndarray) -> tuple[float, float]:
        """Returns start and end of the key expression, seconds.

        Around the peak of its probability, this is the time in which it stays above half of the peak; it
        ends at a gap.
        """
        value_A = np.nan_to_num(self.timeline[:, self.expression], nan=-1.0)
        peak = int(value_A.argmax())
        runs = runs_of_true(value_A >= value_A[peak] / 2, times_A)
        run = next(run for run in runs if peak in run)
        return float(times_A[run[0]]), float(times_A[run[-1]])


@dataclasses.dataclass(frozen=True)
class VideoPrediction:
    """The prediction of a video.

    Attributes:
      name: of the video.
      size: height and width of a frame, pixels.
      classes: names of the N classes.
      model: run, checkpoint and step that predicted.
      numbers: int [A], numbers of the analyzed frames.
      times: float [A], their times, seconds.
      faces: largest first; empty if none was found.
      other_faces: number of smaller faces, which were not predicted.
      faces_too_brief: number of faces that were in view too briefly to be predicted.
      damage: what is missing or damaged in the video; empty if nothing is.
      min_confidence: below this probability, a prediction is called unsure.
      identities: whether each face is a person, as far as an embedding can tell; else a place.
    """

    name: str
    size: tuple[int, int]
    classes: tuple[str, ...]
    model: dict[str, Any]
    numbers: np.ndarray
    times: np.ndarray
    faces: tuple[Face, ...]
    other_faces: int = 0
    faces_too_brief: int = 0
    damage: str = ""
    min_confidence: float = 0.0
    identities: bool = False

    def expression(self, probs_N: np.ndarray) -> str:
        """Returns the most probable class, or UNSURE if it is not probable enough."""
        best = int(probs_N.argmax())
        return self.classes[best] if probs_N[best] >= self.min_confidence else UNSURE

    @property
    def with_face(self) -> int:
        """Number of analyzed frames with at least one of the faces."""
        if not self.faces:
            return 0
        return int(np.any([face.present for face in self.faces], axis=0).sum())

    @property
    def problem(self) -> str:
        """Why nothing was predicted; empty if something was."""
        if self.faces:
            return ""
        return TOO_BRIEF if self.faces_too_brief else NO_FACE

    def verdict(self, face: Face) -> str:
        """Returns the prediction of one of the faces in a few words."""
        start, end = face.key_span(self.times)
        best = f"{self.classes[face.expression]} {face.probs[face.expression]:.0%}"
        if self.expression(face.probs) == UNSURE:
            best = f"{UNSURE} (at best {best})"
        return f"{best}, agreement {face.agreement:.2f}, strongest from {start:.1f} to {end:.1f} s"

    def to_json(self) -> dict[str, Any]:
        """Returns the prediction in the form of prediction.schema.json, next to this file."""
        return {
            "video": self.name,
            "height": self.size[0],
            "width": self.size[1],
            "model": self.model,
            "classes": list(self.classes),
            "analyzed_frames": len(self.numbers),
            "frames_with_face": self.with_face,
            "seconds": _time(self.times[-1]) if len(self.times) else 0.0,
            "other_faces": self.other_faces,
            "faces_too_brief": self.faces_too_brief,
            "identities": self.identities,
            "damage": self.damage,
            "faces": [self._face(face) for face in self.faces],
        }

    def _face(self, face: Face) -> dict[str, Any]:
        start, end = face.key_span(self.times)
        best = face.best_window
        return {
            "expression": self.expression(face.probs),
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
                    "expression": self.expression(window.probs),
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
    """Returns whether a face was "found" in an analyzed frame, "bridged" over a gap, or is "absent"."""
    if face.found[place]:
        return "found"
    return "bridged" if face.present[place] else "absent"


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
