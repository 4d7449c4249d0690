"""Prediction of a video that has no end: the faces at each stride, from the seconds before it.

Memory does not grow: of each face, the crops of one window are kept. The faces are followed as in
faces.follow, so that results differ from those of a whole video at the start of a face and at gaps.

Letters: F frames of the network's input, N classes, S side of a crop.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy import special

from rdfer_jax import config as config_lib
from rdfer_jax.faces.cut import Cut
from rdfer_jax.faces.detect import Detector
from rdfer_jax.faces.follow import Follower, Seen
from rdfer_jax.faces.tracks import LEAST_HITS
from rdfer_jax.media.video import Frame, Thinner
from rdfer_jax.pipeline.sampling import chosen_frames
from rdfer_jax.predict.result import UNSURE
from rdfer_jax.predict.trained import Trained

#: A face in view for fewer analyzed frames is not predicted.
LEAST_FRAMES = 3


@dataclasses.dataclass(frozen=True)
class LiveFace:
    """A face now.

    Attributes:
      number: of the face, from 1; it stays.
      box: float [4], left, top, width, height in pixels.
      probs: float [N], probability of each class in the last window, calibrated.
      expression: the most probable class, or result.UNSURE.
      confidence: its probability, or that of the class it would be.
      agreement: how far the clips of the window agree, in [0, 1].
    """

    number: int
    box: np.ndarray
    probs: np.ndarray
    expression: str
    confidence: float
    agreement: float


@dataclasses.dataclass(frozen=True)
class Moment:
    """The faces at a time.

    Attributes:
      time: of the frame, seconds.
      number: of the frame.
      faces: largest first; with predict.faces = largest, at most one.
    """

    time: float
    number: int
    faces: tuple[LiveFace, ...]


class Stream:
    """The state of a running prediction."""

    def __init__(
        self,
        network: Trained,
        detect: Detector,
        cut: Cut,
        settings: config_lib.Predict,
        fps: float,
        temperature: float,
    ):
        """Arguments are attributes of a Predictor."""
        self._network, self._cut, self._settings = network, cut, settings
        self._temperature = temperature
        # A whole frame that counts as a face is no error of a detector.
        least = 1 if cut.detector == "none" else LEAST_HITS
        self._follow = Follower(detect, least, settings.small_every)
        self._keeps, self._next = Thinner(fps), -np.inf
        self._crops: dict[int, collections.deque[tuple[float, np.ndarray]]] = {}

    def moments(
        self, frames: Iterable[Frame], watch: Callable[[Frame, list[Seen]], None] | None = None
    ) -> Iterator[Moment]:
        """Yields a moment at each stride, as soon as its frame is read; see Predictor.stream."""
        size = self._network.config.data.image_size
        for frame in frames:
            if not self._keeps(frame.time):
                continue
            seen = self._follow(frame.image, frame.time)
            seen = seen[: 1 if self._settings.faces == "largest" else None]
            if watch:
                watch(frame, seen)
            start = frame.time - self._settings.window - 1e-6
            for face in seen:
                crop = self._cut.crop_at(frame.image, face.box.tolist(), face.points, size)
                kept = self._crops.setdefault(face.number, collections.deque())
                kept.append((frame.time, crop))
            for number, kept in list(self._crops.items()):
                while kept and kept[0][0] < start:
                    kept.popleft()
                if not kept:
                    del self._crops[number]
            if frame.time >= self._next - 1e-6:
                ready = [face for face in seen if len(self._crops[face.number]) >= LEAST_FRAMES]
                if ready or not seen:
                    self._next = frame.time + self._settings.stride
                    yield Moment(frame.time, frame.number, tuple(map(self._predicted, ready)))

    def _predicted(self, face: Seen) -> LiveFace:
        """Reads the last window of a face; one at a time, so that one shape is compiled."""
        kept, data = self._crops[face.number], self._network.config.data
        places = chosen_frames(len(kept), data)
        crops = np.stack([kept[place][1] for place in places.tolist()])[None]
        found = self._network.predict(crops, np.ones(1, bool), mirror=self._settings.mirror)
        probs_N = special.softmax(found.logits[0].astype(np.float64) / self._temperature)
        best = int(probs_N.argmax())
        is_sure = probs_N[best] >= self._settings.min_confidence
        return LiveFace(
            number=face.number,
            box=face.box,
            probs=probs_N,
            expression=self._network.classes[best] if is_sure else UNSURE,
            confidence=float(probs_N[best]),
            agreement=float(found.agreement[0]),
        )
