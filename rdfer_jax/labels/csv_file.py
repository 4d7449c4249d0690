"""Writes CSV files of labels and findings: UTF-8, one header line, local paths or object stores."""

import csv
import io
from collections.abc import Iterable, Sequence

from etils import epath


def write(path: epath.PathLike, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes rows of values.

    Args:
      path: the file; may be gs://. Its folder is created, an existing file is replaced.
      columns: names of the columns.
      rows: the values of each row, in the order of the columns.
    """
    write_text(path, text(columns, rows))


def text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns the contents of the file, with a line feed after every row; arguments as in `write`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def write_text(path: epath.PathLike, contents: str) -> None:
    """Writes a file in UTF-8; the path as in `write`."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents.encode())
