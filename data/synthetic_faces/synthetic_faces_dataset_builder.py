"""TFDS builder of the drawn faces; what is drawn is described in README.md.

Like those of the recorded videos, it writes its shards one by one: TFDS' GeneratorBasedBuilder
would need TensorFlow to sort a split of more than 1 GB, which 4,000 clips at 112 pixels are.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from data import schema, workers
from data.synthetic_faces import clips
from data.synthetic_faces import labels as labels_lib
from data.synthetic_faces.parameters import CLASSES, SPLITS, Parameters

#: Pixels in one shard, very roughly 100 MB as JPEG.
_PIXELS_PER_SHARD = 100_000_000


@dataclasses.dataclass(kw_only=True, eq=False)
class Options(Parameters, tfds.core.BuilderConfig):
    """The parameters of the drawn data set, as TFDS takes them.

    Raises:
      ValueError: a value is out of its range; names the field, the value and the range.
    """

    def parameters(self) -> Parameters:
        """Returns the parameters alone, for worker processes that need no TFDS."""
        return Parameters(**self.content())

    def content(self) -> dict[str, Any]:
        """Returns the options on which the records depend, as plain JSON values: all."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Parameters)}


class Builder(tfds.core.ShardBasedBuilder):
    """Draws the clips and writes them as records of `data.schema` with known truth."""

    name = "synthetic_faces"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=schema.features(CLASSES, with_truth=True),
            metadata=tfds.core.MetadataDict(options=self.builder_config.content()),
        )

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the data set; see tfds.core.DatasetBuilder."""
        total = self.builder_config.num_train + self.builder_config.num_test
        bar = tqdm.tqdm(desc="drawing", total=total, unit="clip", disable=None, leave=False)
        with workers.Pool() as self._pool, bar as self._bar:
            super().download_and_prepare(**kwargs)

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        del dl_manager  # nothing is downloaded
        parameters = self.builder_config.parameters()
        return {
            split: [
                functools.partial(self._records, parameters, split, indices)
                for indices in shards(parameters, split)
            ]
            for split in SPLITS
        }

    def _records(
        self, parameters: Parameters, split: str, indices: range
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the records of one shard."""
        draw = functools.partial(clips.record, parameters, split)
        for example in self._pool.map(draw, indices, total=len(indices)):
            self._bar.update()
            yield example["clip_id"], example

    def summary(self) -> str:
        """Returns a table: clips, and the shares of hard and flipped ones, per split and class."""
        return summary(self.builder_config.parameters())


def shards(parameters: Parameters, split: str) -> list[range]:
    """Returns the indices of the clips in each shard of the split, in order."""
    pixels = parameters.num_frames * parameters.image_size**2
    step = max(1, _PIXELS_PER_SHARD // pixels)
    count = parameters.num_clips(split)
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


def summary(parameters: Parameters) -> str:
    """Returns a table: clips, and the shares of hard and flipped ones, per split and true class."""
    lines = []
    for split in SPLITS:
        count = parameters.num_clips(split)
        labels = [labels_lib.labels(parameters, split, i) for i in range(count)]
        true = np.array([label.true_label for label in labels])
        hard = np.array([label.is_hard for label in labels])
        flipped = np.array([label.is_flipped for label in labels])
        lines.append(f"{split:<10}{'clips':>8}{'hard':>8}{'flipped':>9}")
        for index, name in enumerate(CLASSES):
            lines.append(_row(name, true == index, hard, flipped))
        lines.append(_row("all", np.ones(count, bool), hard, flipped))
        lines.append("")
    return "\n".join(lines[:-1])


def _row(name: str, chosen: np.ndarray, hard: np.ndarray, flipped: np.ndarray) -> str:
    count = chosen.sum()
    shares = [(chosen & which).sum() / max(count, 1) for which in (hard, flipped)]
    return f"{name:<10}{count:>8}{shares[0]:>8.1%}{shares[1]:>9.1%}"
