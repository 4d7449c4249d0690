"""Reads the original files of a data set: lists of clips, tables of votes, folders.

Takes paths below the user's folder and returns plain Python values. Every error names the file, the line
if there is one, the value, and what to do.
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

from rdfer_jax import paths
from rdfer_jax.media.files import VIDEO_SUFFIXES
from rdfer_jax.media.folders import visible
from rdfer_jax.tables import split_lines

#: Items that a message lists.
_MAX_LISTED = 20
#: Characters of a value that a message shows.
_MAX_SHOWN = 200
#: Largest unpacked size of an .xlsx file, in bytes.
_MAX_UNPACKED = 1 << 28
#: Longest name and longest path that file systems accept, in bytes.
_MAX_NAME, _MAX_PATH = 255, 4096
#: Control characters, line separators, surrogates, and the replacement character.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffd]")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a text file; empty lines are skipped.

    Attributes:
      where: file and line, for messages.
      number: line number, from 1.
      text: the line without its line end.
    """

    where: str
    number: int
    text: str


def listing(items: Sequence[Any]) -> str:
    """Returns the first items, one per line, and the number of further ones."""
    shown = [f"  {item}" for item in items[:_MAX_LISTED]]
    more = len(items) - len(shown)
    return "\n".join(shown + ([f"  ... and {more} more"] if more else []))


def listed(names: Sequence[str]) -> str:
    """Returns the first names, separated by commas, and the number of further ones."""
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def shown(text: str) -> str:
    """Returns a value for a message: quoted, and truncated if it is long."""
    if len(text) <= _MAX_SHOWN:
        return repr(text)
    return f"{text[:_MAX_SHOWN]!r}... ({len(text)} characters)"


def read_lines(path: epath.Path) -> list[Line]:
    """Reads a text file in UTF-8, with or without a byte order mark, or else in GBK; any line ends.

    Bytes that are invalid in both become replacement characters.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, has another encoding, or has a line of more than 65,536 characters.
    """
    if path.is_dir():
        raise ValueError(f"{path}: expected a text file, got a folder")
    data = path.read_bytes()
    if data.startswith(_UTF16) or b"\0" in data:
        number = data[: max(data.find(b"\0"), 0)].count(b"\n") + 1
        raise ValueError(f"{path}:{number}: NUL byte or UTF-16; save this file as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(codecs.BOM_UTF8):
            number, byte = _place(error)
            raise ValueError(
                f"{path}:{number}: byte {byte:#x} is not UTF-8, although the file starts with the UTF-8 "
                "byte order mark; save it as UTF-8"
            ) from None
        text = data.decode("gb18030", errors="replace")
    return [
        Line(f"{path}:{number}", number, line.strip(" "))
        for number, line in enumerate(split_lines(text, path), start=1)
        if line.strip()
    ]


def _place(error: UnicodeDecodeError) -> tuple[int, int]:
    """Returns the line, from 1, and the first byte that cannot be decoded."""
    return error.object[: error.start].count(b"\n") + 1, error.object[error.start]


def source_root(source_dir: str, markers: Sequence[str], name: str) -> epath.Path:
    """Returns the folder that holds the data set: the given one, or one up to two levels below it.

    Args:
      source_dir: the user's folder.
      markers: relative paths, at least one of which exists in the folder of the data set.
      name: name of the data set, for messages.

    Raises:
      FileNotFoundError: the folder does not exist, or no folder has a marker.
      ValueError: source_dir is empty or a file, or several folders of the same level have a marker.
    """
    if not source_dir:
        raise ValueError(
            f"source_dir is empty; give the folder that holds {name}: --config.build.source_dir=FOLDER"
        )
    top = epath.Path(source_dir)
    if top.exists() and not top.is_dir():
        raise ValueError(f"source_dir={source_dir}: a file; give the folder that holds {name}")
    if not top.is_dir():
        raise FileNotFoundError(f"source_dir={source_dir}: no such folder; it should hold {name}")
    level = [top]
    for _ in range(3):
        roots = [folder for folder in level if any((folder / mark).exists() for mark in markers)]
        if len(roots) == 1:
            return roots[0]
        if roots:
            raise ValueError(
                f"source_dir={source_dir} holds {name} more than once; set it to one of\n"
                + listing(roots)
            )
        level = [child for folder in level for child in visible(folder) if child.is_dir()]
    raise FileNotFoundError(
        f"source_dir={source_dir} does not look like {name}: neither it nor a folder up to two levels "
        f"below contains one of\n{listing(markers)}"
    )


def plain(name: str, where: str) -> str:
    """Returns the name of a clip or a class unchanged.

    Raises:
      ValueError: it contains control characters, or characters that could not be decoded.
    """
    if odd := _ODD.search(name):
        raise ValueError(
            f"{where}: character {odd[0]!r} in {shown(name)}; names must be plain text. "
            "Save the list as UTF-8, or correct the name"
        )
    return name


def relative_path(value: str, where: str) -> str:
    """Returns a relative path in normalized form.

    Raises:
      ValueError: it is empty, absolute, leads out of its folder, or is not a valid file name.
    """
    path = posixpath.normpath(plain(value.strip(), where).replace("\\", "/"))
    is_outside = path.startswith(("/", "../")) or path in ("..", ".") or re.match("[A-Za-z]:", path)
    if not value.strip() or is_outside:
        raise ValueError(
            f"{where}: path {shown(value)} must be relative and stay inside its folder"
        )
    if max(len(part.encode()) for part in path.split("/")) > _MAX_NAME:
        raise ValueError(
            f"{where}: path {shown(value)} has a name of more than {_MAX_NAME} bytes; shorten it"
        )
    if len(path.encode()) > _MAX_PATH:
        raise ValueError(
            f"{where}: path {shown(value)} has more than {_MAX_PATH} bytes; shorten it"
        )
    return path


def clips_folder(root: epath.Path, wanted: str, candidates: Sequence[str]) -> epath.Path:
    """Returns the folder that holds the clips.

    Args:
      root: the data set's folder.
      wanted: the user's relative path; empty for the first candidate that exists.
      candidates: relative paths in order of preference.

    Raises:
      FileNotFoundError: none of them exists.
    """
    wanted = paths.expand(wanted).removeprefix(f"{root}/")
    choices = [relative_path(wanted, "frames_dir")] if wanted else candidates
    for choice in choices:
        folder = root / choice
        if folder.is_dir() and (wanted or any(folder.iterdir())):
            inner = folder / folder.name  # some archives contain a folder of their own name
            return inner if inner.is_dir() else folder
    raise FileNotFoundError(
        f"{root} has no folder of clips; looked for\n{listing(choices)}\n"
        "Unpack the clips into one of these folders, or set frames_dir."
    )


class ClipFinder:
    """Finds clips by name below a folder; lists each folder only once."""

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self._names: dict[str, dict[str, epath.Path]] = {}

    def _entries(self, below: str) -> dict[str, epath.Path]:
        """Returns the entries of a folder by name, and video files also by name without suffix."""
        if below not in self._names:
            folder = self.folder / below if below else self.folder
            entries = visible(folder) if folder.is_dir() else []
            videos = {p.stem: p for p in entries if p.suffix.lower() in VIDEO_SUFFIXES}
            self._names[below] = videos | {path.name: path for path in entries}
        return self._names[below]

    def find(self, names: Iterable[str], below: str = "") -> str:
        """Returns the path of the first name that is a folder or a video, or "" if none is.

        Args:
          names: possible names of the clip, without suffix.
          below: folder to search, relative to the finder's own.
        """
        entries = self._entries(below)
        return next((str(entries[name]) for name in names if name in entries), "")


def number_names(number: str, width: int) -> tuple[str, ...]:
    """Returns the possible spellings of a clip's number: padded, as given, without leading zeros."""
    return tuple(dict.fromkeys((number.zfill(width), number, number.lstrip("0") or "0")))


def is_number(text: str) -> bool:
    """Returns whether a cell is a whole number of up to nine digits."""
    return re.fullmatch("[0-9]{1,9}", text) is not None


def csv_cells(text: str) -> list[str]:
    """Returns the cells of a line of comma-separated text, without quotes and surrounding spaces."""
    return [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True))]


Row = tuple[str, tuple[Any, ...]]


def read_tables(path: epath.Path) -> Iterator[list[Row]]:
    """Yields the sheets of an .xlsx file, or the table of a .csv file, as (where, cells) per row.

    Empty rows are skipped. Cells of a .csv file are text.

    Raises:
      ValueError: the file cannot be read.
    """
    if path.suffix.lower() == ".csv":
        yield [(line.where, tuple(csv_cells(line.text))) for line in read_lines(path)]
        return
    try:
        sheets = _sheets(path)
    except Exception as error:  # openpyxl raises many types on damaged files
        raise ValueError(
            f"{path}: not a readable .xlsx file ({type(error).__name__}: {error}); "
            "save it again, or as .csv"
        ) from None
    yield from sheets


def sheet_names(path: epath.Path) -> list[str]:
    """Returns what to call each sheet of a workbook that read_tables reads, in the same order."""
    with path.open("rb") as file:
        book = openpyxl.load_workbook(file, read_only=True)
        names = [
            repr(sheet.title) + (" (hidden)" if sheet.sheet_state != "visible" else "")
            for sheet in book.worksheets
        ]
        book.close()
        return names


def _sheets(path: epath.Path) -> list[list[Row]]:
    with path.open("rb") as file:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _MAX_UNPACKED:
            raise ValueError(f"unpacks to {unpacked} bytes; the limit is {_MAX_UNPACKED}")
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        sheets = []
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # the declared size is not always right
            sheets.append(
                [
                    (f"{path}:{number}", tuple(row))
                    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1)
                    if any(cell is not None for cell in row)
                ]
            )
        book.close()
        return sheets


def heading(cell: Any) -> str:
    """Returns a column heading in lower case and without digits and spaces: `1happy` -> `happy`."""
    return re.sub(r"[^a-z]+", "", str(cell).lower()) if cell is not None else ""


def columns(header: Sequence[Any], names: Iterable[str]) -> dict[str, int] | None:
    """Returns the position of each named column, or None if one does not occur exactly once."""
    headings = [heading(cell) for cell in header]
    names = tuple(names)
    if any(headings.count(name) != 1 for name in names):
        return None
    return {name: headings.index(name) for name in names}


FoldLabels = Mapping[str, Mapping[str, int]]  # fold -> clip -> label


def check_folds(tests: FoldLabels, trains: FoldLabels) -> None:
    """Checks that the folds are a cross-validation: fold k trains on what the other folds test on.

    Args:
      tests: for each fold, the clips of its test set and their labels.
      trains: the same for its training set.

    Raises:
      ValueError: a clip is tested twice, or a training set is not the union of the other folds' test
        sets with the same labels; the message lists the clips.
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
                other = "also in its test set" if clip in tests[fold] else "in no test set"
                problems.append(f"{clip}: in the training set of {fold}, but {other}")
            elif clip not in train:
                problems.append(f"{clip}: not in the training set of {fold}")
            elif train[clip] != others[clip]:
                problems.append(
                    f"{clip}: class {train[clip]} in the training set of {fold}, "
                    f"class {others[clip]} in the test set of {first_fold[clip]}"
                )
    if problems:
        raise ValueError(
            f"the lists are not a cross-validation; {len(problems)} contradictions:\n"
            + listing(problems)
            + "\nTake all lists from one copy of the data set."
        )
