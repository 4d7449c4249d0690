"""Given labels from a CSV file, in place of the stored ones.

Enters: a file with the columns clip_id and label, the name of a class; others are not read. Leaves: the
label of every clip of a split. `python -m rdfer_jax.flips` writes such files.
"""

import csv
import difflib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

log = logging.getLogger(__name__)

COLUMNS = ("clip_id", "label")
_SETTING = "config.data.labels"


class Given(NamedTuple):
    """What a file gives to a clip.

    Attributes:
      label: name of the class.
      where: file and line, for messages.
    """

    label: str
    where: str


def read(path: epath.PathLike, classes: Sequence[str]) -> dict[str, int]:
    """Returns the class of each clip that the file names, as its index.

    Args:
      path: of the CSV file; may be gs://.
      classes: names of the N classes, by index.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a column is missing, a class is unknown, or a clip is named twice.
    """
    index = {name: i for i, name in enumerate(classes)}
    given = read_names(path)
    for label, where in given.values():
        if label not in index:
            raise ValueError(f"{where}: unknown class {label!r}. {_hint(label, classes)}")
    return {clip_id: index[label] for clip_id, (label, _) in given.items()}


def read_names(path: epath.PathLike, setting: str = _SETTING) -> dict[str, Given]:
    """Returns what the file gives to each clip that it names.

    Args:
      path: of the CSV file; may be gs://.
      setting: that names the file, for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a column is missing, or a clip is named twice.
    """
    path = epath.Path(path)
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(
            f"{setting} = {str(path)!r}: there is no such file. Correct the path, write the file "
            f"with --mode=audit or python -m rdfer_jax.flips, or leave {setting} empty"
        )
    text = path.read_bytes().decode("utf-8-sig", "replace")  # Excel writes a byte order mark
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for column in COLUMNS:
        if column not in (rows.fieldnames or ()):
            raise ValueError(
                f"{path}: no column {column!r} in its first line "
                f"{','.join(rows.fieldnames or ())!r}. The first line must be "
                f"{','.join(COLUMNS)}, in any order; further columns are allowed"
            )
    found: dict[str, Given] = {}
    for row in rows:
        clip_id, label = (row[column] or "" for column in COLUMNS)
        where = f"{path}, line {rows.line_num}, clip {clip_id!r}"
        if clip_id in found:
            raise ValueError(f"{where}: this clip has been named before. Keep one of its lines")
        found[clip_id] = Given(label, where)
    return found


def replace(
    given: Mapping[str, int],
    clip_ids_N: np.ndarray,
    labels_N: np.ndarray,
    path: epath.PathLike,
    split: str,
) -> np.ndarray:
    """Returns the labels of a split: the given ones, and the stored ones of clips that have none.

    Args:
      given: labels by clip, as `read` returns them.
      clip_ids_N: str [N], the clips of the split.
      labels_N: int [N], their stored labels.
      path: what messages call the file.
      split: what messages call the split.

    Returns:
      int [N].

    Raises:
      ValueError: a label is given to a clip that the split does not have.
    """
    clips = clip_ids_N.tolist()
    if strangers := sorted(given.keys() - set(clips)):
        raise ValueError(
            f"{path}: {len(strangers)} of the {len(given)} clips that it names are not in {split}: "
            f"{', '.join(map(repr, strangers[:3]))}{', ...' if len(strangers) > 3 else ''}. "
            f"{_hint(strangers[0], clips)} Give {_SETTING} a file that was made for "
            "this config.data.name and config.data.train_split"
        )
    replaced_N = np.array([given.get(c, s) for c, s in zip(clips, labels_N.tolist(), strict=True)])
    named = sum(clip in given for clip in clips)
    log.info(
        "%s: %d labels of %s replaced, %d of them by another class; %d kept",
        path, named, split, (replaced_N != labels_N).sum(), len(clips) - named,
    )  # fmt: skip
    return replaced_N


def _hint(wrong: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"There are {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}."
