"""Built data sets: finding them, opening their splits, replacing labels, folds and validation parts.

Records are described in data/schema.py. Neither the builder's code nor TensorFlow is needed to read them.
"""

import dataclasses
import functools
import hashlib
import json
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
from rdfer_jax.pipeline import frame_cache, label_files
from rdfer_jax.pipeline import groups as grouping
from rdfer_jax.pipeline.records import StoredSplit

log = logging.getLogger(__name__)

#: Seed of the validation part. Not config.seed, so that runs with different seeds are comparable.
VALIDATION_SEED = 20250222
#: Seed of the folds of a cross-validation, for the same reason.
FOLD_SEED = 20250223

#: Additional keys of a record of a data set with known truth; see data/schema.py.
TRUTH_KEYS = ("true_label", "is_flipped", "is_hard", "key_start", "key_end")

#: Threads that read small fields of many records, which is mostly waiting for files.
_READERS = 16


class DatasetNotFoundError(FileNotFoundError):
    """There is no finished data set in the configured folder."""


def find(data: Data) -> epath.Path:
    """Returns the directory of the newest finished version of the configured data set.

    Raises:
      DatasetNotFoundError: the data set has not been built.
    """
    root = epath.Path(data.dir) / data.name / data.variant
    folders = list(root.iterdir()) if root.is_dir() else []
    versions = {_version(p): p for p in folders if (p / "dataset_info.json").exists()}
    versions.pop((), None)
    if not versions:
        raise DatasetNotFoundError(
            f"no finished data set in {root}. Build it with rdfer build --config=<the same config> (see "
            "data/README.md), or set config.data.dir, config.data.name and config.data.variant to one"
        )
    return versions[max(versions)]


def _version(path: epath.Path) -> tuple[int, ...]:
    """Returns the version in a folder's name, or () if the name is not a version."""
    parts = path.name.split(".")
    return tuple(int(part) for part in parts) if all(p.isdigit() for p in parts) else ()


@dataclasses.dataclass(frozen=True, eq=False)
class Split(Sequence[Mapping[str, Any]]):
    """The records of one or several splits, by position. Use `open_split` to create it.

    Attributes:
      directory: directory of the data set.
      name: the splits, joined by +.
      title: name of the split in results: `name`, and which part of it this is.
      classes: names of the N classes, by index.
      has_truth: whether the records have all of TRUTH_KEYS.
      all_names: names of all splits of the data set.
      stored: the stored splits.
      records: the records of each stored split, which may be cached.
      positions: int [n], positions of this split's records in the joined splits.
      labels: int [n], labels that replace the stored ones, or None.
    """

    directory: epath.Path
    name: str
    title: str
    classes: tuple[str, ...]
    has_truth: bool
    all_names: tuple[str, ...]
    stored: tuple[StoredSplit, ...]
    records: tuple[Sequence[dict[str, Any]], ...]
    positions: np.ndarray
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self):
            raise ValueError(f"split {self.name!r} of {self.directory} is empty")

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: SupportsIndex) -> dict[str, Any]:  # type: ignore[override]
        part, place = self._locate(int(self.positions[item]))
        record = self.records[part][place]
        if self.labels is None:
            return record
        label, true_label = int(self.labels[item]), record.get("true_label", record["label"])
        truth = {"true_label": true_label, "is_flipped": label != true_label}
        return record | {"label": label} | truth

    @property
    def knows_flips(self) -> bool:
        """Whether the records have true_label and is_flipped.

        They do if the truth is stored, or if the labels are replaced; the stored labels count as true then.
        """
        return self.has_truth or self.labels is not None

    def check(self) -> "Split":
        """Reads one record of each file, to find missing and truncated files early; returns self.

        Raises:
          RecordError: a file cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            for stored in self.stored:
                list(pool.map(stored.read, stored.firsts()))
        return self

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """The number of each record's group, int [n]; None if no clips belong together."""
        if "group" not in self.stored[0].features:
            return None
        number = grouping.numbered(self.columns("group")["group"])
        return number if number.max() + 1 < len(self) else None

    @functools.cached_property
    def given_labels(self) -> np.ndarray:
        """The given label of each record, int [n]: that of config.data.labels, or else the stored one."""
        return self.columns("label")["label"] if self.labels is None else self.labels

    def select(self, positions: np.ndarray, title: str = "") -> "Split":
        """Returns the part with the given positions, int [n]; an empty title keeps the title.

        Raises:
          ValueError: the part is empty.
        """
        return dataclasses.replace(
            self,
            positions=self.positions[positions],
            labels=None if self.labels is None else self.labels[positions],
            title=title or self.title,
        )

    def with_labels(self, labels: np.ndarray) -> "Split":
        """Returns this split with other given labels, int [n].

        Its records have true_label (as stored, or else the stored label) and is_flipped.
        """
        return dataclasses.replace(self, labels=labels)

    def with_cache(self, data: Data) -> "Split":
        """Returns this split with cached frames, if config.data.frame_cache is set.

        Decodes the frames that are not in the cache.

        Raises:
          OSError: the folder cannot be written to, or the disk is full.
          ValueError: a frame cannot be decoded.
        """
        if not data.frame_cache:
            return self
        version, variant, name = (
            path.name for path in (self.directory, *self.directory.parents[:2])
        )
        data_set = f"{name}-{variant}-{version}-{fingerprint(self.directory)}"
        records = tuple(frame_cache.cached(stored, data, data_set) for stored in self.stored)
        return dataclasses.replace(self, records=records)

    def others(self) -> "Split | None":
        """Returns all other splits of the data set as one, or None if there are none."""
        parts = {part.strip() for part in self.name.split("+")}
        names = [name for name in self.all_names if name not in parts]
        return open_split(self.directory, "+".join(names)) if names else None

    def columns(self, *keys: str) -> dict[str, np.ndarray]:
        """Reads some fields of every record, as stored; much faster than reading whole records.

        Args:
          *keys: such as clip_id, label, votes; see data/schema.py.

        Returns:
          By key, an array [n, ...]; texts as str.

        Raises:
          KeyError: the data set has no such field.
        """
        features = self.stored[0].features
        wanted = tfds.features.FeaturesDict({key: features[key] for key in keys})

        def read(position: int) -> dict[str, Any]:
            part, place = self._locate(position)
            return self.stored[part].read(place, wanted)

        with ThreadPoolExecutor(_READERS) as pool:
            rows = list(pool.map(read, self.positions.tolist()))
        columns = {key: np.array([row[key] for row in rows]) for key in keys}
        texts = {key for key, column in columns.items() if column.dtype.kind == "S"}
        return columns | {key: np.char.decode(columns[key], "utf-8") for key in texts}

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """The position of the first record of each stored split, int [splits + 1]."""
        return np.cumsum([0] + [len(stored) for stored in self.stored])

    def _locate(self, position: int) -> tuple[int, int]:
        """Returns the index of the stored split that holds a position, and the position there."""
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        return part, position - int(self._starts[part])


def open_split(directory: epath.Path, name: str) -> Split:
    """Opens splits of a data set.

    Args:
      directory: of a finished data set.
      name: the splits, joined by +.

    Raises:
      ValueError: there is no such split, or it is empty.
    """
    builder = tfds.builder_from_directory(directory)
    parts = [part.strip() for part in name.split("+")]
    for part in parts:
        if part not in builder.info.splits:
            hint = hints.suggest(part, sorted(builder.info.splits))
            raise ValueError(f"{directory} has no split {part!r}. {hint}")
    stored = tuple(StoredSplit(builder, part) for part in parts)
    return Split(
        directory=directory,
        name=name,
        title=name,
        classes=tuple(builder.info.features["label"].names),
        has_truth=TRUTH_KEYS[0] in builder.info.features,
        all_names=tuple(builder.info.splits),
        stored=stored,
        records=stored,
        positions=np.arange(sum(map(len, stored))),
    )


def faces(directory: epath.Path) -> dict[str, Any]:
    """Returns how the faces of a data set were cut, see faces.cut; empty if that is not known."""
    path = directory / "metadata.json"
    return json.loads(path.read_text()).get("faces", {}) if path.exists() else {}


def fingerprint(directory: epath.Path, labels: str = "") -> str:
    """Returns 16 hexadecimal digits that identify the training data.

    A hash of the data set's description, the names and sizes of its files, and the label file. The frames
    are not hashed, because that would take reading them all.
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
    """Opens the training split, with the labels of the file config.data.labels, if set.

    The labels also apply to the part held out for validation, which would have the same noise in reality.
    Labels for clips of other splits are ignored and counted in the log.

    Args:
      directory: of a finished data set.
      data: the settings.

    Raises:
      FileNotFoundError: there is no such label file.
      ValueError: there is no such split, or the label file does not fit it; see label_files.
    """
    split = open_split(directory, data.train_split)
    if not data.labels:
        return split
    given = label_files.read(data.labels, split.classes)
    stored = split.columns("clip_id", "label")
    if given.keys() - set(stored["clip_id"].tolist()):
        given = _without_others(given, split.others(), data.labels)
    where = f"split {split.name} of {directory}"
    return split.with_labels(
        label_files.replace(given, stored["clip_id"], stored["label"], data.labels, where)
    )


def _without_others(given: Mapping[str, int], others: Split | None, path: str) -> dict[str, int]:
    """Returns the labels of clips that are not in other splits, and logs how many are."""
    names = set(others.columns("clip_id")["clip_id"].tolist()) if others else set()
    remaining = {clip: label for clip, label in given.items() if clip not in names}
    if others and not remaining:
        raise ValueError(
            f"{path}: all {len(given)} clips are in split {others.name}, which is not used for training. "
            "Set config.data.labels to a file for this config.data.train_split"
        )
    if others and len(remaining) < len(given):
        log.info(
            "ignored %d of %d given labels: they are for split %s, which is not used for training",
            len(given) - len(remaining), len(given), others.name,
        )  # fmt: skip
    return remaining


def open_splits(directory: epath.Path, data: Data) -> tuple[Split, Split]:
    """Opens the training split and the test split.

    With config.data.fold, both are parts of the stored training split; see `assign_folds`.

    Raises:
      FileNotFoundError: there is no such label file.
      RecordError: a file of the data set is missing or truncated.
      ValueError: there is no such split, or the label file does not fit it.
    """
    train = training_split(directory, data).check()
    if not data.fold:
        return train, open_split(directory, data.test_split).check()
    fold, folds = config_lib.parse_fold(data.fold)
    is_test = assign_folds(train.columns("label")["label"], folds, train.groups) == fold
    if is_test.all() or not is_test.any():
        raise ValueError(
            f"config.data.fold = {data.fold!r}: split {train.name!r} of {directory} has only "
            f"{len(train)} clips"
        )
    title = f"part {fold} of {folds}"
    return (
        train.select(np.flatnonzero(~is_test), f"{train.name} without {title}"),
        train.select(np.flatnonzero(is_test), f"{train.name}, {title}"),
    )


def splits(directory: epath.Path) -> list[str]:
    """Returns the names of the splits of a data set."""
    return list(tfds.builder_from_directory(directory).info.splits)


def open_validation(directory: epath.Path, data: Data) -> Split:
    """Opens the split config.data.validation_split.

    Raises:
      RecordError: a file of the data set is missing or truncated.
      ValueError: there is no such split, or it is also trained or tested on.
    """
    used = "+".join([data.train_split] if data.fold else [data.train_split, data.test_split])
    parts = {part.strip() for part in used.split("+")}
    for part in data.validation_split.split("+"):
        if part.strip() in parts:
            raise ValueError(
                f"config.data.validation_split = {data.validation_split!r}: {part.strip()!r} is "
                "also trained or tested on; choose another split"
            )
    return open_split(directory, data.validation_split).check()


def stored_folds(directory: epath.Path) -> list[str]:
    """Returns the names of the splits fold1, fold2, ... of a data set that is stored in folds."""
    numbers = [int(m[1]) for name in splits(directory) if (m := re.fullmatch(r"fold(\d+)", name))]
    return [f"fold{number}" for number in sorted(numbers)]


def assign_folds(labels: np.ndarray, folds: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Assigns clips to equal folds, always in the same way, with each class spread over all folds.

    Args:
      labels: int [n], the stored labels.
      folds: k.
      groups: int [n], clips with the same number stay in one fold; None if none belong together.

    Returns:
      int [n], in [1, k].

    Raises:
      ValueError: there are fewer groups than folds.
    """
    if groups is not None:
        if (number := len(np.unique(groups))) < folds:
            raise ValueError(
                f"{folds} folds of {number} persons, whose clips have to stay together; use "
                f"{number} folds or fewer"
            )
        return 1 + grouping.assign(labels, _shuffled(groups, FOLD_SEED), np.ones(folds))
    fold_of_clip = np.empty(len(labels), int)
    fold_of_clip[_shuffled_by_class(labels, FOLD_SEED)] = np.arange(len(labels)) % folds + 1
    return fold_of_clip


def hold_out(split: Split, percent: float) -> tuple[Split, Split | None]:
    """Splits a training split into the part to train on and a validation part, always the same.

    The part has each class in its share of the stored labels, rounded up or down; or about, where clips
    belong together, which all stay in one part. So a file of other labels does not change which videos are
    held out.

    Args:
      split: the whole training split.
      percent: size of the validation part.

    Returns:
      The part to train on, and the validation part; None if percent is 0.

    Raises:
      ValueError: all clips belong together, so none can be held out.
    """
    if percent == 0:
        return split, None
    labels = split.columns("label")["label"]
    if split.groups is not None:
        is_held = _held_groups(labels, split.groups, percent / 100)
    else:
        count = max(1, round(len(split) * percent / 100))
        by_class = _shuffled_by_class(labels, VALIDATION_SEED)
        # In equal steps, so that every class loses its share.
        steps = ((np.arange(count) + 0.5) * len(split) / count).astype(int)
        is_held = np.zeros(len(split), bool)
        is_held[by_class[steps]] = True
    return split.select(np.flatnonzero(~is_held)), split.select(np.flatnonzero(is_held))


def _held_groups(labels: np.ndarray, groups: np.ndarray, share: float) -> np.ndarray:
    """Returns which clips to hold out, bool [n]: about a share, at least one group, and never all."""
    numbers, sizes = np.unique(groups, return_counts=True)
    if len(numbers) < 2:
        raise ValueError(
            "config.data.validation_percent: all training clips are of one person, so none can be "
            "held out; set it to 0"
        )
    shuffled = _shuffled(groups, VALIDATION_SEED)
    is_held = grouping.assign(labels, shuffled, np.array([share, 1 - share])) == 0
    if not is_held.any() or is_held.all():
        is_held = groups == numbers[sizes.argmin()]
    return is_held


def _shuffled(groups: np.ndarray, seed: int) -> np.ndarray:
    """Returns other numbers for the groups, in a random order."""
    numbers, group = np.unique(groups, return_inverse=True)
    return np.random.default_rng(seed).permutation(len(numbers))[group]


def _shuffled_by_class(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns the positions of all clips, class by class, in a random order within each class."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    return shuffled[np.argsort(labels[shuffled], kind="stable")]
