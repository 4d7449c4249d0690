"""FER2013 with the votes of FER+ as splits train, validation and test, with known truth.

Reads the published files, see README.md in this folder. A picture is a video of one frame.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from rdfer_jax.faces.cut import DISTRIBUTOR
from rdfer_jax.media import images

from .. import counts, raw, relabel, schema
from . import pictures as pictures_lib
from .pictures import Picture

SPLITS = tuple(pictures_lib.SPLITS.values())

#: Rows of each split, and original labels: https://www.kaggle.com/c/challenges-in-representation-learning
ROWS = {"train": 28709, "validation": 3589, "test": 3589}
ORIGINAL_LABELS = dict(
    zip(schema.DFEW_CLASSES, (8989, 6077, 6198, 4953, 4002, 547, 5121), strict=True)
)


@dataclasses.dataclass(kw_only=True)
class Options(tfds.core.BuilderConfig):
    """Options of FER+.

    Attributes:
      source_dir: folder with fer2013.csv (or fer2013.csv.gz) and fer2013new.csv.
      label: the label of the training split; original: that of FER2013; voted: the majority of FER+. The
        labels of the other splits are those of the majority.
      jpeg_quality: quality of the stored pictures, 1 to 100.
      labels: clip_id -> class name, in place of the label above.
    """

    source_dir: str = ""
    label: Literal["original", "voted"] = "original"
    jpeg_quality: int = 98
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.label not in ("original", "voted"):
            raise ValueError(f"label={self.label!r}: use original or voted")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality={self.jpeg_quality}: use 1 to 100")

    def content(self) -> dict[str, Any]:
        """Returns the options that determine the records, as plain JSON values."""
        values = {"label": self.label, "jpeg_quality": self.jpeg_quality}
        return values | relabel.content(self.labels)


class Builder(tfds.core.ShardBasedBuilder):
    """Writes the pictures as records with known truth."""

    name = "ferplus"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(schema.DFEW_CLASSES, with_truth=True),
            metadata=tfds.core.MetadataDict(options=self.builder_config.content()),
        )

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        del dl_manager  # nothing is downloaded
        options = self.builder_config
        files = (*pictures_lib.PICTURES, *(f"fer2013/{name}" for name in pictures_lib.PICTURES))
        root = raw.source_root(options.source_dir, files, "FER2013 and FER+")
        pictures = pictures_lib.read(root)
        used = {s: [p for p in pictures if p.split == s and not p.left_out] for s in SPLITS}
        for split, members in used.items():
            if not members:
                raise ValueError(f"{root}: no picture is left in the {split} split")
        given = relabel.indices(
            options.labels,
            {picture.name for members in used.values() for picture in members},
            schema.DFEW_CLASSES,
        )
        self.info.metadata.update(**facts(pictures, options.label, given))
        return {
            split: [functools.partial(self._records, members, given)]
            for split, members in used.items()
        }

    def _records(
        self, pictures: Sequence[Picture], given: Mapping[str, int]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the records of a split, in the order of the rows."""
        options = self.builder_config
        for picture in tqdm.tqdm(pictures, "converting", unit="picture", disable=None, leave=False):
            label = given.get(picture.name, _label(picture, options.label))
            image = np.repeat(picture.gray[..., None], 3, axis=-1)
            yield (
                picture.name,
                {
                    "clip_id": picture.name,
                    "frames": [images.encode_jpeg(image, options.jpeg_quality)],
                    "label": label,
                    "votes": np.asarray(picture.votes, np.float32),
                    "true_label": picture.voted,
                    "is_flipped": label != picture.voted,
                    "is_hard": picture.is_hard,
                    "key_start": 0,
                    "key_end": 1,
                },
            )

    def summary(self) -> str:
        """Returns a table of the pictures by split and class of the majority, and notes."""
        metadata = self.info.metadata
        clips = {split: numbers["clips"] for split, numbers in metadata["splits"].items()}
        extra = {
            name: {split: numbers[name] for split, numbers in metadata["splits"].items()}
            for name in ("mislabeled", "hard", *pictures_lib.REASONS)
        }
        table = counts.table(schema.DFEW_CLASSES, clips, extra, {})
        title = f"{self.name}/{self.builder_config.name}: classes by the majority of the votes"
        return "\n".join([title, table, *metadata["notes"]])


def _label(picture: Picture, source: str) -> int:
    if picture.split == "train" and source == "original":
        return picture.original
    return picture.voted


def facts(pictures: Sequence[Picture], source: str, given: Mapping[str, int]) -> dict[str, Any]:
    """Returns the metadata: counts for each split, and notes that compare with the published counts.

    Args:
      pictures: all pictures.
      source: original or voted, the label of the training split.
      given: labels of some pictures, in place of that.
    """
    splits = {}
    for split in SPLITS:
        members = [picture for picture in pictures if picture.split == split]
        used = [picture for picture in members if not picture.left_out]
        labels = [given.get(p.name, _label(p, source)) for p in used]
        reasons = collections.Counter(picture.left_out for picture in members)
        splits[split] = {
            "clips": counts.per_class(schema.DFEW_CLASSES, [p.voted for p in used]),
            "mislabeled": sum(label != p.voted for label, p in zip(labels, used, strict=True)),
            "hard": sum(picture.is_hard for picture in used),
        } | {reason: reasons[reason] for reason in pictures_lib.REASONS}
    rows = collections.Counter(picture.split for picture in pictures)
    labels = counts.per_class(schema.DFEW_CLASSES, [p.original for p in pictures])
    originals = dict(zip(schema.DFEW_CLASSES, labels, strict=True))
    notes = [
        _compared("rows", rows, ROWS),
        _compared("original labels", originals, ORIGINAL_LABELS),
    ]
    if given:
        notes.append(f"labels: {len(given)} from config.build.labels")
    return {"splits": splits, "notes": notes, "faces": {"by": DISTRIBUTOR}}


def _compared(what: str, found: Mapping[str, int], published: Mapping[str, int]) -> str:
    different = [
        f"{name} {found.get(name, 0)} (published: {number})"
        for name, number in published.items()
        if found.get(name, 0) != number
    ]
    if not different:
        return f"{what}: as published, {sum(published.values())}"
    return f"{what} that differ from the published file: {', '.join(different)}"
