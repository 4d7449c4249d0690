"""The canary of data/tfds_compat.py: it fails when TFDS changes what that module relies on."""

import importlib.metadata
import pathlib
import tempfile

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2

from data import tfds_compat


def test_tfds_is_as_it_was_when_tfds_compat_was_written():
    assert tfds_compat.problems() == [], (
        "tensorflow-datasets has changed. Read its core/dataset_builder.py and core/writer.py again, adapt "
        "data/tfds_compat.py, and set its VERSION"
    )


def test_another_minor_version_is_a_problem_and_a_patch_is_not(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "4.10.0")
    assert tfds_compat.problems() == ["expected tensorflow-datasets 4.9.10, got 4.10.0"]
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "4.9.11")
    assert tfds_compat.problems() == []


@pytest.mark.parametrize("name", ["_log_download_bytes", "_log_download_done", "_example_writer"])
def test_a_private_method_with_other_parameters_is_a_problem(monkeypatch, name):
    monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, name, lambda self, other: None)
    assert tfds_compat.problems() == [f"expected a method GeneratorBasedBuilder.{name}(self)"]


def test_a_writer_with_other_parameters_is_a_problem(monkeypatch):
    monkeypatch.setattr(tfds_writer.ExampleWriter, "write", lambda self, examples: None)
    (problem,) = tfds_compat.problems()
    assert "expected ExampleWriter.write(self, path, examples), got ['self', 'examples']" in problem


def test_equal_examples_are_equal_bytes_whatever_the_order_of_their_features():
    def serialized(names):
        example = tf_example_pb2.Example()
        for name in names:
            example.features.feature[name].int64_list.value.append(len(name))
        return example.SerializeToString()

    names = [f"feature{'x' * i}" for i in range(8)]
    one, other = (tfds_compat._stable(serialized(order)) for order in (names, names[::-1]))
    assert one == other


def test_temporary_files_of_a_build_are_deleted():
    before = tempfile.gettempdir()
    with tfds_compat._scratch_folder() as scratch:
        assert tempfile.gettempdir() == scratch
        left = tempfile.mkdtemp()
    assert tempfile.gettempdir() == before
    assert not pathlib.Path(left).exists()
