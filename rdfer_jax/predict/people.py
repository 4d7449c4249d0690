"""Which tracks of a video show the same person.

Tracks follow places. Here they are divided where the place alone does not tell who it is: at cuts, where a
face was absent, and where two faces touched. A few sharp, frontal faces of each piece are embedded; then
the pieces that lie nearest are joined, never two that are in view at the same time. The embeddings are
compared within the video only, and forgotten with it.

Letters: A analyzed frames of the video, P pieces, D length of an embedding.
"""

import itertools
import logging
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import cv2
import numpy as np

from rdfer_jax.faces.boxes import Box, Detection, overlap
from rdfer_jax.faces.cut import crop
from rdfer_jax.faces.detect import SAME_FACE
from rdfer_jax.faces.tracks import Track, runs_of_true
from rdfer_jax.media.video import Frame
from rdfer_jax.predict.embedding import SIDE

log = logging.getLogger(__name__)

#: Between two successive analyzed frames is a cut if they, seen as 32 x 32 pixels, differ by more gray
#: levels, and by so many times more than the two before: quick movement goes on.
CUT, SUDDEN, _THUMB = 20.0, 2.0, (32, 32)
#: One face is kept of each person in this time, the best, seconds.
EVERY = 1.0
#: Faces of each piece that are embedded, the best ones.
FEW = 4
#: Distance of the eyes below which a face is too small, pixels.
LEAST_EYES = 16.0
#: How far the nose may lie from the middle of the eyes, along their line, as a share of their distance.
TURNED = 0.35
#: Faces whose boxes overlap more touch each other (intersection over union).
TOUCHING = 0.05
#: Pieces whose mean embeddings are nearer are of the same person ...
SAME = 0.55
#: ... or nearer than SAME + PLACE, if the face just was absent from its place for a while.
PLACE = 0.1
#: Of a face as the network expects it: distance of the eyes, distance from the line of the eyes to the
#: mouth, and from the top to the eyes, as shares of the side. They are those of the mean face of dlib with
#: its padding of 0.25.
_EYES, _MOUTH, _TOP = 0.351, 0.386, 0.314

#: Maps faces, each uint8 [SIDE, SIDE, 3], to embeddings, float [n, D]; see embedding.Embedder.
Embed = Callable[[Sequence[np.ndarray]], np.ndarray]


class Kept(NamedTuple):
    """A face that is kept: where it was found, how sharp and frontal it is, its number in the file."""

    place: int
    box: Box
    quality: float
    number: int


class _Second(NamedTuple):
    """A face of the last second: when that began, where the face is now, the index of its best one."""

    start: float
    box: Box
    best: int


class Piece(NamedTuple):
    """A part of a track in which the face surely is the same person's.

    Attributes:
      track: index of the track.
      first, end: its analyzed frames.
      part: number of the part of the track; within a part, the face only was absent between pieces.
      shot: number of the cuts before it.
    """

    track: int
    first: int
    end: int
    part: int
    shot: int


class Faces:
    """The best face of each second of each person, and the cuts. Use as a context manager."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        #: Indices of the analyzed frames before which there is a cut.
        self.cuts: list[int] = []
        self._places = 0
        self._thumb: np.ndarray | None = None
        self._change = 0.0
        self._now: list[_Second] = []
        self._file = tempfile.SpooledTemporaryFile(2**25)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def watch(self, frame: Frame, found: Sequence[Detection]) -> None:
        """Takes the next analyzed frame, and the faces that the detector found in it."""
        # A face that is not seen now, or touches another one, may be someone else's when it is back.
        before, self._now = self._now, []
        if self._is_cut(frame.image):
            self.cuts.append(self._places)
            before = []
        for face in found:
            others = (overlap(face.box, other.box) for other in found if other is not face)
            if is_clear(face) and max(others, default=0.0) <= TOUCHING:
                self._now.append(self._take(frame, face, before))
        self._places += 1

    def image(self, kept: Kept) -> np.ndarray:
        """Returns a face that is kept, uint8 [SIDE, SIDE, 3]."""
        self._file.seek(kept.number * SIDE * SIDE * 3)
        return np.frombuffer(self._file.read(SIDE * SIDE * 3), np.uint8).reshape(SIDE, SIDE, 3)

    def _is_cut(self, image: np.ndarray) -> bool:
        """Returns whether there is a cut between a frame and the one before."""
        thumb = cv2.resize(image, _THUMB, interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._thumb = self._thumb, thumb
        last, self._change = self._change, 0.0
        if before is not None:
            self._change = float(np.abs(thumb - before).mean())
        return self._change > max(CUT, SUDDEN * last)

    def _take(self, frame: Frame, face: Detection, before: Sequence[_Second]) -> _Second:
        """Keeps a face if none of its second is better; returns that second."""
        image = portrait(frame.image, face)
        quality = sharpness(image) * (1 - turned(face) / TURNED)
        second = _Second(frame.time, face.box, len(self.kept))
        for known in before:
            if frame.time - known.start < EVERY and overlap(known.box, face.box) >= SAME_FACE:
                second = known._replace(box=face.box)
        if second.best == len(self.kept) or quality > self.kept[second.best].quality:
            kept = Kept(self._places, face.box, quality, second.best)
            self.kept[second.best : second.best + 1] = [kept]
            self._file.seek(second.best * SIDE * SIDE * 3)
            self._file.write(image.tobytes())
        return second


def is_clear(face: Detection) -> bool:
    """Returns whether a face is large and frontal enough to be embedded."""
    eyes, _, mouth = _marks(face)
    return (
        float(np.hypot(*(eyes[1] - eyes[0]))) >= LEAST_EYES
        and turned(face) < TURNED
        and _down(eyes, mouth) > 0
    )


def turned(face: Detection) -> float:
    """Returns how far a face is turned to a side; see TURNED."""
    eyes, nose, _ = _marks(face)
    across = eyes[1] - eyes[0]
    return float(abs((nose - eyes.mean(axis=0)) @ across) / (across @ across))


def sharpness(image: np.ndarray) -> float:
    """Returns the variance of the second derivative of a picture's brightness."""
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def portrait(image: np.ndarray, face: Detection) -> np.ndarray:
    """Cuts a face out of uint8 [H, W, 3] as the network expects it, uint8 [SIDE, SIDE, 3]."""
    eyes, _, mouth = _marks(face)
    across = eyes[1] - eyes[0]
    length = float(np.hypot(*across))
    side = (length / _EYES + _down(eyes, mouth) / _MOUTH) / 2
    down = np.array([-across[1], across[0]]) / length
    left, top = eyes.mean(axis=0) + down * (0.5 - _TOP) * side - side / 2
    return crop(image, (left, top, side, side), 0.0, SIDE, eyes)


def _marks(face: Detection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the eyes, float [2, 2], the nose and the mouth, float [2], as (x, y).

    BlazeFace gives the middle of the mouth before the ears, YuNet its corners at the end.
    """
    points = np.array(face.points)
    return points[:2], points[2], points[3:5].mean(axis=0) if len(points) == 5 else points[3]


def _down(eyes: np.ndarray, mouth: np.ndarray) -> float:
    """Returns how far the mouth lies below the line of the eyes, pixels."""
    across = eyes[1] - eyes[0]
    x, y = mouth - eyes.mean(axis=0)
    return float((across[0] * y - across[1] * x) / np.hypot(*across))


def people(tracks: Sequence[Track], faces: Faces, embed: Embed, name: str) -> list[Track]:
    """Joins the tracks of the same person, and divides those of several.

    Args:
      tracks: of the video.
      faces: what was kept while they were found.
      embed: the embedding.
      name: of the video, for the log.

    Returns:
      A track for each person, largest first. Pieces without a clear face are followed by their place.
    """
    if not tracks:
        return []
    pieces = split(tracks, faces.cuts)
    chosen = _chosen(tracks, pieces, faces.kept)
    clear = [p for p, kept in enumerate(chosen) if kept]
    labels_P = np.full(len(pieces), -1)
    if clear:
        images = [faces.image(kept) for p in clear for kept in chosen[p]]
        ends = np.cumsum([len(chosen[p]) for p in clear])
        means = [vectors.mean(axis=0) for vectors in np.split(embed(images), ends[:-1])]
        weights = np.diff(ends, prepend=0)
        together, beside = relations([pieces[p] for p in clear])
        labels_P[clear] = group(np.array(means), weights, together, beside)
    _follow_places(pieces, labels_P)
    result = [
        _joined(tracks, [pieces[p] for p in np.flatnonzero(labels_P == label).tolist()])
        for label in np.unique(labels_P)
    ]
    log.info(
        "%s: people: %d, by tracks: %d, divided into pieces: %d; followed by place, because no face in "
        "them was clear: %d",
        name, len(result), len(tracks), len(pieces), len(pieces) - len(clear),
    )  # fmt: skip
    return sorted(result, key=lambda track: track.size, reverse=True)


def split(tracks: Sequence[Track], cuts: Sequence[int]) -> list[Piece]:
    """Divides tracks at cuts, where the face was absent, and where two faces part that touched."""
    pieces = []
    is_cut_A = np.zeros(len(tracks[0].found), bool)
    is_cut_A[list(cuts)] = True
    shots_A = is_cut_A.cumsum()
    for index, (track, touches_A) in enumerate(zip(tracks, _touching(tracks), strict=True)):
        doubts_A = is_cut_A.copy()
        doubts_A[1:] |= touches_A[:-1] & ~touches_A[1:]
        parts_A = doubts_A.cumsum()
        for run in runs_of_true(track.present):
            for places in np.split(run, np.flatnonzero(doubts_A[run[1:]]) + 1):
                first, last = int(places[0]), int(places[-1])
                part, shot = int(parts_A[first]), int(shots_A[first])
                pieces.append(Piece(index, first, last + 1, part, shot))
    return pieces


def _touching(tracks: Sequence[Track]) -> list[np.ndarray]:
    """Returns, for each track, where its box touches that of another, bool [A]."""
    present: dict[int, list[int]] = {}
    for index, track in enumerate(tracks):
        for place in np.flatnonzero(track.present).tolist():
            present.setdefault(place, []).append(index)
    touches = [np.zeros(len(track.found), bool) for track in tracks]
    for place, there in present.items():
        for one, two in itertools.combinations(there, 2):
            if overlap(tracks[one].boxes[place], tracks[two].boxes[place]) > TOUCHING:
                touches[one][place] = touches[two][place] = True
    return touches


def _chosen(
    tracks: Sequence[Track], pieces: Sequence[Piece], kept: Sequence[Kept]
) -> list[list[Kept]]:
    """Returns the faces of each piece that are to be embedded, best first."""
    ordered = sorted(kept)
    places = [face.place for face in ordered]
    owners: dict[Kept, tuple[float, int]] = {}
    for p, piece in enumerate(pieces):
        start, end = np.searchsorted(places, (piece.first, piece.end))
        for face in ordered[start:end]:
            shared = overlap(tracks[piece.track].boxes[face.place], face.box)
            if shared >= max(SAME_FACE, owners.get(face, (0.0, 0))[0]):
                owners[face] = shared, p
    chosen: list[list[Kept]] = [[] for _ in pieces]
    for face, (_, p) in owners.items():
        chosen[p].append(face)
    return [sorted(faces, key=lambda face: -face.quality)[:FEW] for faces in chosen]


def relations(pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which pieces are in view at the same time, and which lie in one part; bool [P, P]."""
    track_P, first_P, end_P, part_P, _ = np.array(pieces).T
    together_PP = (first_P[:, None] < end_P) & (first_P < end_P[:, None])
    beside_PP = (track_P[:, None] == track_P) & (part_P[:, None] == part_P)
    return together_PP, beside_PP


def group(
    means_PD: np.ndarray, weights_P: np.ndarray, together_PP: np.ndarray, beside_PP: np.ndarray
) -> np.ndarray:
    """Joins the nearest pieces, and goes on with their weighted mean, until none are near.

    Args:
      means_PD: the mean embedding of each piece.
      weights_P: of how many faces it is the mean.
      together_PP: see relations; these are not joined.
      beside_PP: see relations; these may be farther from each other.

    Returns:
      int [P], a label for each piece, the same for pieces of the same person.
    """
    means_PD, weights_P = means_PD.astype(np.float64), weights_P.copy()
    apart_PP, beside_PP = together_PP.copy(), beside_PP.copy()
    count = len(means_PD)
    labels_P = np.arange(count)
    np.fill_diagonal(apart_PP, True)

    def distances(p: int) -> np.ndarray:
        distances_P = np.linalg.norm(means_PD - means_PD[p], axis=1) - PLACE * beside_PP[p]
        return np.where(apart_PP[p], np.inf, distances_P)

    distances_PP = np.stack([distances(p) for p in range(count)])
    nearest_P = distances_PP.argmin(axis=1)
    while True:
        p = int(distances_PP[np.arange(count), nearest_P].argmin())
        q = int(nearest_P[p])
        if distances_PP[p, q] >= SAME:
            return labels_P
        labels_P[labels_P == q] = p
        means_PD[p] = np.average(means_PD[[p, q]], axis=0, weights=weights_P[[p, q]])
        weights_P[p] += weights_P[q]
        for pairs_PP in (apart_PP, beside_PP):
            pairs_PP[p] |= pairs_PP[q]
            pairs_PP[:, p] = pairs_PP[p]
        apart_PP[q] = apart_PP[:, q] = True
        distances_PP[q] = distances_PP[:, q] = np.inf
        distances_PP[p] = distances_PP[:, p] = distances(p)
        closer_P = distances_PP[:, p] < distances_PP[np.arange(count), nearest_P]
        nearest_P[closer_P] = p
        for stale in np.flatnonzero((nearest_P == p) | (nearest_P == q)):
            nearest_P[stale] = distances_PP[stale].argmin()


def _follow_places(pieces: Sequence[Piece], labels_P: np.ndarray) -> None:
    """Gives the pieces with the label -1 that of the nearest piece of their track in the same shot.

    Those that have none, or whose person is in view elsewhere, are one more person for each track.
    """
    known = np.flatnonzero(labels_P >= 0).tolist()
    together_PP, _ = relations(pieces)
    own: dict[int, int] = {}
    for p in np.flatnonzero(labels_P < 0).tolist():
        piece = pieces[p]
        here = piece.track, piece.shot
        beside = [q for q in known if (pieces[q].track, pieces[q].shot) == here]
        nearest = min(beside, key=lambda q: _distance(piece, pieces[q]), default=None)
        if nearest is not None and not (together_PP[p] & (labels_P == labels_P[nearest])).any():
            labels_P[p] = labels_P[nearest]
        else:
            labels_P[p] = own.setdefault(piece.track, len(pieces) + piece.track)


def _distance(one: Piece, two: Piece) -> tuple[bool, int]:
    """Returns whether another face touched a track between two pieces, and the frames between them."""
    return one.part != two.part, max(one.first, two.first) - min(one.end, two.end)


def _joined(tracks: Sequence[Track], pieces: Sequence[Piece]) -> Track:
    """Returns the track of a person."""
    first = tracks[pieces[0].track]
    boxes, points = np.full_like(first.boxes, np.nan), np.full_like(first.points, np.nan)
    found = np.zeros_like(first.found)
    for piece in pieces:
        places, track = slice(piece.first, piece.end), tracks[piece.track]
        boxes[places], points[places] = track.boxes[places], track.points[places]
        found[places] = track.found[places]
    return Track(boxes, points, found)
