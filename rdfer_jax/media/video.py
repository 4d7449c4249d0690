"""A user's own videos: files, folders of pictures, or a list of them -> frames with their times.

Frames are decoded as a stream, one at a time, so that memory does not grow with the length of a video.
"""

import dataclasses
import functools
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Protocol

import cv2
import numpy as np
from etils import epath

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".ts", ".mts", ".m2ts", ".ogv", ".gif"),
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LIST_SUFFIXES = (".txt", ".csv")

#: Where nothing says how fast pictures follow each other.
FALLBACK_FPS = 25.0
#: Pixels of the largest frame that is read, about twice those of an 8K video: 200 MB in memory.
MAX_PIXELS = 1 << 26

_JPEG_START = b"\xff\xd8"
_PNG_START = b"\x89PNG\r\n\x1a\n"
#: Text files that FFmpeg takes for videos, and reads the files that they name.
_PLAYLISTS = (b"ffconcat", b"#EXTM3U", b"<?xml", b"<MPD")
#: Characters of the longest path in a list.
_LONGEST_PATH = 4096


class VideoError(ValueError):
    """A video that cannot be read; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
      number: its place in the video, from 0.
      time: seconds from the start.
      image: uint8 [H, W, 3], RGB, upright.
    """

    number: int
    time: float
    image: np.ndarray


class Video(Protocol):
    """A video that can be read as often as needed."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """Yields its frames in time order, at most max_fps a second; all, if that is 0.

        Raises:
          VideoError: it cannot be read.
        """
        ...


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A video file, as cameras and phones write them: turned, or with frames at uneven times."""

    path: epath.Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """See Video. Frames that are left out are not converted, which saves most of their time."""
        if _read(self.path, 256).lstrip().startswith(_PLAYLISTS):
            raise VideoError(f"{self.path}: a playlist, which names other files; a video is meant")
        # FFmpeg by name: OpenCV would take a `%` in the file name for a numbered series of pictures.
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise VideoError(f"{self.path}: not a video that OpenCV can read")
        try:
            height, width = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
            _check_size(int(capture.get(height)), int(capture.get(width)), self.path)
            fps = capture.get(cv2.CAP_PROP_FPS)
            fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else FALLBACK_FPS
            thin, time, number = _Thinner(max_fps), -1 / fps, 0
            while capture.grab():
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                # Some files carry no times, or times that stand still.
                time = stamp if stamp > time and math.isfinite(stamp) else time + 1 / fps
                if thin.keeps(time):
                    done, image = capture.retrieve()
                    if not done or image is None:
                        raise VideoError(f"{self.path}: frame {number} cannot be decoded")
                    yield Frame(number, time, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
                number += 1
            if not number:
                raise VideoError(f"{self.path}: holds no frame that can be decoded")
            declared = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            if number < 0.95 * declared - 1:
                _warn(
                    f"{self.path}: ends after {number} of the {declared:.0f} frames that it says it has"
                )
        finally:
            capture.release()


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A folder of pictures, in the order of the numbers in their names."""

    path: epath.Path
    fps: float = FALLBACK_FPS

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """See Video."""
        thin = _Thinner(max_fps)
        for number, path in enumerate(_pictures(self.path)):
            if not thin.keeps(number / self.fps):
                continue
            yield Frame(number, number / self.fps, _picture(path))


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames in memory.

    Attributes:
      images: uint8 [T, H, W, 3], RGB.
      fps: frames a second.
      name: what messages call them.
    """

    images: np.ndarray
    fps: float = FALLBACK_FPS
    name: str = "frames"

    def __post_init__(self):
        """Raises a VideoError if these are no frames."""
        shape, dtype = np.shape(self.images), getattr(self.images, "dtype", None)
        if len(shape) != 4 or shape[-1] != 3 or not all(shape) or dtype != np.uint8:
            raise VideoError(f"{self.name}: {dtype} {shape}; uint8 [T, H, W, 3] in RGB is meant")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise VideoError(f"{self.name}: {self.fps} frames a second; must be above 0")

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """See Video."""
        thin = _Thinner(max_fps)
        for number, image in enumerate(self.images):
            if thin.keeps(number / self.fps):
                yield Frame(number, number / self.fps, image)


def find(path: epath.PathLike) -> list[Video]:
    """Returns the videos that a path stands for.

    Args:
      path: of a video file; of a folder, in which all videos and folders of pictures are taken, however
        deep; or of a .txt or .csv file with a path in each line (of a CSV file: before the first comma),
        relative to the list.

    Raises:
      VideoError: there is nothing, or nothing that is a video; the message names the path, and of a
        list the line.
    """
    try:
        return _find(epath.Path(path))
    except OSError as error:  # such as a name that is too long
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from None


def _find(path: epath.Path) -> list[Video]:
    if not path.exists():
        raise VideoError(f"{path}: there is no such file or folder")
    if path.is_dir():
        found = _in_folder(path)
        if not found:
            raise VideoError(f"{path}: holds no video and no pictures")
        return found
    suffix = path.suffix.lower()
    if suffix in LIST_SUFFIXES:
        return _in_list(path)
    if suffix not in VIDEO_SUFFIXES:
        raise VideoError(
            f"{path}: a video ({', '.join(VIDEO_SUFFIXES)}), a folder, or a list of them "
            f"({', '.join(LIST_SUFFIXES)}) is meant"
        )
    return [VideoFile(path)]


def _in_folder(folder: epath.Path, above: frozenset[str] = frozenset()) -> list[Video]:
    """The videos of a folder that lies in those `above`, by their paths without links."""
    above = above | {os.path.realpath(folder)}
    entries = sorted(
        (entry for entry in folder.iterdir() if not entry.name.startswith(".")),
        key=lambda entry: natural_key(entry.name),
    )
    found: list[Video] = []
    if any(e.suffix.lower() in IMAGE_SUFFIXES and not e.is_dir() for e in entries):
        found.append(Pictures(folder))
    for entry in entries:
        if entry.is_dir():
            if os.path.realpath(entry) in above:
                raise VideoError(f"{entry}: a link to a folder that it lies in; remove it")
            found += _in_folder(entry, above)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            found.append(VideoFile(entry))
    return found


def _in_list(path: epath.Path) -> list[Video]:
    found: list[Video] = []
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise VideoError(f"{path}, line {number}: not UTF-8; save the list as UTF-8") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise VideoError(f"{path}, line {number}: a NUL byte, as UTF-16 has; save it as UTF-8")
        if len(line) > _LONGEST_PATH:
            raise VideoError(
                f"{path}, line {number}: {len(line)} characters; a path has at most {_LONGEST_PATH}"
            )
        name = (line.split(",")[0] if path.suffix.lower() == ".csv" else line).strip()
        if not name or name.startswith("#") or (number == 1 and name == "path"):
            continue
        try:
            if epath.Path(name).suffix.lower() in LIST_SUFFIXES:
                raise VideoError(f"{name}: a list in a list")
            found += find(path.parent / name)
        except VideoError as error:
            raise VideoError(f"{path}, line {number}: {error}") from None
    if not found:
        raise VideoError(f"{path}: names no video")
    return found


def _read(path: epath.Path, size: int = -1) -> bytes:
    """The first bytes of a file, or all.

    Raises:
      VideoError: there is no such file, or it is a pipe, say.
    """
    try:
        local = pathlib.Path(path)
        if local.exists() and not local.is_file():
            raise VideoError(f"{path}: not a file")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from None


def _picture(path: epath.Path) -> np.ndarray:
    """Reads a picture as uint8 [H, W, 3], RGB.

    Raises:
      VideoError: it is no picture, cut off, or too large.
    """
    data = _read(path)
    header = None
    if data.startswith((_JPEG_START, _PNG_START)):
        header = _header(data)
        if not header:
            raise VideoError(f"{path}: not a picture that OpenCV can read")
        height, width, is_whole = header
        _check_size(height, width, path)
        if not is_whole:
            raise VideoError(f"{path}: the picture is cut off after {len(data)} bytes")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        image = None
    if image is None:
        raise VideoError(f"{path}: not a picture that OpenCV can read")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_size(height: int, width: int, path: epath.Path) -> None:
    """Raises VideoError when a frame has more than MAX_PIXELS."""
    if height * width > MAX_PIXELS:
        raise VideoError(
            f"{path}: {width}x{height} pixels; at most {MAX_PIXELS} are read. Make it smaller"
        )


def _header(data: bytes) -> tuple[int, int, bool] | None:
    """Height and width that a JPEG or PNG claims, and whether it has an end; None if it claims none.

    A small file can claim any size, and decoding it takes memory for all of that.
    """
    if data.startswith(_PNG_START):
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        # Parts of the picture, each with its length: OpenCV takes memory for what a part claims.
        position, name = 8, b""
        while name != b"IEND" and position + 12 <= len(data):
            name = data[position + 4 : position + 8]
            position += 12 + int.from_bytes(data[position : position + 4], "big")
        return height, width, name == b"IEND" and position <= len(data)
    position, size = 2, None
    # As libjpeg does, this passes over bytes between segments that belong to none.
    while 0 <= (position := data.find(b"\xff", position)) <= len(data) - 4:
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # no segment
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            size = [int.from_bytes(data[position + i : position + i + 2], "big") for i in (5, 7)]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # the picture itself follows, up to the end marker
            break
    return (size[0], size[1], b"\xff\xd9" in data[position:]) if size else None


def _pictures(folder: epath.Path) -> list[epath.Path]:
    found = [
        p for p in folder.iterdir()
        if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
    ]  # fmt: skip
    return sorted(found, key=lambda path: natural_key(path.stem))


@functools.lru_cache(maxsize=1000)
def _warn(text: str) -> None:
    """Says it once, however often a video is read."""
    log.warning("%s", text)


def natural_key(name: str) -> tuple[str | int, ...]:
    """Returns a key that sorts 2 before 10: digits compare as numbers, the rest as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))


class _Thinner:
    """Chooses frames so that there are at most max_fps a second, evenly where they are even."""

    def __init__(self, max_fps: float):
        self._max_fps, self._slot = max_fps, -1

    def keeps(self, time: float) -> bool:
        """Whether to keep the next frame: the first one in each slot of 1 / max_fps seconds."""
        if not self._max_fps:
            return True
        slot = math.floor(time * self._max_fps + 1e-6)
        keeps, self._slot = slot > self._slot, max(slot, self._slot)
        return keeps
