"""Random access to the records of one stored split, with clear errors for damaged files."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds


class RecordError(ValueError):
    """A file of a built data set is missing or damaged."""


class StoredSplit(Sequence[dict[str, Any]]):
    """The records of a split of a built data set, as data/schema.py describes them.

    Attributes:
      name: of the split.
      where: directory of the data set and name of the split, for messages.
      features: the features of a record, by name.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, name: str):
        """Opens a split of the builder."""
        self.name, self.where = name, f"{builder.data_path}, split {name}"
        self.features: tfds.features.FeaturesDict = builder.info.features
        self._info = builder.info.splits[name]
        self._source = builder.as_data_source(split=name)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, place: SupportsIndex) -> dict[str, Any]:  # type: ignore[override]
        return self.read(int(place))

    def firsts(self) -> list[int]:
        """Returns the position of the first record of each nonempty file."""
        lengths = self._info.shard_lengths
        starts = np.cumsum([0, *lengths])[:-1]
        return [int(start) for start, length in zip(starts, lengths, strict=True) if length]

    def read(
        self, place: int, features: tfds.features.FeaturesDict | None = None
    ) -> dict[str, Any]:
        """Reads a record, or only some of its features, which is faster if they are small.

        Raises:
          RecordError: the record cannot be read.
        """
        try:
            if features is None:
                return self._source[place]
            return features.deserialize_example_np(self._source.data_source[place])
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            ends = np.cumsum(self._info.shard_lengths)
            shard = int(np.searchsorted(ends, place, side="right"))
            first = int(ends[shard - 1]) if shard else 0
            raise RecordError(
                f"{self._info.filepaths[shard]}: record {place - first} cannot be read: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. Copy the data set "
                "again, or delete its folder and build it again"
            ) from None
