"""Reads FER2013 and FER+: pictures with their original label, and the votes of ten people for each.

The two files belong together row by row, as https://github.com/microsoft/FERPlus documents; the names of
pictures in FER+ are numbers of their own.
"""

import csv
import dataclasses
import gzip
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from .. import raw, schema

#: Height and width of a picture, pixels.
SIDE = 48
#: Names of the published files; the first that exists is read.
PICTURES = ("fer2013.csv", "fer2013.csv.gz", "icml_face_data.csv", "icml_face_data.csv.gz")
VOTES = ("fer2013new.csv", "fer2013new.csv.gz")
#: Column `Usage` -> split.
SPLITS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
#: Numbers in the column `emotion` of FER2013.
ORIGINAL = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
#: Columns of FER+ -> class, or why a picture is left out when most people vote so.
VOTED = {
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "contempt": "contempt",
    "unknown": "unknown",
    "NF": "no face",
}
#: Why a picture is left out.
REASONS = ("no face", "unknown", "contempt", "tie", "copy")
#: A picture is hard if a smaller share of the votes than this is for the majority's class.
SURE = 0.7

_PIXELS = re.compile(r"[0-9 ]+")
_MAX_CELL = 1 << 16


@dataclasses.dataclass(frozen=True)
class Picture:
    """A row of the two files.

    Attributes:
      number: number of the row, from 0, without the header.
      split: train, validation or test.
      gray: uint8 [48, 48].
      original: index of the original label.
      voted: index of the class with the most votes; -1 if there is none.
      votes: votes for each of the seven classes.
      is_hard: whether the class with the most votes has fewer than seven of ten.
      left_out: one of REASONS; empty if the picture is used.
    """

    number: int
    split: str
    gray: np.ndarray
    original: int
    voted: int
    votes: tuple[float, ...]
    is_hard: bool
    left_out: str

    @property
    def name(self) -> str:
        """The clip_id."""
        return f"fer{self.number:07d}"


@dataclasses.dataclass(frozen=True)
class _Row:
    """A line of a file: its place, for messages, and its cells by column."""

    where: str
    cells: Mapping[str, str]


def read(root: epath.Path) -> list[Picture]:
    """Returns all pictures, in the order of the rows.

    Left out are pictures in which most people saw no face, contempt, or nothing they knew, ties, and
    copies, pixel by pixel, of a picture in a later one of the splits train, validation and test.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a row is malformed, or the two files do not have the same rows.
    """
    files = find(root, PICTURES), find(root, VOTES)
    ones, twos = _rows(files[0], ("emotion", "pixels", "Usage")), _rows(files[1], ("Usage", *VOTED))
    pictures = []
    for number, (one, two) in enumerate(itertools.zip_longest(ones, twos)):
        if one is None or two is None:
            longer, shorter = files if two is None else files[::-1]
            raise ValueError(
                f"{longer}: has more rows than the {number} of {shorter}; the files belong together row by "
                "row"
            )
        if one.cells["Usage"] != two.cells["Usage"]:
            raise ValueError(
                f"{two.where}: expected Usage {one.cells['Usage']!r} as in {one.where}, got "
                f"{raw.shown(two.cells['Usage'])}; the files belong together row by row"
            )
        pictures.append(_picture(number, one, two))
    if not pictures:
        raise ValueError(f"{files[0]}: has no row")
    return _without_copies(pictures)


def find(root: epath.Path, names: Sequence[str]) -> epath.Path:
    """Returns the first of some files that exists.

    Raises:
      FileNotFoundError: there is none.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{root}: expected one of {', '.join(names)}, found none")


def _rows(path: epath.Path, names: Sequence[str]) -> Iterator[_Row]:
    """Yields the rows of a file, which is read as a stream."""
    with path.open("rb") as file:
        data = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        reader = csv.reader(io.TextIOWrapper(data, encoding="utf-8-sig", newline=""))
        try:
            header = next(reader, [])
            columns = raw.columns(header, map(raw.heading, names))
            if columns is None:
                raise ValueError(
                    f"{path}:1: expected the columns {', '.join(names)}, got {raw.shown(','.join(header))}"
                )
            places = {name: columns[raw.heading(name)] for name in names}
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if len(cells) != len(header):
                    raise ValueError(f"{where}: expected {len(header)} cells, got {len(cells)}")
                yield _Row(where, {name: cells[place].strip() for name, place in places.items()})
        except (csv.Error, EOFError, OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path}: cannot be read ({error}); is the file complete? Download it again"
            ) from None


def _picture(number: int, one: _Row, two: _Row) -> Picture:
    """Returns the picture of a row of FER2013 and a row of FER+."""
    usage, emotion = one.cells["Usage"], one.cells["emotion"]
    if usage not in SPLITS:
        raise ValueError(
            f"{one.where}: expected Usage to be one of {', '.join(SPLITS)}, got {raw.shown(usage)}"
        )
    if not raw.is_number(emotion) or int(emotion) >= len(ORIGINAL):
        raise ValueError(f"{one.where}: expected an emotion of 0 to 6, got {raw.shown(emotion)}")
    votes = _votes(two)
    most = max(votes.values())
    seen = [name for name, number in votes.items() if number == most]
    left_out = ""
    if len(seen) > 1:
        left_out = "tie"
    elif seen[0] in REASONS:
        left_out = seen[0]
    classes = schema.DFEW_CLASSES
    return Picture(
        number=number,
        split=SPLITS[usage],
        gray=_gray(one),
        original=classes.index(ORIGINAL[int(emotion)]),
        voted=-1 if left_out else classes.index(seen[0]),
        votes=tuple(float(votes[name]) for name in classes),
        is_hard=most < SURE * sum(votes.values()),
        left_out=left_out,
    )


def _votes(row: _Row) -> dict[str, int]:
    """Returns the votes for each class, and for no face, contempt and unknown."""
    cells = {name: row.cells[column] for column, name in VOTED.items()}
    for name, cell in cells.items():
        if not raw.is_number(cell):
            raise ValueError(f"{row.where}: expected a number of votes for {name}, got {cell!r}")
    votes = {name: int(cell) for name, cell in cells.items()}
    if not any(votes.values()):
        raise ValueError(f"{row.where}: expected votes, got none")
    return votes


def _gray(row: _Row) -> np.ndarray:
    text = row.cells["pixels"]
    values = np.zeros(0, int)
    if len(text) < _MAX_CELL and _PIXELS.fullmatch(text):
        values = np.fromstring(text, int, sep=" ")
    if len(values) != SIDE**2 or values.max() > 255:
        raise ValueError(
            f"{row.where}: expected {SIDE**2} gray values of 0 to 255 in pixels, got "
            f"{raw.shown(text[:40])}... with {len(text.split())} values"
        )
    return values.astype(np.uint8).reshape(SIDE, SIDE)


def _without_copies(pictures: Sequence[Picture]) -> list[Picture]:
    """Leaves out pictures of which a later split has a copy."""
    order = list(SPLITS.values())
    last: dict[bytes, int] = {}
    for picture in pictures:
        pixels, place = picture.gray.tobytes(), order.index(picture.split)
        last[pixels] = max(last.get(pixels, 0), place)
    return [
        dataclasses.replace(picture, left_out="copy")
        if not picture.left_out and order.index(picture.split) < last[picture.gray.tobytes()]
        else picture
        for picture in pictures
    ]
