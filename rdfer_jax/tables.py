"""Text files and tables of any program: their encoding, their separator, their columns.

Enters: a file as a spreadsheet program, an editor or another script has written it. Leaves: lines, or
rows of cells. What is not certain is refused, and each error names the file and the line.
"""

import codecs
import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence

from etils import epath

#: Separators of the columns, in order of preference.
SEPARATORS = (",", ";", "\t", "|")
#: Characters of the longest line.
MAX_LINE = 65_536

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: Share of common characters (first level of GB 2312) above which a text counts as Chinese.
_CHINESE = 0.5
#: What Western text does not have, and text of other code pages has when it is read as Western: letters and
#: signs of other languages, and œ and ç where French has none.
_NOT_WESTERN = re.compile(
    r"[^\x00-\x7f\xa0àáâãäåæçèéêëìíîïñòóôõöøùúûüÿßœÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ“”—…«»¡¿°ªº·€£§©®™"
    r"\u2018\u2019\u2013]|"
    r"œ[^cdinstu]|ç[^aou\W]"
)
#: A common character of the code page of Taiwan, which in that of China is a rare one.
_TAIWAN = re.compile(rb"[\xa4-\xc6][\x40-\x7e]")
#: Letters outside of ASCII that follow each other in Western languages at most, as in "Grüße".
_WESTERN_RUN = 3


@dataclasses.dataclass(frozen=True)
class Text:
    """A decoded file.

    Attributes:
      text: its characters, with line ends \\n.
      encoding: such as utf-8, utf-16, gb18030 or cp1252.
    """

    text: str
    encoding: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table that is not empty.

    Attributes:
      where: file and line, for messages.
      number: number of the row's first line, from 1.
      cells: without surrounding spaces.
    """

    where: str
    number: int
    cells: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column that is known by several names.

    Attributes:
      name: of the column.
      others: further names; a name that is farther ahead is preferred if a table has several.
    """

    name: str
    others: Sequence[str] = ()

    def place(self, heads: Sequence[str]) -> int | None:
        """Returns the position of the column in a header, or None.

        Raises:
          ValueError: the name occurs twice.
        """
        simple = [_simple(head) for head in heads]
        for name in (self.name, *self.others):
            found = [i for i, head in enumerate(simple) if head == _simple(name)]
            if len(found) > 1:
                raise ValueError(f"two columns {heads[found[0]]!r}; delete or rename one")
            if found:
                return found[0]
        return None


#: The column of the files of clips.
PATH = Column(
    "path",
    (
        *("filepath", "file", "files", "filename", "fname", "video", "videopath", "videofile"),
        *("videoname", "clip", "clippath", "clipfile", "clipname", "clipid", "videoid", "fileid"),
    ),
)


def places(heads: Sequence[str], columns: Mapping[str, Column]) -> dict[str, int]:
    """Returns the position of each known column in a header.

    Raises:
      ValueError: a name occurs twice.
    """
    found = {key: column.place(heads) for key, column in columns.items()}
    return {key: place for key, place in found.items() if place is not None}


def _simple(head: str) -> str:
    """Returns a heading without its case, and without what separates its words."""
    return re.sub(r"[\s_\-.]+", "", head.casefold())


def decode(data: bytes, name: object) -> Text:
    """Decodes a text file: UTF-8 or UTF-16, with or without a byte order mark, or else Chinese or
    Western text.

    Chinese is GB 18030, Western is Windows-1252, as spreadsheet programs write them. They are told apart by
    how common the characters would be.

    Args:
      data: the contents of the file.
      name: what errors call it.

    Raises:
      ValueError: it is in another encoding, has NUL bytes, or a line that is too long.
    """
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    encoding = _MARKS[mark] if mark else _utf16_without_mark(data) or "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        # The decoder counts from behind the mark.
        line, said = (
            error.object[: error.start].count(b"\n") + 1,
            encoding.removesuffix("-sig").upper(),
        )
        if mark or encoding != "utf-8":
            raise ValueError(
                f"{name}:{line}: byte {error.object[error.start]:#x} is not {said}, although the "
                f"file starts as {said}; save it as UTF-8"
            ) from None
        text, encoding = _other(data, f"{name}:{line}")
    lines = split_lines(text, name)
    for number, line_text in enumerate(lines, 1):
        if "\0" in line_text:
            raise ValueError(f"{name}:{number}: a NUL byte; save this file as text in UTF-8")
    return Text("\n".join(lines), encoding)


def split_lines(text: str, name: object) -> list[str]:
    """Returns the lines of a text with any line ends, without them.

    Unlike str.splitlines, it does not split at other characters, which occur inside captions.

    Raises:
      ValueError: a line has more than MAX_LINE characters.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            raise ValueError(
                f"{name}:{number}: a line of {len(line)} characters, {line[:20]!r}...; expected at most "
                f"{MAX_LINE}. Is it the right file?"
            )
    return lines


def _utf16_without_mark(data: bytes) -> str:
    """Returns the encoding if every second byte is zero almost everywhere, as in UTF-16; else ""."""
    head = data[:4096]
    if len(head) < 4:
        return ""
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = head[start::2], head[1 - start :: 2]
        if zeros.count(0) >= 0.6 * len(zeros) and others.count(0) <= 0.1 * len(others):
            return name
    return ""


def _other(data: bytes, where: str) -> tuple[str, str]:
    """Decodes what is not Unicode.

    Raises:
      ValueError: it is neither Chinese nor Western.
    """
    try:
        chinese = data.decode("gb18030")
        pairs = [c.encode("gb18030") for c in chinese if ord(c) > 127]
        common = sum(len(p) == 2 and 0xB0 <= p[0] <= 0xD7 and p[1] >= 0xA1 for p in pairs)
        if common >= _CHINESE * len(pairs) and not any(map(_TAIWAN.fullmatch, pairs)):
            return chinese, "gb18030"
    except UnicodeDecodeError:
        pass
    try:
        western = data.decode("cp1252")
    except UnicodeDecodeError:
        western = ""
    runs = re.findall(r"[^\x00-\x7f]+", western)
    if runs and max(map(len, runs)) <= _WESTERN_RUN and not _NOT_WESTERN.search(western):
        return western, "cp1252"
    raise ValueError(
        f"{where}: not UTF-8, and neither Western (Windows-1252) nor Chinese (GB 18030) text; save it as "
        "UTF-8, in Excel as 'CSV UTF-8'"
    )


def rows(text: str, name: object, separator: str) -> list[Row]:
    """Splits text into rows and cells; cells may be quoted, and quoted ones may hold line ends.

    Raises:
      ValueError: a quote is not closed.
    """
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    result: list[Row] = []
    first = 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                result.append(Row(f"{name}:{first}", first, tuple(cells)))
            first = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{name}:{first}: {error}; close the quotes, and double those inside of a cell"
        ) from None
    return result


def separators(text: str, columns: Mapping[str, Column], needed: Sequence[str]) -> list[str]:
    """Returns the separators that a table may have, the likeliest first.

    A line `sep=;`, as Excel reads it, decides, and so does a first line with the needed columns.
    Otherwise every separator counts that gives all lines the same number of columns, two or more.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and (match := re.fullmatch(r"sep=(.)", lines[0].strip("\ufeff \r"), re.IGNORECASE)):
        return [match[1]]
    found = []
    for separator in SEPARATORS:
        try:
            table = rows("\n".join(lines[:200]), "", separator)
        except ValueError:
            continue
        if table and not set(needed) - _known(table[0].cells, columns):
            return [separator]
        widths = {len(row.cells) for row in table}
        if len(widths) == 1 and max(widths) > 1:
            found.append(separator)
    return found or [","]


def _known(heads: Sequence[str], columns: Mapping[str, Column]) -> set[str]:
    try:
        return set(places(heads, columns))
    except ValueError:  # a name occurs twice, which is an error of its own
        return set(columns)


def read_text(path: epath.Path) -> Text:
    """Reads and decodes a text file; see decode.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, or as in decode.
    """
    if path.is_dir():
        raise ValueError(f"{path}: expected a text file, got a folder")
    return decode(path.read_bytes(), path)
