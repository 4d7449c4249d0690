"""TFDS builder of the drawn faces; what is drawn is described in README.md."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data import schema
from data.synthetic_faces import clips, workers
from data.synthetic_faces import labels as labels_lib
from data.synthetic_faces.parameters import CLASSES, SPLITS, Parameters

#: Below this number of clips, starting worker processes costs more than it saves.
_FEW = 100


@dataclasses.dataclass(kw_only=True, eq=False)
class Options(Parameters, tfds.core.BuilderConfig):
    """The parameters of the drawn data set, as TFDS wants them.

    Raises:
      ValueError: a value is out of its range; names the field, the value and the range.
    """

    def parameters(self) -> Parameters:
        """Returns the parameters alone, for worker processes that need no TFDS."""
        fields = dataclasses.fields(Parameters)
        return Parameters(**{field.name: getattr(self, field.name) for field in fields})


class Builder(tfds.core.GeneratorBasedBuilder):
    """Draws the clips and writes them as records of `data.schema` with known truth."""

    name = "synthetic_faces"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=schema.features(CLASSES, with_truth=True))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        parameters = self.builder_config.parameters()
        count = parameters.num_clips(split)
        draw = functools.partial(clips.record, parameters, split)
        for example in workers.ordered_map(draw, count, num_workers=0 if count < _FEW else None):
            yield example["clip_id"], example

    def summary(self) -> str:
        """Returns a table: clips, hard and flipped ones, per split and true class."""
        return summary(self.builder_config.parameters())


def summary(parameters: Parameters) -> str:
    """Returns a table of the data set: clips, hard and flipped ones, per split and true class."""
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
    hard_share, flipped_share = (
        (chosen & which).sum() / max(count, 1) for which in (hard, flipped)
    )
    return f"{name:<10}{count:>8}{hard_share:>8.1%}{flipped_share:>9.1%}"
