"""Following faces over the frames of a video."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from rdfer_jax.faces.boxes import Detection, best_overlap, overlap
from rdfer_jax.faces.detect import SAME_FACE, Detector
from rdfer_jax.media.video import Frame

#: Time between two searches of the whole frame while a face is in view, and between two searches for small
#: faces while none is, seconds.
SEARCH_EVERY = 0.5
#: A face found in fewer tenths of a second than this, within a second on either side, is an error of the
#: detector. Not a number of frames, so that it means the same at any frame rate.
LEAST_HITS, HIT = 3, 0.1
#: Longest gap that is interpolated, seconds.
LONGEST_GAP = 0.5
#: Smallest overlap (intersection over union) of a face with itself after no longer a gap: it may be quick.
QUICK = 0.1
#: Boxes and key points are averaged over this time on either side, seconds.
SMOOTH = 0.1
#: Longest time that a frame stands for, seconds, unless the video has fewer frames throughout.
LONGEST_STEP = 3.0
#: Times that differ by less are equal, seconds.
ROUNDING = 1e-3


class Found(NamedTuple):
    """What was found in a frame.

    Attributes:
      faces: its faces.
      searched: time of the last search of a whole frame that was due, seconds.
      thorough: time of the last search for small faces, seconds.
    """

    faces: list[Detection]
    searched: float
    thorough: float


class Memory(Protocol):
    """What was found before in the same video."""

    def known(self, number: int) -> Found | None:
        """Returns what was found in a frame, by its number in the video; None if it is not known."""
        ...

    def add(self, number: int, time: float, found: Found) -> None:
        """Takes what was found in a frame, at `time` seconds."""
        ...


class Finder:
    """Finds the faces in successive frames of a video. Searches thoroughly only from time to time."""

    def __init__(self, detect: Detector, small_every: float = SEARCH_EVERY):
        """Takes the detector, and the time between searches for small faces while a face is in view."""
        self._detect, self._small_every = detect, small_every
        #: What was found in the last frame.
        self.state = Found([], -math.inf, -math.inf)

    def __call__(self, image: np.ndarray, time: float) -> list[Detection]:
        """Returns the faces in a frame, uint8 [H, W, 3] in RGB, at `time` seconds."""
        before, searched, thorough = self.state
        is_due = time - searched >= SEARCH_EVERY - ROUNDING
        wait = self._small_every if before else SEARCH_EVERY
        small = is_due and time - thorough >= wait - ROUNDING
        known = [face.box for face in before]
        found = [] if is_due or not known else self._detect(image, known)
        if is_due or len(found) < max(1, len(known)):
            found = _united(found, self._detect(image, small=small))
        if is_due and not small:
            missed = [box for box in known if not best_overlap(found, box, SAME_FACE)]
            found = _united(found, self._detect(image, missed)) if missed else found
        self.state = Found(found, time if is_due else searched, time if small else thorough)
        return found

    def recall(self, found: Found) -> list[Detection]:
        """Takes what was found in the next frame instead of looking at it; returns its faces."""
        self.state = found
        return found.faces


def _united(found: list[Detection], others: list[Detection]) -> list[Detection]:
    """Returns the faces found, and those of the others that are none of them."""
    return found + [face for face in others if not best_overlap(found, face.box, SAME_FACE)]


@dataclasses.dataclass(frozen=True)
class Track:
    """One face over the analyzed frames of a video.

    Attributes:
      boxes: float64 [A, 4], left, top, width and height in each analyzed frame; NaN where the face
        is absent.
      points: float64 [A, P, 2], the key points, see boxes.Detection; P is 0 without them.
      found: bool [A], where the detector found it; other boxes are interpolated.
    """

    boxes: np.ndarray
    points: np.ndarray
    found: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """bool [A], where there is a box."""
        return ~np.isnan(self.boxes[:, 0])

    @property
    def size(self) -> float:
        """Sum of the areas over all frames, by which faces are ordered."""
        return float(np.nansum(self.boxes[:, 2] * self.boxes[:, 3]))


@dataclasses.dataclass(frozen=True)
class Scan:
    """The faces of a video.

    Attributes:
      size: height and width of its frames.
      numbers: int [A], numbers of the analyzed frames.
      times: float [A], their times, seconds.
      tracks: the faces, largest first.
    """

    size: tuple[int, int]
    numbers: np.ndarray
    times: np.ndarray
    tracks: list[Track]


def scan(
    frames: Iterable[Frame],
    detect: Detector,
    watch: Callable[[Frame, list[Detection]], None] | None = None,
    memory: Memory | None = None,
    small_every: float = SEARCH_EVERY,
) -> Scan:
    """Finds and follows the faces of a video.

    Args:
      frames: the frames to analyze, in time order.
      detect: finds the faces in one.
      watch: takes each frame and the faces found in it.
      memory: knows what was found in some frames already, from the first one on, and takes the others.
      small_every: see Finder.
    """
    numbers, times, found, size = [], [], [], (0, 0)
    find = Finder(detect, small_every)
    for frame in frames:
        numbers.append(frame.number)
        times.append(frame.time)
        if memory and (known := memory.known(frame.number)):
            found.append(find.recall(known))
        else:
            found.append(find(frame.image, frame.time))
            if memory:
                memory.add(frame.number, frame.time, find.state)
        if watch:
            watch(frame, found[-1])
        size = frame.image.shape[:2]
    return Scan(size, np.array(numbers, int), np.array(times, float), track(found, times))


def track(
    detections: Sequence[Sequence[Detection]],
    times: Sequence[float],
    least_hits: int = LEAST_HITS,
) -> list[Track]:
    """Follows faces over time, and drops those that flicker, as errors of a detector do.

    In each frame, faces are matched with the tracks that they overlap most, best pairs first; a face that
    overlaps none starts a track. A face that returns to its place after a while keeps its track, unless a
    track that has just been seen matches too. Detections with fewer than least_hits of their track within a
    second on either side are dropped.

    Args:
      detections: for each analyzed frame, the faces that the detector found.
      times: for each analyzed frame, seconds.
      least_hits: see above, and HIT; where there are fewer frames, such as in a time lapse, all of them.

    Returns:
      The faces, largest first, see Track.size.
    """
    chains: list[dict[int, Detection]] = []  # detections by place, in time order
    for place, detected in enumerate(detections):
        ends = [next(reversed(chain.items())) for chain in chains]
        lasts = [(times[last], before) for last, before in ends]
        pairs = matched(lasts, detected, times[place])
        for c, f in pairs.items():
            chains[c][place] = detected[f]
        taken = set(pairs.values())
        chains += [{place: face} for f, face in enumerate(detected) if f not in taken]
    times_A = np.asarray(times, float)
    kept = [_without_flicker(chain, times_A, least_hits) for chain in chains]
    tracks = [_bridged(chain, times_A) for chain in kept if chain]
    return sorted(tracks, key=lambda track: track.size, reverse=True)


def matched(
    lasts: Sequence[tuple[float, Detection]], detected: Sequence[Detection], time: float
) -> dict[int, int]:
    """Returns which track each face of a frame continues; see track.

    Args:
      lasts: the time, in seconds, and the place where each track was last seen.
      detected: the faces of the frame.
      time: of the frame, seconds.

    Returns:
      The index of the face, by that of the track; tracks and faces without a match are left out.
    """
    pairs = sorted(
        (
            (time - last <= LONGEST_GAP, overlap(before.box, face.box), c, f)
            for c, (last, before) in enumerate(lasts)
            for f, face in enumerate(detected)
        ),
        reverse=True,
    )
    found: dict[int, int] = {}
    taken: set[int] = set()
    for is_recent, shared, c, f in pairs:
        least = QUICK if is_recent else SAME_FACE
        if shared >= least and c not in found and f not in taken:
            found[c] = f
            taken.add(f)
    return found


def tenths(times_n: np.ndarray) -> int:
    """Returns in how many tenths of a second there is one of the times."""
    return len(np.unique(np.floor((times_n + ROUNDING) / HIT)))


def _without_flicker(
    chain: dict[int, Detection], times_A: np.ndarray, least_hits: int
) -> dict[int, Detection]:
    """Drops what has too few others of its track within a second on either side."""
    places = np.array(sorted(chain))
    hits = _tenths_near(times_A[places], times_A[places])
    needed = np.minimum(least_hits, _tenths_near(times_A, times_A[places]))
    kept = set(places[hits >= needed].tolist())
    return {place: face for place, face in chain.items() if place in kept}


def _tenths_near(times_n: np.ndarray, at_m: np.ndarray) -> np.ndarray:
    """Returns in how many tenths within a second of some of the times, in order, there is one; int [m]."""
    tenth_n = np.floor((times_n + ROUNDING) / HIT)
    earlier_n = np.cumsum(np.diff(tenth_n, prepend=tenth_n[:1]) != 0)
    reach = 1.0 + 1e-9
    first = np.searchsorted(times_n, at_m - reach)
    last = np.searchsorted(times_n, at_m + reach, side="right") - 1
    return earlier_n[last] - earlier_n[first] + 1


def _bridged(chain: dict[int, Detection], times_A: np.ndarray) -> Track:
    """Interpolates over short gaps, and smooths the boxes and the key points."""
    places = np.array(sorted(chain))
    rows = np.array([(*face.box, *itertools.chain(*face.points)) for face in chain.values()])
    rows_AD = np.full((len(times_A), rows.shape[1]), np.nan)
    rows_AD[places] = rows
    found_A = ~np.isnan(rows_AD[:, 0])
    for before, after in itertools.pairwise(places.tolist()):
        if after - before > 1 and times_A[after] - times_A[before] <= LONGEST_GAP:
            inside = np.arange(before + 1, after)
            share = (times_A[inside] - times_A[before]) / (times_A[after] - times_A[before])
            step = rows_AD[after] - rows_AD[before]
            rows_AD[inside] = rows_AD[before] + share[:, None] * step
    smooth_AD = _smooth(rows_AD, times_A)
    return Track(smooth_AD[:, :4], smooth_AD[:, 4:].reshape(len(times_A), -1, 2), found_A)


def _smooth(rows_AD: np.ndarray, times_A: np.ndarray) -> np.ndarray:
    """Averages rows over their neighbors in time; NaN stay, and end the averages.

    Near an end the time is shorter, on both sides, because a one-sided average of what moves lags behind.
    """
    smooth = rows_AD.copy()
    for run in runs_of_true(~np.isnan(rows_AD[:, 0]), times_A):
        times = times_A[run]
        for place, time in zip(run.tolist(), times.tolist(), strict=True):
            reach = min(SMOOTH, time - times[0], times[-1] - time) + ROUNDING
            first, end = np.searchsorted(times, (time - reach, time + reach))
            smooth[place] = rows_AD[run[first:end]].mean(axis=0)
    return smooth


def gaps(times_A: np.ndarray) -> np.ndarray:
    """Returns bool [A - 1], where between two successive frames is a gap of which nothing is known."""
    steps = np.diff(times_A)
    return steps > max(LONGEST_STEP, 2 * float(np.median(steps))) if len(steps) else steps > 0


def runs_of_true(flags_A: np.ndarray, times_A: np.ndarray | None = None) -> list[np.ndarray]:
    """Returns the indices of each run of True in bool [A], in order; given times, a gap ends a run."""
    places = np.flatnonzero(flags_A)
    if not len(places):
        return []
    breaks = np.diff(places) > 1
    if times_A is not None:
        breaks |= gaps(times_A)[places[:-1]]  # the gap after each, if the next one follows
    return np.split(places, np.flatnonzero(breaks) + 1)
