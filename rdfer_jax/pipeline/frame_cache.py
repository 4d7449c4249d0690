"""A cache of decoded frames in a local folder.

Input: records with JPEGs. Output: the same records with `CachedFrames`, which are bit for bit what decoding
each time would give. Reading a cached frame is a copy that takes a few microseconds. A frame takes
image_size^2 x 3 bytes, about ten times its JPEG.
"""

import logging
import os
import pathlib
import shutil
import weakref
import zipfile
from collections.abc import Sequence
from typing import Any, SupportsIndex

import filelock
import grain
import numpy as np
import tqdm

from rdfer_jax.config import Data
from rdfer_jax.media.files import MediaError
from rdfer_jax.pipeline.decode import decode_frames
from rdfer_jax.pipeline.records import StoredSplit

log = logging.getLogger(__name__)

#: Number of clips from which the total size is estimated.
_SAMPLE = 64


class CachedFrames:
    """The frames of one clip, read on demand."""

    def __init__(self, split: "CachedSplit", first: int, count: int):
        """Takes the split, the index of the clip's first frame in the split's file, and its length."""
        self._split, self._first, self._count = split, first, count

    def __len__(self) -> int:
        return self._count

    def take(self, indices_F: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
        """Reads frames.

        Args:
          indices_F: int [F], in [0, len).
          into: where to write them, uint8 [F, size, size, 3], contiguous; None for memory of its own.

        Returns:
          uint8 [F, size, size, 3], RGB.

        Raises:
          OSError: a frame cannot be read.
        """
        size, file = self._split.size, self._split.file
        frames = np.empty((len(indices_F), size, size, 3), np.uint8) if into is None else into
        for frame, index in zip(frames, indices_F.tolist(), strict=True):
            # Not memory-mapped: an I/O error would kill the process without a message.
            count = os.preadv(file, [frame.data], (self._first + index) * frame.nbytes)
            if count != frame.nbytes:
                raise OSError(
                    f"{self._split.folder}: file frames was truncated during the run; restart the run"
                )
        return frames


class CachedSplit(Sequence[dict[str, Any]]):
    """The records of a split, with `CachedFrames`.

    Attributes:
      folder: the folder of the files.
      file: descriptor of the file that holds all frames.
      size: height and width of a frame, pixels.
    """

    def __init__(self, folder: pathlib.Path):
        """Opens a folder that `_create` wrote.

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
        return CachedSplit, (self.folder,)  # a worker process opens the file itself

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: SupportsIndex) -> dict[str, Any]:  # type: ignore[override]
        first, end = self._starts[int(place) : int(place) + 2].tolist()
        record = {key: column[place] for key, column in self._columns.items()}
        return record | {"frames": CachedFrames(self, first, end - first)}


def cached(stored: StoredSplit, data: Data, data_set: str) -> Sequence[dict[str, Any]]:
    """Returns a split's records with cached frames, after decoding them if the cache has none.

    One process per machine decodes; the others wait for it.

    Args:
      stored: the split.
      data: the settings; frame_cache is the folder that holds the caches of all splits.
      data_set: name and fingerprint of the data set.

    Raises:
      OSError: the folder cannot be written to, or the disk is full.
      ValueError: a frame cannot be decoded.
    """
    if not len(stored):
        return stored
    root = pathlib.Path(data.frame_cache) / data_set
    folder = root / f"{stored.name}-{data.image_size}-{data.fit}"
    try:
        if not hasattr(os, "preadv"):
            raise OSError("this operating system has no preadv")
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / f"{folder.name}.lock"):
            return _open(folder, stored, data) or _create(folder, stored, data)
    except OSError as error:
        raise OSError(
            f"{folder}: cannot cache decoded frames: {error}. Set config.data.frame_cache to another "
            "folder, or leave it empty"
        ) from None


def _open(folder: pathlib.Path, stored: StoredSplit, data: Data) -> CachedSplit | None:
    """Opens an existing cache; None if there is none, or its first or last clip differs from the data."""
    if not folder.exists():
        return None
    ends = {place: stored[place] for place in (0, len(stored) - 1)}
    try:
        cache = CachedSplit(folder)
        if len(cache) != len(stored):
            raise ValueError(f"expected {len(stored)} clips, got {len(cache)}")
        for place, record in ends.items():
            last = np.arange(len(record["frames"]))[-1:]
            decoded = decode_frames(record["frames"], last, data.image_size, data.fit)
            if record["clip_id"] != cache[place]["clip_id"] or not np.array_equal(
                decoded, cache[place]["frames"].take(last)
            ):
                raise ValueError(f"clip {place} differs from the data set")
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s: the cached frames are unusable and will be recreated: %s", folder, error)
        return None
    return cache


def _create(folder: pathlib.Path, stored: StoredSplit, data: Data) -> CachedSplit:
    """Decodes every frame of a split, on all cores, and writes the cache: all of it, or nothing."""
    partial = folder.with_name(f"{folder.name}.part")
    for old in (partial, folder):
        if old.exists():
            shutil.rmtree(old)
    partial.mkdir()
    try:
        rows, lengths = _write_frames(partial, stored, data)
        columns: dict[str, Any] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        columns |= {"starts": np.cumsum(lengths), "size": np.array(data.image_size)}
        with open(partial / "records.npz", "wb") as file:
            np.savez(file, **columns)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder)
    log.info(
        "%s: %d clips, %d frames decoded, %.1f GB",
        folder, len(rows), sum(lengths), (folder / "frames").stat().st_size / 1e9,
    )  # fmt: skip
    return CachedSplit(folder)


def _write_frames(
    folder: pathlib.Path, stored: StoredSplit, data: Data
) -> tuple[list[dict[str, Any]], list[int]]:
    """Writes all frames to one file; returns the records without frames, and 0 and the clips' lengths."""
    threads = os.cpu_count() or 1
    decoded = grain.MapDataset.source(stored).map(_Decode(data, stored.where))
    records = decoded.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=2 * threads))
    title = f"decoding {stored.name}"
    bar = tqdm.tqdm(records, title, len(stored), unit="clip", disable=None, leave=False)
    rows: list[dict[str, Any]] = []
    lengths = [0]
    with open(folder / "frames", "wb") as file, bar:
        for record in bar:
            frames = record.pop("frames")
            file.write(frames.data)
            lengths.append(len(frames))
            rows.append(record)
            if len(rows) == _SAMPLE:
                _check_disk(folder, file.tell() / _SAMPLE * len(stored), file.tell())
        file.flush()
        os.fsync(file.fileno())
    return rows, lengths


def _check_disk(folder: pathlib.Path, needed: float, written: float) -> None:
    """Raises an OSError if the disk has no room for `needed` bytes, of which `written` are there."""
    free = shutil.disk_usage(folder).free + written
    if needed > free:
        raise OSError(f"expected {needed / 1e9:.1f} GB of free space, got {free / 1e9:.1f} GB")


class _Decode:
    """Record -> record with all frames decoded, uint8 [n, size, size, 3]."""

    def __init__(self, data: Data, where: str):
        self._data, self._where = data, where

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        jpegs = record["frames"]
        indices = np.arange(len(jpegs))
        try:
            frames = decode_frames(jpegs, indices, self._data.image_size, self._data.fit)
        except MediaError as error:
            clip = record["clip_id"].decode()
            raise ValueError(f"{self._where}: clip {clip!r}: {error}") from None
        return record | {"frames": frames}
