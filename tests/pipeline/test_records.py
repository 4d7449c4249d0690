"""Records: read as TFDS reads them, without copying the frames."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny

from rdfer_jax.pipeline import records, source
from rdfer_jax.pipeline.records import StoredSplit


def example(**fields: list[bytes]) -> bytes:
    """Returns a tf.train.Example, written by TFDS's protocol buffers."""
    message = tfds.proto.tf_example_pb2.Example()
    for key, values in fields.items():
        message.features.feature[key].bytes_list.value.extend(values)
    return message.SerializeToString()


def test_records_are_those_of_tfds(tiny_data):
    builder = tfds.builder_from_directory(source.find(tiny_data))
    stored, expected = StoredSplit(builder, "train"), builder.as_data_source("train")
    assert len(stored) == len(expected) == len(tiny.SPLITS["train"])
    for record, wanted in zip(stored, expected, strict=True):
        assert record.keys() == wanted.keys()
        assert [bytes(frame) for frame in record.pop("frames")] == list(wanted.pop("frames"))
        for key, value in wanted.items():
            np.testing.assert_array_equal(record[key], value, err_msg=key)
            assert np.asarray(record[key]).dtype == np.asarray(value).dtype


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_lengths_of_any_size_are_read_and_written(size):
    frames, other = [b"a" * size, b"", b"c"], [b"d" * size]
    found, rest = records._apart(example(frames=frames, other=other))
    assert found == frames
    assert rest == example(other=other)


def test_frames_are_not_copied():
    record = example(frames=[b"one", b"two"])
    found, _ = records._apart(record)
    assert all(frame.obj is record for frame in found)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x0a", b"\x0a\xff", b"\x0a\x05ab", b"nonsense", example(other=[b"a"]),
     example(frames=[b"abc"])[:-1]],
)  # fmt: skip
def test_bytes_that_are_no_record_are_refused(data):
    with pytest.raises(ValueError, match=r"it is not a record of a data set|it has no frames"):
        records._apart(data)
