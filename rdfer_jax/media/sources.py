"""Videos to predict: files, folders of pictures, lists of paths, arrays -> frames with their times."""

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Iterator
from typing import Protocol

import cv2
import numpy as np
from etils import epath

from rdfer_jax import paths
from rdfer_jax.media import folders, images
from rdfer_jax.media.files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    MediaError,
    natural_key,
    read_file,
    unreadable,
)
from rdfer_jax.media.video import FALLBACK_FPS, Frame, Thinner, VideoReader

log = logging.getLogger(__name__)

LIST_SUFFIXES = (".txt", ".csv")

#: Characters of the longest path in a list.
_LONGEST_PATH = 4096


class Video(Protocol):
    """A video that can be read as often as needed."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """Yields its frames in time order, all of one size, at most max_fps per second; all if that is 0.

        Raises:
          MediaError: it cannot be read.
        """
        ...


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A video file."""

    path: epath.Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """See Video."""
        with VideoReader(self.path) as reader:
            yield from reader.frames(max_fps)
            if problem := reader.problem():
                _warn(f"{self.path}: {problem}")


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
        """See Video. All pictures are scaled to the size of the first one."""
        keeps, size = Thinner(max_fps), None
        for number, path in enumerate(_pictures(self.path)):
            if not keeps(number / self.fps):
                continue
            image = images.decode(read_file(path), path)
            size = size or image.shape[1::-1]
            if image.shape[1::-1] != size:
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            yield Frame(number, number / self.fps, image)


@dataclasses.dataclass(frozen=True)
class Array:
    """A video in memory.

    Attributes:
      images: uint8 [T, H, W, 3], RGB.
      fps: frames per second.
      name: what messages call it.
    """

    images: np.ndarray
    fps: float = FALLBACK_FPS
    name: str = "frames"

    def __post_init__(self):
        """Raises MediaError for anything but frames."""
        shape, dtype = np.shape(self.images), getattr(self.images, "dtype", None)
        if len(shape) != 4 or shape[-1] != 3 or not all(shape) or dtype != np.uint8:
            raise MediaError(
                f"{self.name}: expected uint8 [T, H, W, 3] in RGB, got {dtype} {shape}"
            )
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise MediaError(
                f"{self.name}: expected a number of frames per second above 0, got {self.fps}"
            )

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """See Video."""
        keeps = Thinner(max_fps)
        for number, image in enumerate(self.images):
            if keeps(number / self.fps):
                yield Frame(number, number / self.fps, image)


def find(path: epath.PathLike, output: epath.PathLike = "") -> list[Video]:
    """Returns the videos that a path stands for.

    Args:
      path: a video file; a folder, in which all videos and folders of pictures count, however deep; or a
        .txt or .csv file with a path in each line (in a CSV file: before the first comma), relative to
        the list.
      output: folder of results, which is passed over inside of other folders, like other results.

    Raises:
      MediaError: there is nothing, or nothing that is a video; the message names the path, and for a
        list the line.
    """
    try:
        return _find(epath.Path(paths.expand(path)), os.path.realpath(output) if output else "")
    except OSError as error:  # such as a name that is too long
        raise unreadable(path, error) from None


def _find(path: epath.Path, output: str) -> list[Video]:
    if not path.exists():
        raise MediaError(f"{path}: no such file or folder")
    if path.is_dir():
        rest = _Rest(output)
        videos = _in_folder(path, rest)
        rest.report(path)
        if not videos:
            raise MediaError(f"{path}: holds no video and no pictures")
        return videos
    suffix = path.suffix.lower()
    if suffix in LIST_SUFFIXES:
        return _in_list(path, output)
    if suffix not in VIDEO_SUFFIXES:
        raise MediaError(
            f"{path}: expected a video ({', '.join(VIDEO_SUFFIXES)}), a folder, or a list of them "
            f"({', '.join(LIST_SUFFIXES)})"
        )
    return [VideoFile(path)]


@dataclasses.dataclass
class _Rest:
    """What is passed over in a folder of videos, and the folder of results, with links resolved."""

    output: str
    housekeeping: list[epath.Path] = dataclasses.field(default_factory=list)
    pictures: list[epath.Path] = dataclasses.field(default_factory=list)

    def report(self, folder: epath.Path) -> None:
        """Logs how much was passed over."""
        for paths_, what in (
            (self.housekeeping, "hidden files, files of systems, and results of this program"),
            (
                self.pictures,
                "pictures beside videos; pictures are a video in a folder of their own",
            ),
        ):
            if paths_:
                first = paths_[0].relative_to(folder)
                log.info("%s: passed over %d %s, such as %s", folder, len(paths_), what, first)


def _in_folder(folder: epath.Path, rest: _Rest, above: frozenset[str] = frozenset()) -> list[Video]:
    """Returns the videos of a folder; `above` are the folders that it lies in, with links resolved."""
    above = above | {os.path.realpath(folder)}
    found = folders.contents(folder)
    rest.housekeeping += found.passed_over
    inner: list[Video] = []
    for entry in found.folders:
        real = os.path.realpath(entry)
        if real in above:
            raise MediaError(f"{entry}: a link to a folder that contains it; remove the link")
        if real == rest.output or folders.is_own_output(entry):
            rest.housekeeping.append(entry)
        else:
            inner += _in_folder(entry, rest, above)
    files = [VideoFile(path) for path in found.videos]
    # A lone picture beside videos, such as a cover, is not a video.
    is_video = not files and (len(found.pictures) > 1 or (found.pictures and not inner))
    if not is_video:
        rest.pictures += found.pictures
    own: list[Video] = [Pictures(folder)] if is_video else []
    return own + sorted([*files, *inner], key=lambda video: _key(video, folder))


def _key(video: Video, folder: epath.Path) -> tuple[tuple[str | int, ...], ...]:
    return tuple(natural_key(part) for part in epath.Path(video.name).relative_to(folder).parts)


def _in_list(path: epath.Path, output: str) -> list[Video]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise MediaError(f"{path}, line {number}: not UTF-8; save the list as UTF-8") from None
    videos: list[Video] = []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise MediaError(
                f"{path}, line {number}: a NUL byte, as in UTF-16; save the list as UTF-8"
            )
        if len(line) > _LONGEST_PATH:
            raise MediaError(
                f"{path}, line {number}: {len(line)} characters; a path has at most {_LONGEST_PATH}"
            )
        name = (line.split(",")[0] if path.suffix.lower() == ".csv" else line).strip()
        if not name or name.startswith("#") or (number == 1 and name == "path"):
            continue
        try:
            if epath.Path(name).suffix.lower() in LIST_SUFFIXES:
                raise MediaError(f"{name}: a list inside a list")
            videos += find(path.parent / paths.expand(name), output)
        except MediaError as error:
            raise MediaError(f"{path}, line {number}: {error}") from None
    if not videos:
        raise MediaError(f"{path}: lists no video")
    return videos


def _pictures(folder: epath.Path) -> list[epath.Path]:
    pictures = (
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    return sorted(pictures, key=lambda path: natural_key(path.stem))


@functools.lru_cache(maxsize=1000)
def _warn(text: str) -> None:
    """Logs a warning once, however often a video is read."""
    log.warning("%s", text)
