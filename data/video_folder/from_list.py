"""Clips by a list: a table with a column of paths, one of labels and, if known, of splits and persons.

The table is a text file or a spreadsheet; see rdfer_jax/tables.py for encodings and separators.
"""

import dataclasses
import datetime
import os
import posixpath
import re
from collections.abc import Mapping, Sequence

from etils import epath

from rdfer_jax import paths, tables
from rdfer_jax.media import folders, kinds
from rdfer_jax.media.files import VIDEO_SUFFIXES, spelling
from rdfer_jax.tables import Column, Row

from .. import raw
from .listed import Listed, split_of

#: Names of the columns; of several that a table has, the first here is used.
_NAMES = {
    "label": "label labels emotion emotions class classname expression category target emotionlabel "
    "expressionlabel labelname emotionname",
    "split": "split subset set usage partition dataset",
    "subject": "subject subjectid person personid actor actorid speaker speakerid participant "
    "participantid "
    "identity performer individual patient user userid pid id",
}
COLUMNS: Mapping[str, Column] = {"path": tables.PATH} | {
    key: Column(names.split()[0], names.split()[1:]) for key, names in _NAMES.items()
}
#: Columns without a header, by their number.
_ORDER = ("path", "label", "split", "subject")
_EXPECTED = "`path,label[,split[,subject]]`"
#: What programs write where there is no value, in lower case.
_NO_VALUE = frozenset(
    (
        *("nan", "n/a", "#n/a", "<na>", "na", "null", "nat"),
        *("#null!", "#ref!", "#value!", "#name?", "#num!", "#div/0!"),
    )
)
_BOOKS = (".xlsx", ".xlsm")
_EMPTY = (
    "a merged cell has its value in its first row only, and a formula none until a spreadsheet program "
    "has saved it"
)
#: Names of columns that give a part of a video.
_TIMES = re.compile(r"\b(start|begin|onset|end|stop|offset)(?![a-z])", re.IGNORECASE)
#: Rows above a header that a message looks for.
_ABOVE = 10
#: Rows that are looked up to find out where paths start.
_TRIED = 200


@dataclasses.dataclass(frozen=True)
class Found:
    """The clips of a list, and lines for the user."""

    clips: list[Listed]
    notes: list[str]


def find(root: epath.Path, name: str) -> Found:
    """Reads a list of clips.

    Args:
      root: the folder that holds the clips.
      name: the list: a path, or a path relative to the root.

    Raises:
      FileNotFoundError: there is no such list.
      ValueError: a column is missing, a path leaves the root or occurs twice, a label is empty, or a
        split is unknown or missing on some lines only; the message names the line.
    """
    path = _list_file(root, name)
    rows, found, notes = _table(path, root)
    if not rows:
        raise ValueError(f"{path}: lists no clip")
    locate, more = _base(root, path, [row.cells[found["path"]] for row in rows])
    empty = f"; {_EMPTY}" if path.suffix.lower() in _BOOKS else ""
    result: list[Listed] = []
    seen: dict[str, str] = {}
    for row in rows:
        cells = {key: row.cells[place] for key, place in found.items()}
        if not cells["label"]:
            raise ValueError(f"{row.where}: expected a label, got none: {_shown(row)}{empty}")
        if not cells["path"]:
            raise ValueError(f"{row.where}: expected a path, got none: {_shown(row)}{empty}")
        if cells["label"].casefold() in _NO_VALUE:
            raise ValueError(
                f"{row.where}: label {raw.shown(cells['label'])} is what programs write where "
                "there is none; fill it in, delete the line, or give a class of that meaning another name"
            )
        if cells.get("subject", "").casefold() in _NO_VALUE:
            cells["subject"] = ""
        split = split_of(cells.get("split", ""))
        if cells.get("split") and not split:
            raise ValueError(
                f"{row.where}: unknown split {raw.shown(cells['split'])}; use train, validation (or val) "
                "or test"
            )
        clip = locate(cells["path"], row.where)
        if clip in seen:
            raise ValueError(
                f"{row.where}: {clip} is already listed in {seen[clip]}; a clip is a file of its own: cut "
                "a recording of several expressions into as many files"
            )
        seen[clip] = row.where
        result.append(Listed(clip, cells["label"], split, row.where, cells.get("subject", "")))
    more += locate.notes(path)
    unsplit = [clip.where for clip in result if not clip.split]
    if unsplit and len(unsplit) < len(result):
        raise ValueError(
            f"{unsplit[0]}: no split, but other lines have one; give a split on all lines or on none"
        )
    if persons := {clip.subject for clip in result} - {""}:
        more.append(f"{len(persons)} persons, from the list")
    return Found(result, notes + more)


def _list_file(root: epath.Path, name: str) -> epath.Path:
    """Returns the file, which may lie in the root or, as any path, elsewhere.

    Raises:
      FileNotFoundError: there is none.
      ValueError: there are two, or it is a folder.
    """
    given = epath.Path(paths.expand(name))
    choices = list(dict.fromkeys(path for path in (root / given, given) if path.exists()))
    if len({os.path.realpath(path) for path in choices}) > 1:
        raise ValueError(
            f"csv={name}: there is {choices[0]} and {choices[1]}; give the whole path of the one you mean"
        )
    if not choices:
        places = f"no file {root / given}" + (
            "" if given.is_absolute() else f", and no file {given}"
        )
        raise FileNotFoundError(f"csv={name}: {places}")
    return choices[0]


def _table(path: epath.Path, root: epath.Path) -> tuple[list[Row], dict[str, int], list[str]]:
    """Returns the rows below the header, the place of each column, and notes."""
    if path.suffix.lower() in _BOOKS:
        return _columns(_sheet(path), root)
    with path.open("rb") as file:
        if what := kinds.described(file):
            raise ValueError(
                f"{path}: expected a list as .csv or .xlsx, got {what}. A spreadsheet program can save a "
                "table as .csv, and so can pandas (to_csv)"
            )
    text = tables.read_text(path)
    notes = []
    if not text.encoding.startswith("utf"):
        letters = re.findall(r"\w*[^\x00-\x7f]\w*", text.text)
        notes = [
            f"{path.name}: read as {text.encoding}, such as {raw.shown(letters[0])}; if that is wrong, "
            "save the list as UTF-8"
        ]
    body = re.sub(r"\A\ufeff?sep=.\n", "\n", text.text, flags=re.IGNORECASE)
    candidates = tables.separators(text.text, COLUMNS, ("path", "label"))
    if len(candidates) > 1:  # without a header: the one with which the clips are found
        firsts = {
            sep: [row.cells[0] for row in tables.rows(body, path, sep)][:_TRIED]
            for sep in candidates
        }
        candidates.sort(key=lambda sep: -sum(_exists(root, cell) for cell in firsts[sep]))
    rows, found, more = _columns(tables.rows(body, path, candidates[0]), root)
    return rows, found, notes + more


def _sheet(path: epath.Path) -> list[Row]:
    """Returns the rows of the one sheet of a workbook that is not empty, or that has the columns.

    Raises:
      ValueError: there are several, or a cell is a date.
    """
    tables_ = [
        [
            Row(where, int(where.rpartition(":")[2]), tuple(_text(cell, where) for cell in cells))
            for where, cells in sheet
        ]
        for sheet in raw.read_tables(path)
    ]
    filled = [place for place, rows in enumerate(tables_) if rows]
    known = [place for place in filled if _has_header(tables_[place][0])]
    if len(filled) > 1 and len(known) != 1:
        names = raw.sheet_names(path)
        raise ValueError(
            f"{path}: several sheets have cells: {raw.listed([names[place] for place in filled])}; "
            "leave one, or save it as .csv"
        )
    rows = tables_[(known if len(filled) > 1 else filled)[0]] if filled else []
    width = max((len(row.cells) for row in rows), default=0)
    return [
        dataclasses.replace(row, cells=row.cells + ("",) * (width - len(row.cells))) for row in rows
    ]


def _text(cell: object, where: str) -> str:
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        raise ValueError(
            f"{where}: {cell} is a date, into which spreadsheet programs turn what looks like one; format "
            "the column as text and enter the names again, or delete it if it is not needed"
        )
    return "" if cell is None else str(cell).strip()


def _has_header(row: Row) -> bool:
    try:
        return {"path", "label"} <= tables.places(row.cells, COLUMNS).keys()
    except ValueError:
        return False


def _columns(rows: Sequence[Row], root: epath.Path) -> tuple[list[Row], dict[str, int], list[str]]:
    """Returns the rows below the header, if there is one, the place of each column, and notes.

    Raises:
      ValueError: a column is missing, or a row has too few or too many cells.
    """
    if not rows:
        return [], {}, []
    first = rows[0]
    try:
        found = tables.places(first.cells, COLUMNS)
    except ValueError as error:
        raise ValueError(f"{first.where}: {error}") from None
    if {"path", "label"} <= found.keys():
        _check_widths(rows, found)
        unused = [head for i, head in enumerate(first.cells) if head and i not in found.values()]
        notes = [f"columns that are not used: {raw.listed(unused)}"] if unused else []
        if times := [head for head in unused if _TIMES.search(head)]:
            notes.append(
                f"WARNING: clips are stored whole, whatever {raw.listed(times)} say; cut the videos "
                "before, such as by ffmpeg"
            )
        return list(rows[1:]), found, notes
    is_clip = _exists(root, first.cells[0]) or first.cells[0].lower().endswith(VIDEO_SUFFIXES)
    if found and not is_clip and len(rows) > 1:
        missing = "paths" if "path" not in found else "labels"
        key = missing.removesuffix("s")
        raise ValueError(
            f"{first.where}: looks like a header, but no column of {missing} is known: "
            f"{_shown(first)}. Call it {key}, or one of {', '.join(COLUMNS[key].others[:8])}"
        )
    if header := next(filter(_has_header, rows[1:_ABOVE]), None):
        raise ValueError(
            f"{first.where}: expected a header, which is {header.where}: {_shown(header)}; delete "
            "the lines above it"
        )
    _check_order(rows[:_TRIED], root)
    for row in rows:
        if not 2 <= len(row.cells) <= len(_ORDER) or not all(row.cells[:2]):
            raise ValueError(f"{row.where}: expected {_EXPECTED}, got {_shown(row)}")
    if not is_clip and any(_exists(root, row.cells[0]) for row in rows[1 : _TRIED + 1]):
        raise ValueError(
            f"{first.where}: there is no clip {raw.shown(first.cells[0])}. Is this line a header? "
            "Then name its columns path and label, and split and subject if there are any"
        )
    width = max(len(row.cells) for row in rows)
    padded = [
        dataclasses.replace(row, cells=row.cells + ("",) * (width - len(row.cells))) for row in rows
    ]
    return padded, dict(zip(_ORDER[:width], range(width), strict=True)), []


def _check_order(rows: Sequence[Row], root: epath.Path) -> None:
    """Raises ValueError where clips are not in the first column, but in another one."""
    if any(re.search(r"[/\\]", row.cells[0]) for row in rows):  # of a path that leads elsewhere
        return
    clips = [
        {row.cells[place] for row in rows if _exists(root, row.cells[place])}
        for place in range(min(len(row.cells) for row in rows))
    ]
    most = max(clips, key=len)
    if len(most) > max(len(rows) / 2, len(clips[0])):
        raise ValueError(
            f"{rows[0].where}: the paths are in column {clips.index(most) + 1}: {_shown(rows[0])}; "
            f"expected {_EXPECTED}, or a first line that names the columns"
        )


def _check_widths(rows: Sequence[Row], found: Mapping[str, int]) -> None:
    """Raises ValueError for a row with cells beyond the header, or without a path or a label."""
    width = len(rows[0].cells)
    for row in rows[1:]:
        if any(row.cells[width:]) or len(row.cells) <= max(found.values()):
            raise ValueError(
                f"{row.where}: {len(row.cells)} cells, but the header has {width}: {_shown(row)}; quote "
                "cells that hold the separator"
            )


def _base(root: epath.Path, path: epath.Path, cells: Sequence[str]) -> tuple["_Locator", list[str]]:
    """Returns what turns a path of the list into one relative to the root, and notes.

    Paths start at the root; at the folder of the list, or at the folder above the root, if more of
    them are found there.
    """
    tried = [cell for cell in cells[:_TRIED] if cell and not _is_absolute(cell)]
    base, most = root, sum(_exists(root, cell) for cell in tried)
    for other in (path.parent, root.parent):
        if most < len(tried) and (count := sum(_exists(other, cell) for cell in tried)) > most:
            base, most = other, count
    notes = [] if base == root else [f"the paths in {path.name} start at the folder {base.name}"]
    return _Locator(root, base), notes


@dataclasses.dataclass
class _Locator:
    """Turns paths of a list into those of clips, relative to the root.

    The suffix of a video may be missing. Where nothing has exactly the name, upper and lower case and the
    two ways to write accents are taken for the same, as macOS and Windows do.

    Attributes:
      root: the folder that holds the clips.
      base: the folder at which relative paths start.
    """

    root: epath.Path
    base: epath.Path
    _names: dict[epath.Path, dict[str, list[str]]] = dataclasses.field(default_factory=dict)
    _respelled: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __call__(self, cell: str, where: str) -> str:
        """Returns the path of a clip; that of the list if there is no clip.

        Raises:
          ValueError: it is no path inside of the root, or may be one of several.
        """
        try:
            text = paths.expand(cell).replace("\\", "/")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if self.base != self.root or epath.Path(text).is_absolute() or ".." in text.split("/"):
            text = _inside(self.root, self.base / text, cell, where)
        relative = raw.relative_path(text, where)
        if (self.root / relative).exists():
            return relative
        found = ""
        for part in relative.split("/"):
            here = self.root / found
            if not (here / part).exists():
                same = self._same(here, part)
                if len(same) > 1:
                    raise ValueError(
                        f"{where}: {raw.shown(cell)} may be {' or '.join(same)}; write the whole name"
                    )
                if not same:
                    return relative
                part = same[0]
            found = posixpath.join(found, part)
        if found != relative and not found.startswith(f"{relative}."):
            self._respelled.append((relative, found))
        return found

    def notes(self, path: epath.Path) -> list[str]:
        """Returns a note about names that are spelled in another way."""
        if not self._respelled:
            return []
        listed, found = self._respelled[0]
        return [
            f"{path.name}: {len(self._respelled)} paths are spelled in another way than on the disk, "
            f"such as {raw.shown(listed)}, which is {raw.shown(found)}"
        ]

    def _same(self, folder: epath.Path, name: str) -> list[str]:
        """Returns the entries of a folder of a name in any spelling; videos also without their suffix."""
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            for entry in folders.visible(folder) if folder.is_dir() else ():
                names.setdefault(spelling(entry.name), []).append(entry.name)
                if entry.suffix.lower() in VIDEO_SUFFIXES:
                    names.setdefault(spelling(entry.stem), []).append(entry.name)
            self._names[folder] = names
        return self._names[folder].get(spelling(name), [])


def _inside(root: epath.Path, clip: epath.Path, cell: str, where: str) -> str:
    """Returns a path relative to the root.

    Raises:
      ValueError: it is not inside of the root.
    """
    for start, target in (
        (os.path.abspath(root), os.path.abspath(clip)),  # noqa: PTH100 - links stay
        (os.path.realpath(root), os.path.realpath(clip)),
    ):
        if target.startswith(start + os.sep):
            return os.path.relpath(target, start)
    raise ValueError(
        f"{where}: path {raw.shown(cell)} must be relative and stay inside its folder, or lead into {root}"
    )


def _is_absolute(cell: str) -> bool:
    try:
        return epath.Path(paths.expand(cell)).is_absolute()
    except ValueError:  # an address, which is refused in its turn
        return True


def _exists(base: epath.Path, cell: str) -> bool:
    try:
        return bool(cell) and (base / paths.expand(cell).replace("\\", "/")).exists()
    except (OSError, ValueError):  # a name that is too long, or no name at all
        return False


def _shown(row: Row) -> str:
    return raw.shown(",".join(row.cells))
