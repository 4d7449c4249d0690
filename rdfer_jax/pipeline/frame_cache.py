"""The frames of a split, decoded once and kept in a folder of this machine.

Enters: records with JPEGs. Leaves: the same records with `Frames` instead, bit for bit what decoding them
each time would give. To read a frame is then to copy it, which takes a few microseconds; the price is
room: image_size^2 x 3 bytes a frame, some ten times the JPEGs.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np
import tqdm

from rdfer_jax.config import Data
from rdfer_jax.pipeline.decode import FrameError, decode_frames
from rdfer_jax.pipeline.records import StoredSplit

log = logging.getLogger(__name__)

#: Clips after which the room that all of them need can be told.
_SAMPLE = 64


class Frames:
    """The frames of one clip, read when they are asked for."""

    def __init__(self, split: "CachedSplit", first: int, count: int):
        """Takes the split, the first of the clip's frames in its file, and how many there are."""
        self._split, self._first, self._count = split, first, count

    def __len__(self) -> int:
        return self._count

    def take(self, indices_F: np.ndarray) -> np.ndarray:
        """Reads frames.

        Args:
          indices_F: int [F], in [0, len).

        Returns:
          uint8 [F, size, size, 3], RGB.

        Raises:
          OSError: they cannot be read.
        """
        size, file = self._split.size, self._split.file
        frames = np.empty((len(indices_F), size, size, 3), np.uint8)
        for frame, index in zip(frames, indices_F.tolist(), strict=True):
            # Not mapped into memory: a disk that fails would then end the process without a word.
            got = os.preadv(file, [frame.data], (self._first + index) * frame.nbytes)
            if got != frame.nbytes:
                raise OSError(f"{self._split.folder}: frames was cut short meanwhile; start again")
        return frames


class CachedSplit(Sequence[dict[str, Any]]):
    """The records of a split, with `Frames`.

    Attributes:
      folder: that holds the files.
      file: descriptor of the file of all frames.
      size: height and width of a frame, pixels.
    """

    def __init__(self, folder: pathlib.Path):
        """Opens a folder that `_filled` wrote.

        Raises:
          OSError: a file is missing.
          ValueError: a file is damaged.
        """
        self.folder = folder
        try:
            with np.load(folder / "records.npz", allow_pickle=False) as stored:
                self._columns = dict(stored)
        except (EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{folder}: records.npz is damaged: {error}") from None
        self._starts = self._columns.pop("starts")
        self.size = int(self._columns.pop("size"))
        self.file = os.open(folder / "frames", os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedSplit, (self.folder,)  # a reading process opens the file itself

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: SupportsIndex) -> dict[str, Any]:  # type: ignore[override]
        first, end = self._starts[int(place) : int(place) + 2].tolist()
        record = {key: column[place] for key, column in self._columns.items()}
        return record | {"frames": Frames(self, first, end - first)}


def cached(stored: StoredSplit, data: Data, data_set: str) -> Sequence[dict[str, Any]]:
    """Returns a split's records with decoded frames, which are decoded now if they are not there.

    One process of a machine decodes, the others wait for it.

    Args:
      stored: the split.
      data: the settings; frame_cache is the folder that holds the folders of all splits.
      data_set: name and fingerprint of the data set.

    Raises:
      OSError: the folder cannot be written to, or has no room.
      ValueError: a frame cannot be decoded.
    """
    if not len(stored):
        return stored
    root = pathlib.Path(data.frame_cache) / data_set
    folder = root / f"{stored.name}-{data.image_size}-{data.fit}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f"{folder.name}.lock"):
            return _opened(folder, stored, data) or _filled(folder, stored, data)
    except OSError as error:
        raise OSError(
            f"{folder}: decoded frames cannot be kept there: {error}. Point config.data.frame_cache at "
            "another folder, or leave it empty"
        ) from None


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process of this machine holds the lock.

    Raises:
      OSError: the system is none with POSIX locks, nor has it what `Frames` reads with.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError("this system has no POSIX locks") from None
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(folder: pathlib.Path, stored: StoredSplit, data: Data) -> CachedSplit | None:
    """Opens what an earlier run left, if it did and it is right as far as a look at both ends tells."""
    if not folder.exists():
        return None
    ends = {place: stored[place] for place in (0, len(stored) - 1)}
    try:
        found = CachedSplit(folder)
        if len(found) != len(stored):
            raise ValueError(f"{len(found)} instead of {len(stored)} clips")
        for place, record in ends.items():
            last = np.arange(len(record["frames"]))[-1:]
            now = decode_frames(record["frames"], last, data.image_size, data.fit)
            if record["clip_id"] != found[place]["clip_id"] or not np.array_equal(
                now, found[place]["frames"].take(last)
            ):
                raise ValueError(f"clip {place} is not what the data set holds")
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s: the decoded frames are of no use, and are made anew: %s", folder, error)
        return None
    return found


def _filled(folder: pathlib.Path, stored: StoredSplit, data: Data) -> CachedSplit:
    """Decodes every frame of a split, on all cores, and writes them; whole, or not at all."""
    beside = folder.with_name(f"{folder.name}.part")
    for old in (beside, folder):
        if old.exists():
            shutil.rmtree(old)
    beside.mkdir()
    threads = os.cpu_count() or 1
    decoded = grain.MapDataset.source(stored).map(_Decode(data, stored.where))
    reading = decoded.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=2 * threads))
    lengths, rows = [0], []
    try:
        with open(beside / "frames", "wb") as file:
            for record in tqdm.tqdm(
                reading,
                f"decoding {stored.name}",
                len(stored),
                unit="clip",
                disable=None,
                leave=False,
            ):
                frames = record.pop("frames")
                file.write(frames.data)
                lengths.append(len(frames))
                rows.append(record)
                if len(rows) == _SAMPLE:
                    _check_room(beside, file.tell() / _SAMPLE * len(stored), file.tell())
            file.flush()
            os.fsync(file.fileno())
        columns: dict[str, Any] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        columns |= {"starts": np.cumsum(lengths), "size": np.array(data.image_size)}
        with open(beside / "records.npz", "wb") as file:
            np.savez(file, **columns)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    beside.rename(folder)
    log.info(
        "%s: %d clips, %d frames decoded, %.1f GB",
        folder, len(rows), sum(lengths), (folder / "frames").stat().st_size / 1e9,
    )  # fmt: skip
    return CachedSplit(folder)


def _check_room(folder: pathlib.Path, needed: float, written: float) -> None:
    """Raises an OSError if the disk has not the room for that many bytes, of which some are written."""
    free = shutil.disk_usage(folder).free + written
    if needed > free:
        raise OSError(f"about {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free")


class _Decode:
    """Record -> the same with all frames decoded, uint8 [n, size, size, 3]."""

    def __init__(self, data: Data, where: str):
        self._data, self._where = data, where

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        jpegs = record["frames"]
        every = np.arange(len(jpegs))
        try:
            frames = decode_frames(jpegs, every, self._data.image_size, self._data.fit)
        except FrameError as error:
            clip = record["clip_id"].decode()
            raise ValueError(f"{self._where}: clip {clip!r}: {error}") from None
        return record | {"frames": frames}
