"""TFDS builder of the rendered faces; README.md describes them.

It writes its shards one by one, as `recorded.ClipBuilder` does: GeneratorBasedBuilder of TFDS would need
TensorFlow to sort a split of more than 1 GB, such as 4,000 clips at 112 pixels.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from .. import relabel, schema, workers
from . import clips
from . import labels as labels_lib
from .parameters import SPLITS, Parameters

#: Pixels in one shard, very roughly 100 MB as JPEG.
_PIXELS_PER_SHARD = 100_000_000


@dataclasses.dataclass(kw_only=True, eq=False)
class Options(Parameters, tfds.core.BuilderConfig):
    """The parameters of the rendered data set, as a TFDS configuration.

    Attributes:
      labels: clip_id -> class name, in place of the sampled label.

    Raises:
      ValueError: a value is out of range; the message names the field, the value and the range.
    """

    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def parameters(self) -> Parameters:
        """Returns the parameters alone, for worker processes without TFDS."""
        return Parameters(**self._parameters())

    def content(self) -> dict[str, Any]:
        """Returns the options that determine the records, as plain JSON values."""
        return self._parameters() | relabel.content(self.labels)

    def _parameters(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Parameters)}


class Builder(tfds.core.ShardBasedBuilder):
    """Renders the clips and writes them as records with known truth."""

    name = "synthetic_faces"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(self.builder_config.classes, with_truth=True),
            metadata=tfds.core.MetadataDict(options=self.builder_config.content()),
        )

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the data set; see tfds.core.DatasetBuilder."""
        total = self.builder_config.num_train + self.builder_config.num_test
        bar = tqdm.tqdm(desc="rendering", total=total, unit="clip", disable=None, leave=False)
        with workers.Pool() as self._pool, bar as self._bar:
            super().download_and_prepare(**kwargs)

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        del dl_manager  # nothing is downloaded
        parameters, given = self.builder_config.parameters(), self._given()
        return {
            split: [
                functools.partial(self._records, parameters, given, split, indices)
                for indices in shards(parameters, split)
            ]
            for split in SPLITS
        }

    def _given(self) -> dict[str, int]:
        """Returns the class indices of `labels` by clip."""
        labels, parameters = self.builder_config.labels, self.builder_config.parameters()
        names = {clips.clip_id(s, i) for s in SPLITS for i in range(parameters.num_clips(s))}
        return relabel.indices(labels, names, parameters.classes)

    def _records(
        self, parameters: Parameters, given: Mapping[str, int], split: str, indices: range
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the records of one shard."""
        render = functools.partial(clips.record, parameters, split)
        for example in self._pool.map(render, indices, total=len(indices)):
            self._bar.update()
            label = given.get(example["clip_id"], example["label"])
            is_flipped = label != example["true_label"]
            yield example["clip_id"], example | {"label": label, "is_flipped": is_flipped}

    def summary(self) -> str:
        """Returns a table: clips, and the shares of hard and flipped ones, per split and class."""
        return summary(self.builder_config.parameters(), self._given())


def shards(parameters: Parameters, split: str) -> list[range]:
    """Returns the indices of the clips in each shard of the split, in order."""
    pixels = parameters.num_frames * parameters.image_size**2
    step = max(1, _PIXELS_PER_SHARD // pixels)
    count = parameters.num_clips(split)
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


def summary(parameters: Parameters, given: Mapping[str, int]) -> str:
    """Returns a table: clips, and the shares of hard and flipped ones, per split and true class.

    Args:
      parameters: parameters of the data set.
      given: labels of some clips, in place of the sampled ones.
    """
    lines = []
    width = max(10, *(len(name) + 1 for name in parameters.classes))
    for split in SPLITS:
        count = parameters.num_clips(split)
        labels = [labels_lib.labels(parameters, split, i) for i in range(count)]
        true = np.array([label.true_label for label in labels])
        hard = np.array([label.is_hard for label in labels])
        current = [given.get(clips.clip_id(split, i), labels[i].label) for i in range(count)]
        flipped = np.array(current) != true
        lines.append(f"{split:<{width}}{'clips':>8}{'hard':>8}{'flipped':>9}")
        for index, name in enumerate(parameters.classes):
            lines.append(_row(name.ljust(width), true == index, hard, flipped))
        lines.append(_row("all".ljust(width), np.ones(count, bool), hard, flipped))
        lines.append("")
    return "\n".join(lines[:-1])


def _row(name: str, chosen: np.ndarray, hard: np.ndarray, flipped: np.ndarray) -> str:
    count = chosen.sum()
    shares = [(chosen & which).sum() / max(count, 1) for which in (hard, flipped)]
    return f"{name}{count:>8}{shares[0]:>8.1%}{shares[1]:>9.1%}"
