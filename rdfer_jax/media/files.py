"""What image and video files have in common: suffixes, the size limit, their names, their errors."""

import itertools
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, BinaryIO

from etils import epath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".ts", ".mts", ".m2ts", ".ogv", ".gif", ".3g2", ".asf", ".divx", ".dv", ".f4v"),
    *(".m2v", ".mod", ".mpe", ".mxf", ".qt", ".tod", ".vob", ".ogm", ".wtv", ".rm", ".rmvb"),
    # What cameras write without a container.
    *(".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".ivf", ".obu", ".y4m", ".mjpeg", ".mjpg"),
    *(".m1v", ".mp2v", ".mpv", ".av1", ".dav", ".dhav", ".ifv", ".vc1", ".vvc", ".h266", ".266"),
    # Of other cameras and programs.
    *(".insv", ".360", ".ismv", ".nut", ".apng"),
)

#: Pixels of the largest image or video frame that is read, about two 8K frames: 200 MB in memory.
MAX_PIXELS = 1 << 26

#: A number with digits behind a point, which is no part of one like 1.2.3; and any number.
_DECIMAL = re.compile(r"(?<![0-9.,])([0-9]+)[.,]([0-9]+)(?![.,]?[0-9])")
_FLOAT = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class MediaError(ValueError):
    """An image, a video or a list of them cannot be read; the message names the file, see printable."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(name: object) -> str:
    """Returns the name of a file as text that any terminal, file and font takes.

    Bytes that are not UTF-8, which Python turns into lone surrogates, and control characters become
    escapes such as \\xe9.
    """
    return "".join(map(_printable, str(name)))


def _printable(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character


def spelling(name: str) -> str:
    """Returns a name without what macOS and Windows ignore: case, and how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def natural_key(name: str) -> tuple[str | int, ...]:
    """Returns a sort key that puts 2 before 10: digits compare as numbers, the rest as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))


def in_time_order(pictures: Iterable[epath.Path]) -> list[epath.Path]:
    """Returns the pictures of a series in the order of the numbers in their names.

    1, 2, 10 need no leading zeros. Where the digits behind a point vary in number, as in 0.5 and 0.25, they
    are decimals, as of times in seconds; unless one ends in 0, as in 1.9 and 1.10, which count.

    Raises:
      MediaError: two names have the same numbers, it cannot be told which of the two they are, or there are
        two series, such as of pictures and masks.
    """
    paths = sorted(pictures)
    if not paths:
        return []
    key = _series_key([path.stem for path in paths], paths[0].parent)
    paths.sort(key=lambda path: key(path.stem))
    for earlier, later in itertools.pairwise(paths):
        if key(earlier.stem) == key(later.stem):
            raise MediaError(
                f"{earlier.parent}: {earlier.name} and {later.name} are the same frame"
            )
    _check_single(paths)
    return paths


def _check_single(paths: Sequence[epath.Path]) -> None:
    """Raises MediaError where series of the same numbers take turns, as in 1.jpg, 1_mask.png, 2.jpg ..."""
    series: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        series.setdefault(re.sub(r"[0-9]+", "", path.stem), []).append(place)
    first, *others = series.values()
    numbers = [
        {tuple(re.findall(r"[0-9]+", paths[place].stem)) for place in places}
        for places in series.values()
    ]
    takes_turns = others and all(places[0] < first[-1] for places in others)
    if takes_turns and len(first) > 1 and all(one == numbers[0] for one in numbers):
        names = " and ".join(paths[places[0]].name for places in series.values())
        raise MediaError(
            f"{paths[0].parent}: {len(series)} series of pictures, {names} ...; leave one in this folder"
        )


def _series_key(stems: Sequence[str], folder: epath.Path) -> Callable[[str], tuple[Any, ...]]:
    """Returns how to sort the names of a series, see in_time_order."""
    if all(map(_FLOAT.fullmatch, stems)) and 0 < sum("-" in stem for stem in stems) < len(stems):
        return lambda stem: (float(stem),)  # -0.5 or 1e-05
    fractions = [match[2] for stem in stems for match in _DECIMAL.finditer(stem)]
    if len(set(map(len, fractions))) <= 1:
        return natural_key
    longer = [digits for digits in fractions if len(digits) > 1]
    counts = any(digits.endswith("0") for digits in longer)
    if counts and any(digits.startswith("0") for digits in longer):
        example = next(match[0] for stem in stems for match in _DECIMAL.finditer(stem))
        raise MediaError(
            f"{folder}: the names do not tell whether {example} is a decimal number or two numbers; "
            "write all of them with the same number of digits"
        )
    return natural_key if counts else _decimal_key


def _decimal_key(name: str) -> tuple[str | Decimal, ...]:
    parts = re.split(r"([0-9]+(?:[.,][0-9]+)?)", name)
    return tuple(Decimal(p.replace(",", ".")) if i % 2 else p for i, p in enumerate(parts))


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
