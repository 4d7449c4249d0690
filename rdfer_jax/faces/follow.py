"""Following faces while the video is still running: what is seen so far is all there is.

As tracks.track, with its matching, except where that looks ahead or back without an end:

- A face is followed from its third tenth of a second within a second on; what came before is not used.
- Short gaps are not interpolated; the face is absent there.
- Boxes and key points are averaged over the last tenth of a second, not over that around the frame.
- A face that was not seen for FORGET seconds is another one when it comes back.
"""

import collections
import dataclasses
import itertools

import numpy as np

from rdfer_jax.faces.boxes import Detection
from rdfer_jax.faces.detect import Detector
from rdfer_jax.faces.tracks import (
    LEAST_HITS,
    ROUNDING,
    SEARCH_EVERY,
    SMOOTH,
    Finder,
    matched,
    tenths,
)

#: Time after which a face is forgotten, seconds.
FORGET = 5.0
#: Time of which detections are kept, seconds.
_KEPT = 1.0


@dataclasses.dataclass(frozen=True)
class Seen:
    """A face in a frame.

    Attributes:
      number: of the face, from 1, in the order of appearance; it stays.
      box: float [4], left, top, width and height, in pixels.
      points: float [P, 2], its key points, see boxes.Detection.
    """

    number: int
    box: np.ndarray
    points: np.ndarray


class _Chain:
    def __init__(self, number: int):
        self.number = number
        self.seen: collections.deque[tuple[float, Detection]] = collections.deque()

    def add(self, time: float, face: Detection) -> None:
        self.seen.append((time, face))
        while self.seen[0][0] < time - _KEPT - ROUNDING:
            self.seen.popleft()

    def is_steady(self, least: int) -> bool:
        return tenths(np.array([time for time, _ in self.seen])) >= least

    def now(self) -> Seen:
        last, face = self.seen[-1]
        recent = [
            [*found.box, *itertools.chain(*found.points)]
            for time, found in self.seen
            if time >= last - SMOOTH - ROUNDING and len(found.points) == len(face.points)
        ]
        row = np.mean(recent, axis=0)
        return Seen(self.number, row[:4], row[4:].reshape(-1, 2))


class Follower:
    """Finds and follows the faces of a running video; memory does not grow with its length."""

    def __init__(
        self,
        detect: Detector,
        least_hits: int = LEAST_HITS,
        small_every: float = SEARCH_EVERY,
    ):
        """Takes the detector.

        Args:
          detect: finds the faces in a frame.
          least_hits: in how many tenths of the last second a face must have been found.
          small_every: see tracks.Finder.
        """
        self._find, self._least = Finder(detect, small_every), least_hits
        self._chains: list[_Chain] = []
        self._count = 0

    def __call__(self, image: np.ndarray, time: float) -> list[Seen]:
        """Returns the faces in a frame, uint8 [H, W, 3] in RGB, at `time` seconds; largest first."""
        detected = self._find(image, time)
        self._chains = [chain for chain in self._chains if time - chain.seen[-1][0] <= FORGET]
        pairs = matched([chain.seen[-1] for chain in self._chains], detected, time)
        for place, face in pairs.items():
            self._chains[place].add(time, detected[face])
        current = [self._chains[place] for place in pairs]
        for face in sorted(set(range(len(detected))) - set(pairs.values())):
            self._count += 1
            self._chains.append(_Chain(self._count))
            self._chains[-1].add(time, detected[face])
            current.append(self._chains[-1])
        steady = [chain.now() for chain in current if chain.is_steady(self._least)]
        return sorted(steady, key=lambda seen: seen.box[2] * seen.box[3], reverse=True)
