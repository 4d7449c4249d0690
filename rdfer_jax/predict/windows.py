"""Which frames of a video the network reads, and which are shown.

Letters: A analyzed frames of the video, F frames of the network's input.
"""

import dataclasses
import itertools

import numpy as np

from rdfer_jax.faces.kept import step
from rdfer_jax.faces.tracks import runs_of_true
from rdfer_jax.predict.stream import LEAST_FRAMES

#: Pictures of a face along its timeline.
PORTRAITS = 10
#: Of longer videos, only about this many frames may become portraits.
CANDIDATES = 50


@dataclasses.dataclass(frozen=True)
class Plan:
    """A window to predict.

    Attributes:
      face: index of the face.
      chosen: int [F], indices of the analyzed frames that the network reads.
      places: int [n], indices of all its analyzed frames.
    """

    face: int
    chosen: np.ndarray
    places: np.ndarray


def windows(
    present_A: np.ndarray, times_A: np.ndarray, length: float, stride: float
) -> list[np.ndarray]:
    """Returns the indices of the analyzed frames of each window, in time order.

    In each run of frames with the face, without a gap in time, windows of `length` seconds start every
    `stride` seconds; the last one ends with the run. A shorter run is one window, unless it has fewer than
    LEAST_FRAMES frames and the video has more.

    Args:
      present_A: bool [A], whether the face is there.
      times_A: float [A], seconds.
      length: seconds.
      stride: seconds.
    """
    least = min(LEAST_FRAMES, len(times_A))
    result = []
    runs = runs_of_true(present_A, times_A)
    # Frames further apart than a window are in no window together, so the cost grows with frames, not time.
    near = (np.split(run, np.flatnonzero(np.diff(times_A[run]) > length) + 1) for run in runs)
    for run in itertools.chain.from_iterable(near):
        times = times_A[run]
        last = times[-1] - length
        starts = np.arange(times[0], last - 1e-6, stride)
        for start in [*starts.tolist(), max(last, times[0])]:
            first, end = np.searchsorted(times, [start - 1e-6, start + length + 1e-6])
            inside = run[first:end]
            if len(inside) >= least:
                result.append(inside)
    return result


def portrait_places(present_A: np.ndarray, times_A: np.ndarray) -> list[int]:
    """Returns the analyzed frames that show a face in the middle of each tenth of the time, if it is there.

    At least one, if it is anywhere. Arguments as of windows.
    """
    places_P = np.arange(0, len(times_A), step(len(times_A), CANDIDATES))
    middles = times_A[0] + (np.arange(PORTRAITS) + 0.5) / PORTRAITS * (times_A[-1] - times_A[0])
    nearest = places_P[np.abs(times_A[places_P, None] - middles).argmin(axis=0)]
    places = list(dict.fromkeys(place for place in nearest.tolist() if present_A[place]))
    first = [*places_P[present_A[places_P]], *np.flatnonzero(present_A)]
    return places or [int(place) for place in first[:1]]
