"""Videos to predict: files, folders of pictures, lists of paths, arrays -> frames with their times.

What cannot be read stays among the videos as Unreadable, so that it is named and counted with the others.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from etils import epath

from rdfer_jax import paths, tables
from rdfer_jax.media import folders, images, video
from rdfer_jax.media.files import (
    VIDEO_SUFFIXES,
    MediaError,
    in_time_order,
    natural_key,
    printable,
    read_file,
    unreadable,
)
from rdfer_jax.media.video import FALLBACK_FPS, Frame, Thinner, VideoReader

log = logging.getLogger(__name__)

LIST_SUFFIXES = (".txt", ".csv", ".tsv")


class Video(Protocol):
    """A video that can be read as often as needed.

    Attributes:
      damage: what was missing or damaged when it was last read to its end; empty if nothing was.
    """

    damage: str

    @property
    def name(self) -> str:
        """What messages and results call it, see files.printable."""
        ...

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """Yields its frames in time order, all of one size, at most max_fps per second; all if that is 0.

        Raises:
          MediaError: it cannot be read.
        """
        ...

    def expected(self, max_fps: float = 0.0) -> int:
        """Returns about how many frames it yields, for a progress bar. Raises as frames does."""
        ...


@dataclasses.dataclass
class VideoFile:
    """A video file."""

    path: epath.Path
    damage: str = dataclasses.field(default="", init=False)

    @property
    def name(self) -> str:
        """The path."""
        return printable(self.path)

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """See Video."""
        with VideoReader(self.path) as reader:
            yield from reader.frames(max_fps)
            self.damage = reader.problem()

    def expected(self, max_fps: float = 0.0) -> int:
        """See Video."""
        with VideoReader(self.path) as reader:
            return _thinned(reader.expected, reader.fps, max_fps)


@dataclasses.dataclass
class Pictures:
    """A folder of pictures, in the order of the numbers in their names."""

    path: epath.Path
    fps: float = FALLBACK_FPS
    damage: str = dataclasses.field(default="", init=False)

    @property
    def name(self) -> str:
        """The path."""
        return printable(self.path)

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """See Video. Pictures are fit into the size of the first one; unreadable ones are passed over."""
        keeps, size = Thinner(max_fps), None
        problems: list[str] = []
        pictures = in_time_order(folders.contents(self.path).pictures)
        for number, path in enumerate(pictures):
            if not keeps(number / self.fps):
                continue
            try:
                image = images.decode(read_file(path), path)
            except MediaError as error:
                problems.append(str(error))
                continue
            size = size or image.shape[1::-1]
            yield Frame(number, number / self.fps, images.fit(image, size))
        if problems and size is None:
            raise MediaError(f"{problems[0]}, and no other picture of this folder can be read")
        if problems:
            count = f"{len(problems)} of {len(pictures)} pictures cannot be read"
            self.damage = f"{count}, such as {problems[0]}"

    def expected(self, max_fps: float = 0.0) -> int:
        """See Video."""
        return _thinned(len(folders.contents(self.path).pictures), self.fps, max_fps)


@dataclasses.dataclass
class Array:
    """A video in memory.

    Attributes:
      images: uint8 [T, H, W, 3], RGB; or a sequence of T arrays, uint8 [H, W, 3], which are fit into the
        size of the first one.
      fps: frames per second.
      name: what messages call it.
    """

    images: np.ndarray | Sequence[np.ndarray]
    fps: float = FALLBACK_FPS
    name: str = "frames"
    damage: str = dataclasses.field(default="", init=False)

    def __post_init__(self):
        """Raises MediaError for anything but frames."""
        if isinstance(self.images, np.ndarray):
            shape, dtype, is_right = self.images.shape, self.images.dtype, self.images.ndim == 4
            got = f"{dtype} {list(shape)}"
            is_right = is_right and shape[-1] == 3 and all(shape) and dtype == np.uint8
        elif isinstance(self.images, list | tuple):
            kinds = [_kind(image) for image in self.images]
            wrong = [number for number, kind in enumerate(kinds) if kind]
            is_right = bool(kinds) and not wrong
            got = f"{kinds[wrong[0]]} as number {wrong[0]} of a list" if wrong else "an empty list"
        else:
            is_right, got = False, f"a {type(self.images).__name__}"
        if not is_right:
            raise MediaError(
                f"{self.name}: expected uint8 [T, H, W, 3] in RGB, or a list of uint8 [H, W, 3], got {got}"
            )
        if not (isinstance(self.fps, int | float) and math.isfinite(self.fps) and self.fps > 0):
            raise MediaError(
                f"{self.name}: expected a number of frames per second above 0, got {self.fps}"
            )

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """See Video."""
        keeps = Thinner(max_fps)
        for number, image in enumerate(self.images):
            if keeps(number / self.fps):
                fitted = images.fit(image, self.images[0].shape[1::-1])
                yield Frame(number, number / self.fps, fitted)

    def expected(self, max_fps: float = 0.0) -> int:
        """See Video."""
        return _thinned(len(self.images), self.fps, max_fps)


def _thinned(number: int, fps: float, max_fps: float) -> int:
    """Returns about how many frames are left of a number of them, at most max_fps per second."""
    return math.ceil(number * min(1.0, max_fps / fps)) if max_fps else number


def _kind(image: object) -> str:
    """Returns what an object is, or nothing if it is a frame: uint8 [H, W, 3]."""
    if not isinstance(image, np.ndarray):
        return f"a {type(image).__name__}"
    is_frame = image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3 and image.size
    return "" if is_frame else f"{image.dtype} {list(image.shape)}"


@dataclasses.dataclass
class Unreadable:
    """What was given as a video and is known not to be one.

    Attributes:
      name: what messages call it.
      problem: why it is none.
    """

    name: str
    problem: str
    damage: str = dataclasses.field(default="", init=False)

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """Raises MediaError."""
        raise MediaError(self.problem)

    def expected(self, max_fps: float = 0.0) -> int:
        """Raises MediaError."""
        raise MediaError(self.problem)


def find(path: epath.PathLike, output: epath.PathLike = "") -> list[Video]:
    """Returns the videos that a path stands for.

    Args:
      path: a video file; a folder, in which all videos and folders of pictures count, however deep; or a
        .txt, .csv or .tsv file with a path in each line (in a table: in the column of that name, or else
        the first one), relative to the list. Folders and listed paths that cannot be read are among the
        videos, as Unreadable.
      output: folder of results, which is passed over inside of other folders, like other results.

    Raises:
      MediaError: there is nothing, or nothing that is a video, or a list is no text.
    """
    try:
        return _find(_path(path), os.path.realpath(output) if output else "")
    except ImportError as error:  # epath's, for schemes whose package is not installed
        raise MediaError(f"{path}: {error}") from None
    except OSError as error:  # such as a name that is too long
        raise unreadable(path, error) from None


def _path(path: epath.PathLike) -> epath.Path:
    try:
        return epath.Path(paths.expand(path))
    except ValueError as error:
        raise MediaError(str(error)) from None


def _find(path: epath.Path, output: str) -> list[Video]:
    if not path.exists():
        hint = "; patterns are not expanded: give the folder" * any(c in path.name for c in "*?")
        raise MediaError(f"{path}: no such file or folder{hint}")
    if path.is_dir():
        rest = _Rest(output)
        videos = _in_folder(path, rest)
        rest.report(path)
        if not videos:
            raise MediaError(f"{path}: holds no video and no pictures")
        return videos
    if path.suffix.lower() in LIST_SUFFIXES:
        return _in_list(path, output)
    if path.suffix.lower() not in VIDEO_SUFFIXES and (problem := video.problem(path)):
        lists = ", ".join(LIST_SUFFIXES)
        raise MediaError(f"{problem}. Expected a video, a folder, or a list of them ({lists})")
    return [VideoFile(path)]


@dataclasses.dataclass
class _Rest:
    """What is passed over in a folder of videos, and the folder of results, with links resolved."""

    output: str
    housekeeping: list[epath.Path] = dataclasses.field(default_factory=list)
    pictures: list[epath.Path] = dataclasses.field(default_factory=list)
    others: list[epath.Path] = dataclasses.field(default_factory=list)

    def report(self, folder: epath.Path) -> None:
        """Logs how much was passed over."""
        for paths_, what in (
            (self.housekeeping, "hidden files, files of systems, and results of this program"),
            (
                self.pictures,
                "pictures beside videos; pictures are a video in a folder of their own",
            ),
            (self.others, "files of other kinds"),
        ):
            if paths_:
                first = printable(paths_[0].relative_to(folder))
                where = printable(folder)
                log.info("%s: passed over %d %s, such as %s", where, len(paths_), what, first)


def _in_folder(folder: epath.Path, rest: _Rest, above: frozenset[str] = frozenset()) -> list[Video]:
    """Returns the videos of a folder; `above` are the folders that it lies in, with links resolved."""
    above = above | {os.path.realpath(folder)}
    try:
        found = folders.contents(folder)
    except OSError as error:
        return [Unreadable(printable(folder), str(unreadable(folder, error)))]
    files = set(found.videos)
    rest.housekeeping += found.passed_over
    rest.others += found.others
    inner: list[Video] = []
    for entry in sorted([*files, *found.folders], key=lambda entry: natural_key(entry.name)):
        if entry in files:
            inner.append(VideoFile(entry))
            continue
        real = os.path.realpath(entry)
        if real in above:
            problem = f"{entry}: a link to a folder that contains it; remove the link"
            inner.append(Unreadable(printable(entry), problem))
        elif real == rest.output or folders.is_own_output(entry):
            rest.housekeeping.append(entry)
        else:
            inner += _in_folder(entry, rest, above)
    # A lone picture beside videos, such as a cover, is not a video.
    is_video = not files and (len(found.pictures) > 1 or (found.pictures and not inner))
    if not is_video:
        rest.pictures += found.pictures
    own: list[Video] = [Pictures(folder)] if is_video else []
    return own + inner


def _in_list(path: epath.Path, output: str) -> list[Video]:
    videos: list[Video] = []
    for number, name in _listed(path):
        try:
            if name.lower().endswith(LIST_SUFFIXES):
                raise MediaError(f"{name}: a list inside a list")
            videos += find(_located(name, path.parent), output)
        except ValueError as error:
            problem = f"{printable(path)}, line {number}: {error}"
            videos.append(Unreadable(printable(name), problem))
    if not videos:
        raise MediaError(f"{path}: lists no video")
    return videos


def _located(name: str, folder: epath.Path) -> epath.PathLike:
    """Returns the path or address of a line; paths start at the folder, and may be those of Windows."""
    if "://" in name:
        return name
    found, slashed = (folder / paths.expand(text) for text in (name, name.replace("\\", "/")))
    return slashed if slashed.exists() and not found.exists() else found


def _listed(path: epath.Path) -> list[tuple[int, str]]:
    """Returns the paths of a list, each with its line.

    Raises:
      MediaError: it is not text, or a quote is not closed.
    """
    try:
        text = tables.decode(read_file(path), path).text
        if path.suffix.lower() != ".txt":
            separator = tables.separators(text, {"path": tables.PATH}, ["path"])[0]
            rows = tables.rows(text, path, separator)
        else:
            lines = enumerate(text.split("\n"), 1)
            rows = [tables.Row(f"{path}:{n}", n, (_unquoted(line.strip()),)) for n, line in lines]
        rows = [row for row in rows if row.cells[0] and not row.cells[0].startswith("#")]
        place = tables.PATH.place(rows[0].cells) if rows else None
    except MediaError:
        raise
    except ValueError as error:
        raise MediaError(str(error)) from None
    if place is not None:
        rows = rows[1:]
    found = [(row.number, row.cells[place or 0]) for row in rows if len(row.cells) > (place or 0)]
    return [(number, name) for number, name in found if name]


def _unquoted(line: str) -> str:
    """Returns a path without the quotes with which Windows copies it."""
    is_quoted = len(line) > 2 and line[0] == line[-1] == '"'
    return line[1:-1] if is_quoted else line
