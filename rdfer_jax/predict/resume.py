"""Which videos of a batch are predicted already, so that an interrupted command goes on where it was.

A finished video has complete.json in its folder: its rows in summary.csv, and a digest of all that its
results depend on. It is written last, and removed before anything else of the video is written.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from rdfer_jax import atomic
from rdfer_jax.media import folders
from rdfer_jax.media.files import MediaError
from rdfer_jax.media.sources import Pictures, Video, VideoFile
from rdfer_jax.predict.files import RESULTS, Row

NAME = "complete.json"
#: To be raised when this program predicts something else than before from the same video and network.
_VERSION = 2


def digest(video: Video, made_by: Mapping[str, Any]) -> str:
    """Returns a hash of a video's files (names, sizes, times of the last change), and of what predicts it.

    Args:
      video: the video.
      made_by: network and settings, as JSON values.

    Returns:
      Hexadecimal digits; empty if the video has no files that can be looked at.
    """
    try:
        files = [(str(path), *_state(path)) for path in _files(video)]
    except (MediaError, OSError):
        return ""
    if not files:
        return ""
    content = json.dumps([_VERSION, files, made_by], sort_keys=True)
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()


def finished(folder: epath.Path, wanted: str) -> list[Row]:
    """Returns the rows of a video whose results are in a folder; none if they are not all, or are others.

    Args:
      folder: of the video's results.
      wanted: digest of the video.
    """
    try:
        found = json.loads((folder / NAME).read_text())
        is_same = bool(wanted) and found["digest"] == wanted
        is_whole = is_same and all((folder / name).exists() for name in RESULTS)
        rows: list[Row] = found["rows"] if is_whole else []
        is_read = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: predicted again
        return []
    return rows if is_read else []


def begin(folder: epath.Path) -> None:
    """Says that the results in a folder are not complete."""
    (folder / NAME).unlink(missing_ok=True)


def complete(folder: epath.Path, made: str, rows: Sequence[Row]) -> None:
    """Says that the results in a folder are complete: their digest, and their rows in summary.csv."""
    text = json.dumps({"digest": made, "rows": rows}, indent=1)
    atomic.write_bytes(folder / NAME, f"{text}\n".encode())


def _files(video: Video) -> list[epath.Path]:
    if isinstance(video, VideoFile):
        return [video.path]
    if isinstance(video, Pictures):
        return list(folders.contents(video.path).pictures)
    return []


def _state(path: epath.Path) -> tuple[int, float]:
    found = path.stat()
    return found.length, found.mtime
