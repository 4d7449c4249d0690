"""Random access to the records of one stored split, with clear errors for damaged files.

Frames are views of the record's bytes: copying all of them, to decode some, cost a tenth of the time that
decoding takes. A record is a tf.train.Example in protocol buffers' encoding, where each part is a tag, a
length and that many bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds

#: The field of a record that holds its frames; see data/schema.py.
_FRAMES = "frames"
#: Tag of the first field of a message, if it has a length: features of an Example, entries of Features, the
#: key of an entry, values of a list of bytes. And of the second one: the value of an entry.
_FIRST, _SECOND = 0x0A, 0x12


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
        self._source = builder.as_data_source(split=name).data_source
        self._fields = tfds.features.FeaturesDict(
            {key: feature for key, feature in self.features.items() if key != _FRAMES}
        )

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
        """Reads a record, its frames as views of bytes; or only some of its fields, without frames.

        Raises:
          RecordError: the record cannot be read.
        """
        try:
            frames, rest = _apart(self._source[place])
            if features is not None:
                return features.deserialize_example_np(rest)
            return self._fields.deserialize_example_np(rest) | {_FRAMES: frames}
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            ends = np.cumsum(self._info.shard_lengths)
            shard = int(np.searchsorted(ends, place, side="right"))
            first = int(ends[shard - 1]) if shard else 0
            raise RecordError(
                f"{self._info.filepaths[shard]}: record {place - first} cannot be read: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. Copy the data set "
                "again, or delete its folder and build it again"
            ) from None


def _apart(record: bytes) -> tuple[list[memoryview], bytes]:
    """Returns the frames of a record, and a record of everything else.

    Raises:
      ValueError: it is not a record.
    """
    view = memoryview(record)
    frames: list[memoryview] | None = None
    rest: list[bytes | memoryview] = []
    for _, features in _parts(view, _FIRST):
        for whole, entry in _parts(features, _FIRST):
            (_, key), (_, value) = _parts(entry, _FIRST, _SECOND)
            if key == _FRAMES.encode():
                frames = [
                    data
                    for _, values in _parts(value, _FIRST)
                    for _, data in _parts(values, _FIRST)
                ]
            else:
                rest.append(whole)
    if frames is None:
        raise ValueError(f"it has no {_FRAMES}")
    return frames, b"".join([bytes([_FIRST]), _length(sum(map(len, rest))), *rest])


def _parts(message: memoryview, *tags: int) -> Iterator[tuple[memoryview, memoryview]]:
    """Yields the parts of a message: with tag and length, and without. Their tags are among `tags`.

    Raises:
      ValueError: it has another part, or ends within one.
    """
    start, end = 0, len(message)
    while start < end:
        at, size, shift, byte = start + 1, 0, 0, 0x80
        while byte & 0x80 and at < end:
            byte = message[at]
            size |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
        if message[start] not in tags or byte & 0x80 or at + size > end:
            raise ValueError("it is not a record of a data set")
        yield message[start : at + size], message[at : at + size]
        start = at + size


def _length(size: int) -> bytes:
    """Returns a number as protocol buffers write lengths: seven bits a byte, the lowest first."""
    result = bytearray()
    while size > 0x7F:
        result.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*result, size])
