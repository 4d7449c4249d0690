"""Finds a built TFDS data set and gives random access to its records.

Enters: a directory that data/builder.py wrote. Leaves: records, as data/schema.py describes them. The
builder's code is not needed, nor TensorFlow.
"""

import copy
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import hints
from rdfer_jax.config import Data
from rdfer_jax.pipeline import frame_cache
from rdfer_jax.pipeline import label_files as labels_lib
from rdfer_jax.pipeline.records import StoredSplit

log = logging.getLogger(__name__)

#: Draws the validation part. Not config.seed: runs that differ in their seed stay comparable.
VALIDATION_SEED = 20250222
#: Draws the parts of a cross-validation, likewise.
FOLD_SEED = 20250223

#: What a record of a data set with known truth has in addition.
TRUTH_KEYS = ("true_label", "is_flipped", "is_hard", "key_start", "key_end")

#: Threads that read a column of a split: most of the time goes into waiting for the files.
_READERS = 16


class DatasetNotFoundError(FileNotFoundError):
    """There is no finished data set where the configuration says."""


def find(data: Data) -> epath.Path:
    """Returns the directory of the newest finished version of the configured data set.

    Raises:
      DatasetNotFoundError: it has not been built.
    """
    root = epath.Path(data.dir) / data.name / data.variant
    found = list(root.iterdir()) if root.is_dir() else []
    versions = {_version(p): p for p in found if (p / "dataset_info.json").exists()}
    versions.pop((), None)
    if not versions:
        raise DatasetNotFoundError(
            f"no finished data set in {root}. Build it: python -m rdfer_jax.main --mode=build "
            "--config=<the same config> (see data/README.md), or point config.data.dir, "
            "config.data.name and config.data.variant at one"
        )
    return versions[max(versions)]


def _version(path: epath.Path) -> tuple[int, ...]:
    """The version that a folder is named after, or () if it is none."""
    parts = path.name.split(".")
    return tuple(int(part) for part in parts) if all(p.isdigit() for p in parts) else ()


class Split(Sequence[Mapping[str, Any]]):
    """The records of one or several splits, by position.

    Attributes:
      directory: where the data set lies.
      name: the splits, joined by +.
      title: what results call it: the name, and which part it is.
      classes: names of the N classes, by index.
      has_truth: whether the records have all of TRUTH_KEYS.
      knows_flips: whether they have at least true_label and is_flipped, because the truth is stored
        or because other labels are given, beside which the stored ones count as true.
    """

    def __init__(self, directory: epath.Path, name: str):
        """Opens the splits.

        Args:
          directory: of a finished data set.
          name: splits, joined by +.

        Raises:
          ValueError: there is no such split, or it is empty.
        """
        builder = tfds.builder_from_directory(directory)
        self.directory, self.name, self.title = directory, name, name
        self.classes = tuple(builder.info.features["label"].names)
        self.has_truth = TRUTH_KEYS[0] in builder.info.features
        self.knows_flips = self.has_truth
        parts = [part.strip() for part in name.split("+")]
        for part in parts:
            if part not in builder.info.splits:
                hint = hints.suggest(part, sorted(builder.info.splits))
                raise ValueError(f"{directory} has no split {part!r}. {hint}")
        self._names = tuple(builder.info.splits)
        self._stored = [StoredSplit(builder, part) for part in parts]
        self._records: list[Sequence[dict[str, Any]]] = list(self._stored)
        self._starts = np.cumsum([0] + [len(stored) for stored in self._stored])
        self._positions = np.arange(self._starts[-1])
        self._labels: np.ndarray | None = None
        self._check_length()

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, item: SupportsIndex) -> dict[str, Any]:  # type: ignore[override]
        part, place = self._locate(int(self._positions[item]))
        record = self._records[part][place]
        if self._labels is None:
            return record
        label, true_label = int(self._labels[item]), record.get("true_label", record["label"])
        truth = {"true_label": true_label, "is_flipped": label != true_label}
        return record | {"label": label} | truth

    def check(self) -> "Split":
        """Reads a record of each file, so that a missing or cut one is found before any work; returns self.

        Raises:
          RecordError: a file cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            for stored in self._stored:
                list(pool.map(stored.read, stored.firsts()))
        return self

    def select(self, positions: np.ndarray, title: str = "") -> "Split":
        """Returns the part with the given positions, int [n]; its title stays, unless there is another.

        Raises:
          ValueError: it is empty.
        """
        part = copy.copy(self)
        part._positions = self._positions[positions]
        part._labels = None if self._labels is None else self._labels[positions]
        part.title = title or self.title
        part._check_length()
        return part

    def with_labels(self, labels: np.ndarray) -> "Split":
        """Returns this split with other given labels, int [n].

        Its records have true_label (as stored, or else the stored label) and is_flipped.
        """
        other = copy.copy(self)
        other._labels, other.knows_flips = labels, True
        return other

    def with_cache(self, data: Data) -> "Split":
        """Returns this split with frames that were decoded once, where config.data.frame_cache says so.

        Decodes them now, if they are not there.

        Raises:
          OSError: the folder cannot be written to, or has no room.
          ValueError: a frame cannot be decoded.
        """
        if not data.frame_cache:
            return self
        version, variant, name = (
            path.name for path in (self.directory, *self.directory.parents[:2])
        )
        data_set = f"{name}-{variant}-{version}-{fingerprint(self.directory)}"
        other = copy.copy(self)
        other._records = [frame_cache.cached(stored, data, data_set) for stored in self._stored]
        return other

    def others(self) -> "Split | None":
        """Returns the rest of the data set: its other splits together, or None where there are none."""
        parts = {part.strip() for part in self.name.split("+")}
        names = [name for name in self._names if name not in parts]
        return Split(self.directory, "+".join(names)) if names else None

    def stored(self, *keys: str) -> dict[str, np.ndarray]:
        """Reads some fields of every record, as they are stored.

        Of small fields this takes a small part of the time that whole records do.

        Args:
          keys: such as clip_id, label, votes; see data/schema.py.

        Returns:
          By key, an array [n, ...]; texts as str.

        Raises:
          KeyError: the data set has no such field.
        """
        known = self._stored[0].features
        wanted = tfds.features.FeaturesDict({key: known[key] for key in keys})

        def read(position: int) -> dict[str, Any]:
            part, place = self._locate(position)
            return self._stored[part].read(place, wanted)

        with ThreadPoolExecutor(_READERS) as pool:
            rows = list(pool.map(read, self._positions.tolist()))
        columns = {key: np.array([row[key] for row in rows]) for key in keys}
        texts = {key for key, column in columns.items() if column.dtype.kind == "S"}
        return columns | {key: np.char.decode(columns[key], "utf-8") for key in texts}

    def _check_length(self) -> None:
        if not len(self):
            raise ValueError(f"split {self.name!r} of {self.directory} is empty")

    def _locate(self, position: int) -> tuple[int, int]:
        """Returns which of the joined splits holds a position, and the place there."""
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        return part, position - int(self._starts[part])


def fingerprint(directory: epath.Path, labels: str = "") -> str:
    """Returns what tells this data, as it is trained on, from other data: 16 hexadecimal digits.

    Over the description of the data set, the names and sizes of its files, and the file of labels; not
    over the frames, which would all have to be read.
    """
    digest = hashlib.sha256()
    for name in ("dataset_info.json", "features.json"):
        digest.update((directory / name).read_bytes())
    for path in sorted(directory.glob("*.array_record-*")):
        digest.update(f"{path.name} {path.stat().length}\n".encode())
    if labels:
        digest.update(epath.Path(labels).read_bytes())
    return digest.hexdigest()[:16]


def training_split(directory: epath.Path, data: Data) -> Split:
    """Opens the training split, with the labels of config.data.labels if it names a file.

    The whole split gets them, also the part that is held out: real noise would be there, too. Clips of
    the file that are in other splits keep their labels, and are counted.

    Args:
      directory: of a finished data set.
      data: the settings.

    Raises:
      FileNotFoundError: there is no such file of labels.
      ValueError: there is no such split, or the file of labels does not fit it; see pipeline.labels.
    """
    split = Split(directory, data.train_split)
    if not data.labels:
        return split
    given = labels_lib.read(data.labels, split.classes)
    stored = split.stored("clip_id", "label")
    if given.keys() - set(stored["clip_id"].tolist()):
        given = _without(given, split.others(), data.labels)
    where = f"split {split.name} of {directory}"
    return split.with_labels(
        labels_lib.replace(given, stored["clip_id"], stored["label"], data.labels, where)
    )


def _without(given: Mapping[str, int], others: Split | None, path: str) -> dict[str, int]:
    """Labels of clips that are in no other split; says how many those were."""
    names = set(others.stored("clip_id")["clip_id"].tolist()) if others else set()
    left = {clip: label for clip, label in given.items() if clip not in names}
    if others and not left:
        raise ValueError(
            f"{path}: all of the {len(given)} clips that it names are in split {others.name}, which is "
            "not trained on. Give config.data.labels a file that was made for this config.data.train_split"
        )
    if others and len(left) < len(given):
        log.info(
            "%d of the %d given labels are for split %s, which is not trained on and keeps its own",
            len(given) - len(left), len(given), others.name,
        )  # fmt: skip
    return left


def open_splits(directory: epath.Path, data: Data) -> tuple[Split, Split]:
    """Opens what is trained on and what is tested on.

    With config.data.fold, both are parts of the training split: see `assign_folds`.

    Raises:
      FileNotFoundError: there is no such file of labels.
      RecordError: a file of the data set is missing or cut short.
      ValueError: there is no such split, or the file of labels does not fit it.
    """
    train = training_split(directory, data).check()
    if not data.fold:
        return train, Split(directory, data.test_split).check()
    part, parts = config_lib.parse_fold(data.fold)
    in_part = assign_folds(train.stored("label")["label"], parts) == part
    if in_part.all() or not in_part.any():
        raise ValueError(
            f"config.data.fold = {data.fold!r}: split {train.name!r} of {directory} has only "
            f"{len(train)} clips"
        )
    title = f"{train.name}, part {part} of {parts}"
    others = train.select(np.flatnonzero(~in_part), f"{train.name} without part {part} of {parts}")
    return others, train.select(np.flatnonzero(in_part), title)


def stored_folds(directory: epath.Path) -> list[str]:
    """Returns the splits fold1, fold2 ... of a data set that is stored in folds, in their order."""
    splits = tfds.builder_from_directory(directory).info.splits
    numbers = [int(m[1]) for name in splits if (m := re.fullmatch(r"fold(\d+)", name))]
    return [f"fold{number}" for number in sorted(numbers)]


def assign_folds(labels: np.ndarray, parts: int) -> np.ndarray:
    """Deals clips out to equal parts, the same ones every time; each class is spread over all parts.

    Nothing is known of the people: when one person is in several clips, they can get into different parts.

    Args:
      labels: int [n], the stored labels.
      parts: k.

    Returns:
      int [n], in [1, k].
    """
    shuffled = np.random.default_rng(FOLD_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    found = np.empty(len(labels), int)
    found[by_class] = np.arange(len(labels)) % parts + 1
    return found


def hold_out(split: Split, percent: float) -> tuple[Split, Split | None]:
    """Cuts a validation part out of a training split, the same one every time.

    Args:
      split: the whole training split.
      percent: share to hold out.

    Returns:
      The rest, and the validation part, or None if percent is 0.
    """
    if percent == 0:
        return split, None
    count = max(1, round(len(split) * percent / 100))
    order = np.random.default_rng(VALIDATION_SEED).permutation(len(split))
    return split.select(np.sort(order[count:])), split.select(np.sort(order[:count]))
