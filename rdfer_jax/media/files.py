"""What image and video files have in common: suffixes, the size limit, their order, their errors."""

import pathlib
import re
from typing import BinaryIO

from etils import epath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".ts", ".mts", ".m2ts", ".ogv", ".gif"),
)

#: Pixels of the largest image or video frame that is read, about two 8K frames: 200 MB in memory.
MAX_PIXELS = 1 << 26


class MediaError(ValueError):
    """An image, a video or a list of them cannot be read; the message names the file."""


def natural_key(name: str) -> tuple[str | int, ...]:
    """Returns a sort key that puts 2 before 10: digits compare as numbers, the rest as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))


def check_is_file(path: epath.Path) -> None:
    """Raises MediaError when a local path is a pipe, a device or a folder, which could block a reader."""
    local = pathlib.Path(path)
    if local.exists() and not local.is_file():
        raise MediaError(f"{path}: not a file")


def open_file(path: epath.Path) -> BinaryIO:
    """Opens a file for reading, on a local disk or in a bucket.

    Raises:
      MediaError: there is no such file, it is not a regular file, or reading it is not permitted.
    """
    check_is_file(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from None


def read_file(path: epath.Path) -> bytes:
    """Returns the contents of a file.

    Raises:
      MediaError: see open_file.
    """
    try:
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: object, error: OSError) -> MediaError:
    """Returns the MediaError for an OSError while reading a path."""
    return MediaError(f"{path}: cannot be read ({error.strerror})")


def check_size(height: int, width: int, name: object) -> None:
    """Raises MediaError when a frame has more than MAX_PIXELS pixels."""
    if height * width > MAX_PIXELS:
        raise MediaError(
            f"{name}: {width}x{height} pixels, and the limit is {MAX_PIXELS}; make it smaller"
        )
