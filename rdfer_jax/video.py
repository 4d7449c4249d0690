"""A user's own videos: files, folders of pictures, or a list of them -> frames with their times.

Frames are decoded as a stream, one at a time, so that memory does not grow with the length of a video.
"""

import dataclasses
import functools
import logging
import math
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
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise VideoError(f"{self.path}: not a video that OpenCV can read")
        try:
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
            data = np.frombuffer(path.read_bytes(), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
            if image is None:
                raise VideoError(f"{path}: not a picture that OpenCV can read")
            yield Frame(number, number / self.fps, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


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
    path = epath.Path(path)
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


def _in_folder(folder: epath.Path) -> list[Video]:
    entries = sorted(
        (entry for entry in folder.iterdir() if not entry.name.startswith(".")),
        key=lambda entry: natural_key(entry.name),
    )
    found: list[Video] = []
    if any(e.suffix.lower() in IMAGE_SUFFIXES and not e.is_dir() for e in entries):
        found.append(Pictures(folder))
    for entry in entries:
        if entry.is_dir():
            found += _in_folder(entry)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            found.append(VideoFile(entry))
    return found


def _in_list(path: epath.Path) -> list[Video]:
    found: list[Video] = []
    text = path.read_bytes().decode("utf-8-sig", "replace")
    for number, line in enumerate(text.splitlines(), 1):
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
