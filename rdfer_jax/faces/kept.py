"""Crops that are cut out while the faces of a video are still being searched, so that it is decoded once.

Where a face is in a frame depends on what is found up to two seconds before and after it, see tracks. So
the surroundings of each face are kept for that long. Then the face is cut out with the box that follows
from these seconds, and its crop is stored. Who asks for the crop later gives the box that follows from the
whole video, and gets it if that is the same box, as it nearly always is. If not, the video has to be read
again.

Memory does not grow with the length of the video, because the crops go to a temporary file.
"""

import collections
import tempfile
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np

from rdfer_jax.faces.boxes import Detection, best_overlap
from rdfer_jax.faces.cut import Cut, Patch
from rdfer_jax.faces.detect import SAME_FACE
from rdfer_jax.faces.tracks import LONGEST_GAP, SMOOTH, Track, track
from rdfer_jax.media.video import Frame

#: A box depends on what is found within this time on either side, seconds: flicker, gaps, averages.
REACH = 1.0 + LONGEST_GAP + SMOOTH + 0.1
#: Time between two rounds in which faces are cut out, seconds; each follows them over a longer time.
EVERY = 1.0
#: Width of what is kept around a face, as a multiple of what its crop touches: the final box is not known.
AROUND = 1.3
#: Bytes of crops that stay in memory before they go to a file.
IN_MEMORY = 2**25


class _Seen(NamedTuple):
    """A frame of the last seconds; what it shows around its faces, until they are cut out."""

    place: int
    time: float
    found: list[Detection]
    patches: tuple[Patch, ...]


class KeptCrops:
    """The crops of the faces of a video. Use as a context manager."""

    def __init__(self, cut: Cut, steps: Mapping[int, int], most: int | None = None):
        """Creates an empty store.

        Args:
          cut: how to cut faces out.
          steps: height and width of the crops, pixels -> number of frames of a video of which such crops
            are wanted; 0 for all. See `step`.
          most: number of faces of a frame that are cut out, largest first; None for all.
        """
        self._cut, self._most, self._sizes = cut, most, dict(steps)
        self._seen: collections.deque[_Seen] = collections.deque()
        self._next, self._done = 0, 0  # places: of the next frame, of the next one to cut out
        self._stored: dict[tuple[int, int, bytes], int] = {}
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def watch(self, frame: Frame, found: list[Detection]) -> None:
        """Takes the next analyzed frame, and the faces that the detector found in it."""
        known = list(found)
        for seen in reversed(self._seen):
            if frame.time - seen.time > LONGEST_GAP:
                break
            # A face that is not found now may be so again, and is bridged then.
            known += [face for face in seen.found if not best_overlap(known, face.box, SAME_FACE)]
        patches = tuple(self._around(frame.image, face) for face in known)
        self._seen.append(_Seen(self._next, frame.time, found, patches))
        self._next += 1
        waiting = next(seen for seen in self._seen if seen.place >= self._done)
        if frame.time - waiting.time >= REACH + EVERY:
            self._cut_out(frame.time - REACH)

    def finish(self) -> None:
        """Says that the video has ended."""
        self._cut_out(np.inf)
        self._seen.clear()

    def put(self, image: np.ndarray, face: Track, place: int, size: int) -> None:
        """Cuts out and stores a face of the analyzed frame `place`, uint8 [H, W, 3]."""
        self._store(image, place, face.boxes[place], face.points[place], size)

    def has(self, face: Track, place: int, size: int) -> bool:
        """Returns whether a crop is there."""
        return _key(place, size, face.boxes[place], face.points[place]) in self._stored

    def get(self, face: Track, place: int, size: int) -> np.ndarray:
        """Returns a crop that is there, uint8 [size, size, 3]."""
        self._file.seek(self._stored[_key(place, size, face.boxes[place], face.points[place])])
        pixels = np.frombuffer(self._file.read(size * size * 3), np.uint8)
        return pixels.reshape(size, size, 3)

    def _around(self, image: np.ndarray, face: Detection) -> Patch:
        """Returns a copy of what a frame shows around a face."""
        frame = image.shape[1::-1]
        region = self._cut.region(face.box, frame, AROUND)
        pixels = image[region.top : region.bottom, region.left : region.right]
        return Patch(pixels.copy(), region.left, region.top, frame)

    def _cut_out(self, until: float) -> None:
        """Follows the faces over the last seconds, cuts them out up to a time, forgets what is older."""
        if not self._seen:
            return
        faces = track([seen.found for seen in self._seen], [seen.time for seen in self._seen])
        for index, seen in enumerate(list(self._seen)):
            if seen.place < self._done or seen.time > until:
                continue
            present = [face for face in faces if face.present[index]]
            present.sort(key=lambda face: -face.boxes[index, 2] * face.boxes[index, 3])
            for face in present[: self._most]:
                self._cut_out_of(seen, face.boxes[index], face.points[index])
            self._seen[index] = seen._replace(patches=())
            self._done = seen.place + 1
        oldest = self._seen[-1].time - 3 * REACH - EVERY
        while self._seen and self._seen[0].place < self._done and self._seen[0].time < oldest:
            self._seen.popleft()

    def _cut_out_of(self, seen: _Seen, box: np.ndarray, points: np.ndarray) -> None:
        """Stores the crops of a face that are wanted, if what was kept of the frame covers it."""
        covering = (p for p in seen.patches if p.covers(self._cut.region(box.tolist(), p.frame)))
        patch = next(covering, None)
        for size, number in self._sizes.items():
            if patch and seen.place % step(seen.place + 1, number) == 0:
                self._store(patch, seen.place, box, points, size)

    def _store(
        self, image: np.ndarray | Patch, place: int, box: np.ndarray, points: np.ndarray, size: int
    ) -> None:
        crop = self._cut.crop_at(image, box.tolist(), points, size)
        self._stored[_key(place, size, box, points)] = self._file.seek(0, 2)
        self._file.write(crop.tobytes())


def step(length: int, number: int) -> int:
    """Returns the distance of about `number` even places in `length`; 1 if the number is 0.

    A power of two, so that the places of a longer video are among those of a shorter one.
    """
    return 1 << max(0, -(-length // number) - 1).bit_length() if number else 1


def _key(place: int, size: int, box: np.ndarray, points: np.ndarray) -> tuple[int, int, bytes]:
    return place, size, box.tobytes() + points.tobytes()
