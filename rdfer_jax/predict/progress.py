"""What is known of a video that is being predicted, in a file, so that an interrupted command goes on.

Each line is a JSON object: the digest of all that the results depend on; then what was found in the frames
of some seconds, or what the network said of a batch of windows. Numbers are stored exactly, so the results
are those of a command that was not interrupted. A line that was cut off with the process is dropped.
"""

import base64
import dataclasses
import json
from typing import IO, Any, Self

import numpy as np
from etils import epath

from rdfer_jax import paths
from rdfer_jax.faces.boxes import Box, Detection
from rdfer_jax.faces.tracks import Found
from rdfer_jax.types import Prediction

NAME = "progress.jsonl"
#: Time of the video after which what was found is written, seconds.
EVERY = 10.0


class Progress:
    """The progress of one video. Use as a context manager; memory for the faces, see tracks.scan."""

    def __init__(self, folder: epath.Path, digest: str):
        """Reads what is known, if it is of the same video, network and settings.

        Args:
          folder: of the video's results. It is created when there is something to write. If it is not on a
            local disk, nothing is written, because files elsewhere cannot be continued.
          digest: of all that the results depend on; empty if that is not known: then nothing is reused.
        """
        self._path, self._digest = folder / NAME, digest
        self._file: IO[str] | None = None
        self._new: list[Any] = []
        self._since: float | None = None
        self._is_local = paths.is_local(folder)
        known = _read(self._path, digest) if self._is_local and digest else None
        self._known, self._batches = known or ({}, {})
        self._is_whole = known is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def discard(self) -> None:
        """Removes the file, and its folder if nothing else is there."""
        self.__exit__()
        if not self._is_local:
            return
        self._path.unlink(missing_ok=True)
        if self._path.parent.is_dir() and not any(self._path.parent.iterdir()):
            self._path.parent.rmdir()

    @property
    def frames(self) -> int:
        """Number of analyzed frames whose faces are known."""
        return len(self._known)

    def known(self, number: int) -> Found | None:
        """Returns what was found in a frame, by its number in the video; None if it is not known."""
        return self._known.get(number)

    def add(self, number: int, time: float, found: Found) -> None:
        """Takes what was found in a frame, at `time` seconds."""
        faces = [[list(face.box), [list(point) for point in face.points]] for face in found.faces]
        self._new.append([number, faces, found.searched, found.thorough])
        self._since = time if self._since is None else self._since
        if time - self._since >= EVERY:
            self.save()
            self._since = time

    def save(self) -> None:
        """Writes what was found since the last time."""
        if self._new:
            self._write({"found": self._new})
            self._new = []

    def batch(self, number: int) -> Prediction | None:
        """Returns what the network said of a batch of windows; None if that is not known."""
        return self._batches.get(number)

    def add_batch(self, number: int, prediction: Prediction) -> None:
        """Writes what the network said of a batch."""
        fields = {
            field.name: _to_json(getattr(prediction, field.name))
            for field in dataclasses.fields(prediction)
        }
        self._write({"batch": number, "prediction": fields})

    def _write(self, line: dict[str, Any]) -> None:
        if not self._is_local:
            return
        if not self._file:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a" if self._is_whole else "w")
            if not self._is_whole:
                self._write({"digest": self._digest})
        self._file.write(json.dumps(line, default=float) + "\n")
        self._file.flush()


def _read(path: epath.Path, digest: str) -> tuple[dict[int, Found], dict[int, Prediction]] | None:
    """Returns what is known of frames and batches; None if there is no file, or one of something else."""
    found: dict[int, Found] = {}
    batches: dict[int, Prediction] = {}
    try:
        *whole, rest = path.read_text().split("\n")
        first, *lines = [json.loads(line) for line in whole]
        if first["digest"] != digest:
            return None
        for line in lines:
            found |= {number: _found(*rest) for number, *rest in line.get("found", [])}
            if "batch" in line:
                batches[line["batch"]] = _prediction(line["prediction"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent or damaged
        return None
    if rest:  # a line that was cut off
        path.write_text("".join(f"{line}\n" for line in whole))
    return found, batches


def _found(faces: list[Any], searched: float, thorough: float) -> Found:
    known = [Detection(Box(*box), tuple(map(tuple, points))) for box, points in faces]
    return Found(known, searched, thorough)


def _to_json(array: Any) -> list[Any] | None:
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    return [array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode()]


def _prediction(fields: dict[str, Any]) -> Prediction:
    arrays: dict[str, Any] = dict(fields)
    for name, value in fields.items():
        if value is not None:
            dtype, shape, data = value
            arrays[name] = np.frombuffer(base64.b64decode(data), dtype).reshape(shape)
    return Prediction(**arrays)
