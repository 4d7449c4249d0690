"""Given labels from a CSV file, in place of the stored ones.

Enters: a file with the columns clip_id and label, the name of a class; others are not read. Leaves: the
label of every clip of a split. `python -m rdfer_jax.labels.inject` writes such files.
"""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from rdfer_jax import hints

log = logging.getLogger(__name__)

COLUMNS = ("clip_id", "label")
#: Characters of a value that a message shows.
_SHOWN = 200
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
      ValueError: a class is unknown, or as in `read_names`.
    """
    index = {name: i for i, name in enumerate(classes)}
    given = read_names(path)
    for label, where in given.values():
        if label not in index:
            raise ValueError(
                f"{where}: unknown class {_shown(label)}. {hints.suggest(label, classes)}"
            )
    return {clip_id: index[label] for clip_id, (label, _) in given.items()}


def read_names(path: epath.PathLike, setting: str = _SETTING) -> dict[str, Given]:
    """Returns what the file gives to each clip that it names.

    Args:
      path: of the CSV file; may be gs://.
      setting: that names the file, for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no CSV file in UTF-8, a column is missing or there twice, or a clip has no name
        or is named twice.
    """
    path = epath.Path(path)
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(
            f"{setting} = {str(path)!r}: there is no such file. Correct the path, write the file "
            f"with --mode=audit or python -m rdfer_jax.labels.inject, or leave {setting} empty"
        )
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    found: dict[str, Given] = {}
    try:
        _check_columns(rows.fieldnames or (), path)
        for row in rows:
            clip_id, label = (row[column] or "" for column in COLUMNS)
            where = f"{path}, line {rows.line_num}, clip {_shown(clip_id)}"
            if not clip_id:
                raise ValueError(
                    f"{where}: no clip is named. Fill in its clip_id, or drop the line"
                )
            if "\n" in clip_id or "\r" in clip_id:
                raise ValueError(f"{where}: a line ends inside of the name. Close its quotes")
            if clip_id in found:
                raise ValueError(f"{where}: this clip has been named before. Keep one of its lines")
            found[clip_id] = Given(label, where)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {rows.line_num + 1}: {error}. Is it a CSV file, are its quotes closed?"
        ) from None
    return found


def _text(path: epath.Path) -> str:
    """The text of a file in UTF-8, with or without the byte order mark that Excel writes."""
    data = path.read_bytes()
    at, reason = data.find(b"\0"), "a NUL byte, as UTF-16 has"
    if at < 0:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            data, at, reason = error.object, error.start, error.reason  # without a mark
    line = data[:at].count(b"\n") + 1
    raise ValueError(f"{path}, line {line}: no text in UTF-8 ({reason}). Save it as CSV in UTF-8")


def _check_columns(names: Sequence[str], path: epath.Path) -> None:
    """Raises ValueError unless each of COLUMNS is there once."""
    for column in COLUMNS:
        if names.count(column) != 1:
            raise ValueError(
                f"{path}: {'two columns' if column in names else 'no column'} {column!r} in its first "
                f"line {_shown(','.join(names))}. The first line must be {','.join(COLUMNS)}, in any "
                "order; further columns are allowed"
            )


def _shown(text: str) -> str:
    """A value for a message, cut where it is long."""
    more = f"... ({len(text)} characters)" if len(text) > _SHOWN else ""
    return f"{text[:_SHOWN]!r}{more}"


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
            f"{', '.join(map(_shown, strangers[:3]))}{', ...' if len(strangers) > 3 else ''}. "
            f"Give {_SETTING} a file that was made for this config.data.name and "
            f"config.data.train_split. {hints.suggest(strangers[0], clips)}"
        )
    replaced_N = np.array([given.get(c, s) for c, s in zip(clips, labels_N.tolist(), strict=True)])
    named = sum(clip in given for clip in clips)
    log.info(
        "%s: %d labels of %s replaced, %d of them by another class; %d kept",
        path, named, split, (replaced_N != labels_N).sum(), len(clips) - named,
    )  # fmt: skip
    return replaced_N
