"""Reading a data set as it was distributed: lists of clips, tables of votes, folders.

Enters: paths below the user's root folder. Leaves: plain Python values. Every error names the file,
the line where there is one, the value, and what to do about it.
"""

import codecs
import csv
import dataclasses
import posixpath
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import openpyxl
from etils import epath

from . import frames

_LISTED = 20
#: Characters of a value that a message shows.
_SHOWN = 200
#: Characters of the longest line that a list may have, well below what the csv module takes.
_LONGEST_LINE = 65_536
#: Bytes that an .xlsx file, which is compressed, may unpack to.
_MOST_UNPACKED = 1 << 28
#: Bytes of the longest name, and of the longest path, that file systems take.
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
#: Control characters, line separators, halves of characters, and what could not be decoded.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd]")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a text file that is not empty.

    Attributes:
      where: file and line, for messages.
      number: line number, from 1.
      text: the line without its end.
    """

    where: str
    number: int
    text: str


def listing(items: Sequence[Any]) -> str:
    """Returns the first items, one a line, and how many more there are."""
    shown = [f"  {item}" for item in items[:_LISTED]]
    more = len(items) - len(shown)
    return "\n".join(shown + ([f"  ... and {more} more"] if more else []))


def listed(names: Sequence[str]) -> str:
    """Returns the first names between commas, and how many more there are."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def shown(text: str) -> str:
    """Returns a value for a message: between quotes, and cut where it is long."""
    if len(text) <= _SHOWN:
        return repr(text)
    return f"{text[:_SHOWN]!r}... ({len(text)} characters)"


def read_lines(path: epath.Path) -> list[Line]:
    """Reads a text file: UTF-8 with or without a mark, or else GBK; any kind of line end.

    Bytes that are neither (in a caption, say) become replacement characters.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, or no such text, or has a line of more than 65,536 characters.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder, where a list is meant")
    data = path.read_bytes()
    if data.startswith(_UTF16) or b"\0" in data:
        number = data[: max(data.find(b"\0"), 0)].count(b"\n") + 1
        raise ValueError(f"{path}:{number}: a NUL byte, or UTF-16; save this file as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(codecs.BOM_UTF8):
            number, byte = _place(error)
            raise ValueError(
                f"{path}:{number}: byte {byte:#x} is not UTF-8, though the file starts "
                "with the mark of UTF-8; save it as UTF-8"
            ) from None
        text = data.decode("gb18030", errors="replace")
    # Not str.splitlines, which also splits at characters that occur inside captions.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if len(line) > _LONGEST_LINE:
            raise ValueError(
                f"{path}:{number}: {len(line)} characters in one line, {shown(line[:20])}...; "
                f"a list has at most {_LONGEST_LINE}. Is it the right file?"
            )
    return [
        Line(f"{path}:{number}", number, line.strip(" "))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _place(error: UnicodeDecodeError) -> tuple[int, int]:
    """The line, from 1, and the first byte that cannot be decoded; the error leaves out the mark."""
    return error.object[: error.start].count(b"\n") + 1, error.object[error.start]


def source_root(source_dir: str, markers: Sequence[str], name: str) -> epath.Path:
    """Returns the folder that holds the data set: the given one, or one up to two levels below.

    Args:
      source_dir: what the user gave.
      markers: relative paths of which the root has at least one.
      name: name of the data set, for messages.

    Raises:
      FileNotFoundError: if the folder does not exist, or none below it has a marker.
      ValueError: if several folders of the same level have one.
    """
    if not source_dir:
        raise ValueError(f"source_dir is empty; set it to the folder that holds {name}")
    top = epath.Path(source_dir)
    if not top.is_dir():
        raise FileNotFoundError(f"source_dir={source_dir}: no such folder; it should hold {name}")
    level = [top]
    for _ in range(3):
        found = [folder for folder in level if any((folder / mark).exists() for mark in markers)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"source_dir={source_dir} holds {name} more than once; name one of\n"
                + listing(found)
            )
        level = [child for folder in level for child in visible(folder) if child.is_dir()]
    raise FileNotFoundError(
        f"source_dir={source_dir} does not look like {name}: nothing there, or up to two folders "
        f"below, is called\n{listing(markers)}"
    )


def visible(folder: epath.Path) -> list[epath.Path]:
    """Returns what is in a folder, sorted by name, without hidden entries."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def plain(name: str, where: str) -> str:
    """Returns the name of a clip or a class as it is.

    Raises:
      ValueError: if it holds control characters, or such as could not be decoded.
    """
    if odd := _ODD.search(name):
        raise ValueError(
            f"{where}: character {odd[0]!r} in {shown(name)}; names must be plain text. "
            "Save the list as UTF-8, or correct the name"
        )
    return name


def relative_path(value: str, where: str) -> str:
    """Returns a relative path in its shortest form.

    Raises:
      ValueError: if it is empty, absolute, leads out of the folder it is relative to, or is no name
        that a file can have.
    """
    path = posixpath.normpath(plain(value.strip(), where).replace("\\", "/"))
    is_outside = path.startswith(("/", "../")) or path in ("..", ".") or re.match("[A-Za-z]:", path)
    if not value.strip() or is_outside:
        raise ValueError(
            f"{where}: path {shown(value)} must be relative and stay inside its folder"
        )
    if max(len(part.encode()) for part in path.split("/")) > _LONGEST_NAME:
        raise ValueError(f"{where}: path {shown(value)} has a name of over {_LONGEST_NAME} bytes")
    if len(path.encode()) > _LONGEST_PATH:
        raise ValueError(f"{where}: path {shown(value)} has over {_LONGEST_PATH} bytes")
    return path


def clips_folder(root: epath.Path, wanted: str, candidates: Sequence[str]) -> epath.Path:
    """Returns the folder that holds the clips.

    Args:
      root: the data set's folder.
      wanted: relative path that the user asked for; empty to take the first candidate there is.
      candidates: relative paths, the preferred one first.

    Raises:
      FileNotFoundError: if there is none.
    """
    choices = [relative_path(wanted, "frames_dir")] if wanted else candidates
    for choice in choices:
        folder = root / choice
        if folder.is_dir() and (wanted or any(folder.iterdir())):
            inner = folder / folder.name  # some archives unpack into a folder of their own name
            return inner if inner.is_dir() else folder
    raise FileNotFoundError(
        f"{root} has no folder of clips; looked for\n{listing(choices)}\n"
        "Unpack one of these there, or name another with frames_dir."
    )


class ClipFinder:
    """Finds clips by name below one folder; each folder is listed once."""

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self._names: dict[str, dict[str, epath.Path]] = {}

    def _listed(self, below: str) -> dict[str, epath.Path]:
        """Returns the entries of a folder: by name, and video files by name without suffix."""
        if below not in self._names:
            folder = self.folder / below if below else self.folder
            entries = visible(folder) if folder.is_dir() else []
            videos = {p.stem: p for p in entries if p.suffix.lower() in frames.VIDEO_SUFFIXES}
            self._names[below] = videos | {path.name: path for path in entries}
        return self._names[below]

    def find(self, names: Iterable[str], below: str = "") -> str:
        """Returns the path of the first of the names that is a folder or a video; "" if none is.

        Args:
          names: possible names of the clip, without suffix.
          below: folder to look in, relative to the finder's own.
        """
        listed = self._listed(below)
        return next((str(listed[name]) for name in names if name in listed), "")


def number_names(number: str, width: int) -> tuple[str, ...]:
    """Returns the ways in which a clip's number is written: padded, as given, without zeros."""
    return tuple(dict.fromkeys((number.zfill(width), number, number.lstrip("0") or "0")))


def is_number(text: str) -> bool:
    """Whether a cell is a whole number of up to nine digits."""
    return re.fullmatch("[0-9]{1,9}", text) is not None


def csv_cells(text: str) -> list[str]:
    """Returns the cells of one line of comma-separated text, quotes and spaces taken off."""
    return [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True))]


Row = tuple[str, tuple[Any, ...]]


def read_tables(path: epath.Path) -> Iterator[list[Row]]:
    """Yields the sheets of an .xlsx file, or the one table of a .csv, as (where, cells) per row.

    Empty rows are left out. Cells of a .csv are text.

    Raises:
      ValueError: it cannot be read.
    """
    if path.suffix.lower() == ".csv":
        yield [(line.where, tuple(csv_cells(line.text))) for line in read_lines(path)]
        return
    try:
        sheets = _sheets(path)
    except Exception as error:  # whatever openpyxl stumbles over
        raise ValueError(
            f"{path}: not a readable .xlsx file ({type(error).__name__}: {error}); "
            "save it again, or as .csv"
        ) from None
    yield from sheets


def _sheets(path: epath.Path) -> list[list[Row]]:
    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _MOST_UNPACKED:
            raise ValueError(f"it unpacks to {unpacked} bytes; at most {_MOST_UNPACKED} are read")
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        found = []
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # the size that a file declares is not always right
            found.append(
                [
                    (f"{path}:{number}", tuple(row))
                    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1)
                    if any(cell is not None for cell in row)
                ]
            )
        book.close()
        return found


def heading(cell: Any) -> str:
    """Returns a column's heading without digits, spaces and case: `1happy` is `happy`."""
    return re.sub(r"[^a-z]+", "", str(cell).lower()) if cell is not None else ""


def columns(header: Sequence[Any], names: Iterable[str]) -> dict[str, int] | None:
    """Returns the position of each named column, or None when one is not there exactly once."""
    headings = [heading(cell) for cell in header]
    names = tuple(names)
    if any(headings.count(name) != 1 for name in names):
        return None
    return {name: headings.index(name) for name in names}


FoldLabels = Mapping[str, Mapping[str, int]]  # fold -> clip -> label


def check_folds(tests: FoldLabels, trains: FoldLabels) -> None:
    """Checks that the folds are a cross-validation: what fold k trains on, the others test on.

    Args:
      tests: for each fold the clips of its test set and their labels.
      trains: the same for its training set.

    Raises:
      ValueError: if a clip is tested twice, or a training set is not the union of the other folds'
        test sets with the same labels; lists the clips.
    """
    first_fold: dict[str, str] = {}
    problems = []
    for fold, labels in tests.items():
        for clip in labels:
            if clip in first_fold:
                problems.append(f"{clip}: in the test sets of {first_fold[clip]} and {fold}")
            first_fold.setdefault(clip, fold)
    for fold, train in trains.items():
        others = {c: n for name, labels in tests.items() if name != fold for c, n in labels.items()}
        for clip in sorted(train.keys() | others.keys()):
            if clip not in others:
                other = "its own" if clip in tests[fold] else "no"
                problems.append(f"{clip}: trains {fold}, but is in {other} test set")
            elif clip not in train:
                problems.append(f"{clip}: not in the training set of {fold}")
            elif train[clip] != others[clip]:
                problems.append(
                    f"{clip}: class {train[clip]} in the training set of {fold}, "
                    f"class {others[clip]} in the test set of {first_fold[clip]}"
                )
    if problems:
        raise ValueError(
            f"the lists are no cross-validation, {len(problems)} contradictions:\n"
            + listing(problems)
            + "\nTake all lists from one copy of the data set."
        )
