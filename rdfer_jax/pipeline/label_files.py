"""CSV files of labels that replace the stored ones.

A file has the columns clip_id and label (the name of a class); other columns are ignored. `rdfer audit`,
`rdfer relabel` and `rdfer inject` write such files.
"""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from rdfer_jax import hints, paths, tables

log = logging.getLogger(__name__)

COLUMNS = ("clip_id", "label")
_KNOWN = {name: tables.Column(name) for name in COLUMNS}
#: Longest value in a message, characters.
_SHOWN = 200
_SETTING = "config.data.labels"


class Given(NamedTuple):
    """The label that a file has for a clip.

    Attributes:
      label: name of the class.
      where: file, line and clip, for messages.
    """

    label: str
    where: str


def read(path: epath.PathLike, classes: Sequence[str], setting: str = _SETTING) -> dict[str, int]:
    """Returns the class index of each clip in a file.

    Args:
      path: of the CSV file; may be on gs://.
      classes: names of the N classes, by index.
      setting: the setting that names the file, for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a class is unknown, or as in `read_names`.
    """
    index = {name: i for i, name in enumerate(classes)}
    given = read_names(path, setting)
    for label, where in given.values():
        if label not in index:
            raise ValueError(
                f"{where}: unknown class {_shown(label)}. {hints.suggest(label, classes)}"
            )
    return {clip_id: index[label] for clip_id, (label, _) in given.items()}


def read_names(path: epath.PathLike, setting: str = _SETTING) -> dict[str, Given]:
    """Returns the label of each clip in a file.

    Args:
      path: of the CSV file; may be on gs://.
      setting: the setting that names the file, for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not CSV, a column is missing or duplicated, or a clip has no id or occurs
        twice.
    """
    path = epath.Path(paths.expand(path))
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(
            f"{setting} = {str(path)!r}: no such file. Correct the path, write the file with rdfer audit "
            f"or rdfer inject, or leave {setting} empty"
        )
    text = tables.read_text(path).text
    (separator, *_) = tables.separators(text, _KNOWN, COLUMNS)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    given: dict[str, Given] = {}
    try:
        _check_columns(rows.fieldnames or (), path)
        for row in rows:
            clip_id, label = (row[column] or "" for column in COLUMNS)
            where = f"{path}, line {rows.line_num}, clip {_shown(clip_id)}"
            if not clip_id:
                raise ValueError(f"{where}: clip_id is empty. Fill it in, or delete the line")
            if "\n" in clip_id or "\r" in clip_id:
                raise ValueError(f"{where}: clip_id contains a line break. Close its quotes")
            if clip_id in given:
                raise ValueError(f"{where}: duplicate clip_id. Keep one of its lines")
            given[clip_id] = Given(label, where)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {rows.line_num + 1}: {error}. Check that it is a CSV file with closed quotes"
        ) from None
    return given


def _check_columns(names: Sequence[str], path: epath.Path) -> None:
    """Raises a ValueError unless each of COLUMNS occurs once."""
    for column in COLUMNS:
        if names.count(column) != 1:
            raise ValueError(
                f"{path}: {'two columns' if column in names else 'no column'} {column!r} in the first "
                f"line. Expected {','.join(COLUMNS)}, in any order and with any other columns, got "
                f"{_shown(','.join(names))}"
            )


def _shown(text: str) -> str:
    """Returns a value for a message, shortened if it is long."""
    more = f"... ({len(text)} characters)" if len(text) > _SHOWN else ""
    return f"{text[:_SHOWN]!r}{more}"


def replace(
    given: Mapping[str, int],
    clip_ids_N: np.ndarray,
    labels_N: np.ndarray,
    path: epath.PathLike,
    split: str,
) -> np.ndarray:
    """Returns the labels of a split: the given label of each clip, or else its stored label.

    Args:
      given: labels by clip, as `read` returns them.
      clip_ids_N: str [N], the clips of the split.
      labels_N: int [N], their stored labels.
      path: name of the file, for messages.
      split: name of the split, for messages.

    Returns:
      int [N].

    Raises:
      ValueError: a label is given for a clip that is not in the split.
    """
    clips = clip_ids_N.tolist()
    if unknown := sorted(given.keys() - set(clips)):
        raise ValueError(
            f"{path}: {len(unknown)} of {len(given)} clips are not in {split}: "
            f"{', '.join(map(_shown, unknown[:3]))}{', ...' if len(unknown) > 3 else ''}. "
            f"Set {_SETTING} to a file for this config.data.name and config.data.train_split. "
            f"{hints.suggest(unknown[0], clips)}"
        )
    replaced_N = np.array([given.get(c, s) for c, s in zip(clips, labels_N.tolist(), strict=True)])
    named = sum(clip in given for clip in clips)
    log.info(
        "%s: replaced %d labels of %s, %d of them by another class; kept %d",
        path, named, split, (replaced_N != labels_N).sum(), len(clips) - named,
    )  # fmt: skip
    return replaced_N
