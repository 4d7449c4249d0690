"""From what the network says of the windows of a face to the prediction of the face.

Letters: F frames of the network's input, I instants, N classes, S side of a crop.
"""

import dataclasses

import numpy as np
from scipy import special

from rdfer_jax.faces.tracks import Scan, Track
from rdfer_jax.predict.result import Face, Window
from rdfer_jax.predict.timecourse import TimeCourse
from rdfer_jax.predict.windows import Plan
from rdfer_jax.types import Prediction


@dataclasses.dataclass(frozen=True)
class Clip:
    """The crops of a planned window.

    Attributes:
      plan: the window.
      crops: uint8 [F, S, S, 3], RGB, the face in each frame that the network reads.
    """

    plan: Plan
    crops: np.ndarray


Thumbnails = tuple[tuple[float, np.ndarray], ...]


def window_of(
    prediction: Prediction, row: int, clip: Clip, found: Scan, temperature: float
) -> tuple[Window, Thumbnails]:
    """Returns the prediction of a window, and its key frames as in Face.thumbnails."""
    instants = () if prediction.key_instants is None else prediction.key_instants[row].tolist()
    keys: dict[int, np.ndarray] = {}  # short windows repeat frames
    for position in instants:
        keys.setdefault(int(clip.plan.chosen[position]), clip.crops[position])
    window = Window(
        start=float(found.times[clip.plan.places[0]]),
        end=float(found.times[clip.plan.places[-1]]),
        probs=special.softmax(prediction.logits[row].astype(np.float64) / temperature),
        agreement=float(prediction.agreement[row]),
        key_numbers=tuple(int(found.numbers[place]) for place in keys),
        key_times=tuple(float(found.times[place]) for place in keys),
    )
    return window, tuple(zip(window.key_times, keys.values(), strict=True))


#: Indices int [I] of the analyzed frames of the instants, and their probabilities float [I, N].
Instants = tuple[np.ndarray, np.ndarray]


def instants_of(
    prediction: Prediction, row: int, clip: Clip, temperature: float
) -> Instants | None:
    """Returns what the instants of a window predict; None for networks that classify none."""
    if prediction.instants is None or prediction.instant_logits is None:
        return None
    logits_IN = np.asarray(prediction.instant_logits[row], np.float64)
    return clip.plan.chosen[prediction.instants[row]], special.softmax(
        logits_IN / temperature, axis=-1
    )


class Collector:
    """Collects the windows of a face. Of their key frames it keeps one set per class, not all."""

    def __init__(self, track: Track, course: TimeCourse):
        self.windows: list[Window] = []
        self._track, self._course = track, course
        self._best: dict[int, tuple[float, Thumbnails]] = {}

    def add(
        self, places: np.ndarray, window: Window, thumbnails: Thumbnails, instants: Instants | None
    ) -> None:
        """Adds a window: of which analyzed frames, its prediction, its key frames and its instants."""
        self.windows.append(window)
        self._course.add_window(places, window.probs)
        if instants:
            self._course.add_instants(places, *instants)
        for index, probability in enumerate(window.probs.tolist()):
            if index not in self._best or probability > self._best[index][0]:
                self._best[index] = (probability, thumbnails)

    def face(self, smooth: float, portraits: Thumbnails) -> Face:
        """Returns the prediction of the face."""
        probs_AN = self._course.probs(smooth)
        face = Face(self._track.boxes, self._track.found, probs_AN, tuple(self.windows))
        thumbnails = self._best[face.expression][1]
        return dataclasses.replace(face, thumbnails=thumbnails, portraits=portraits)
