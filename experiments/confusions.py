"""Counts the confusions of real people, from the published files, for data/synthetic_faces/confusions.py.

    python -m experiments.confusions --fer2013=fer2013.csv.gz --ferplus=fer2013new.csv
    python -m experiments.confusions --crema_d=votes.csv

Prints a table of counts as a Python literal: rows are the class that counts as true, columns the class that
was given, both in DFEW's order. No file is written. The files:

- fer2013.csv, plain or with gzip: the columns emotion, pixels, Usage (Goodfellow et al. 2013).
- fer2013new.csv: FER+, ten votes for each row of fer2013.csv (Barsoum et al. 2016).
- the votes on CREMA-D of those who saw the face only: the columns intended and the six classes, with the
  number of votes for each clip (Cao et al. 2014).
"""

import csv
import gzip
import io
from collections.abc import Mapping, Sequence

import numpy as np
from absl import app
from etils import epath

from data.ferplus.pictures import ORIGINAL, VOTED
from data.schema import DFEW_CLASSES as CLASSES
from rdfer_jax import paths

_FER2013 = paths.DEFINE_path("fer2013", "", "fer2013.csv, plain or with gzip")
_FERPLUS = paths.DEFINE_path("ferplus", "", "fer2013new.csv of FER+")
_CREMA_D = paths.DEFINE_path("crema_d", "", "votes on CREMA-D by people who saw the face only")


def fer2013(labels: Sequence[str], votes: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Returns how often FER2013 gives a label (column) to a picture with a FER+ majority (row).

    The two are joined by row. Pictures without a name in FER+ (no face), and those whose most frequent
    vote is shared or not one of the seven classes, are left out.

    Args:
      labels: FER2013's code of each picture.
      votes: the row of FER+ of each picture.

    Returns:
      int [7, 7].

    Raises:
      ValueError: the files have different numbers of rows.
    """
    if len(labels) != len(votes):
        raise ValueError(
            f"expected as many rows in fer2013.csv as in fer2013new.csv, got {len(labels)} and {len(votes)}"
        )
    counts = np.zeros((len(CLASSES), len(CLASSES)), int)
    for code, row in zip(labels, votes, strict=True):
        voted = {column: int(row[column]) for column in VOTED}
        most = max(voted.values())
        winners = [column for column, count in voted.items() if count == most]
        majority = VOTED[winners[0]]
        if row["Image name"].strip() and len(winners) == 1 and majority in CLASSES:
            given = ORIGINAL[int(code)]
            counts[CLASSES.index(majority), CLASSES.index(given)] += 1
    return counts


def crema_d(votes: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Returns the votes for each class (column) on clips by the actor's intention (row), int [7, 7].

    CREMA-D has no surprise: that row and column are 0.
    """
    counts = np.zeros((len(CLASSES), len(CLASSES)), int)
    for row in votes:
        for column, name in enumerate(CLASSES):
            counts[CLASSES.index(row["intended"]), column] += int(row.get(name) or 0)
    return counts


def _rows(path: str) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, without the pixels, which are long."""
    content = epath.Path(path).read_bytes()
    text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    reader = csv.DictReader(io.StringIO(text.decode("utf-8-sig")))
    return [{key: value for key, value in row.items() if key != "pixels"} for row in reader]


def literal(counts: np.ndarray) -> str:
    """Returns the table as rows of a Python list, each with its class and its sum."""
    rows = [
        f"    [{', '.join(f'{count:5d}' for count in row)}],  # {name}, {row.sum()}"
        for name, row in zip(CLASSES, counts, strict=True)
    ]
    return "\n".join(["[", f"    # {', '.join(CLASSES)}", *rows, "]"])


def main(argv: Sequence[str]) -> None:
    """Prints the tables of the given files."""
    del argv
    if bool(_FER2013.value) != bool(_FERPLUS.value):
        raise app.UsageError("--fer2013 and --ferplus belong together: give both")
    if _FER2013.value:
        labels = [row["emotion"] for row in _rows(_FER2013.value)]
        print("fer2013 =", literal(fer2013(labels, _rows(_FERPLUS.value))))
    if _CREMA_D.value:
        print("crema_d =", literal(crema_d(_rows(_CREMA_D.value))))


if __name__ == "__main__":
    app.run(main)
