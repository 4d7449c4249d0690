"""TFDS without TensorFlow: everything that relies on internals of tensorflow-datasets.

Written for the version below. `problems` compares it with the installed version, and
tests/data/test_tfds_compat.py fails if there are any. TFDS imports TensorFlow lazily, so a builder that
writes ArrayRecord files does not need it, except for what is replaced here.
"""

import contextlib
import errno
import inspect
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2

#: The version of tensorflow-datasets that this module was written for.
VERSION = "4.9.10"


def download_and_prepare(builder: Any) -> None:
    """Builds a data set with `builder.download_and_prepare`, without TensorFlow and reproducibly.

    Replaces two private methods of the builder: `_log_download_bytes` and `_log_download_done`, which
    print messages about downloads that do not happen, and `_example_writer`, so that equal records are
    equal bytes.

    Args:
      builder: a tfds.core.GeneratorBasedBuilder.
    """
    builder._log_download_bytes = builder._log_download_done = lambda: None
    builder._example_writer = lambda: StableWriter(builder.info.file_format)
    with _scratch_folder() as scratch:
        builder.download_and_prepare(file_format="array_record", download_dir=scratch)


class StableWriter(tfds_writer.ExampleWriter):
    """Writes equal records as equal bytes.

    A serialized `Example` holds a map. Its order differs between processes, unless protobuf is asked for a
    deterministic one, which TFDS does not do.
    """

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        """See tfds.core.ExampleWriter.

        Raises:
          OSError: the file cannot be written, such as to a full disk.
        """
        try:
            return super().write(path, ((key, _stable(example)) for key, example in examples))
        except RuntimeError as error:  # as ArrayRecord tells errors of the system
            if found := re.match(r"\w+\(\) failed: ([^;]+); writing", str(error)):
                codes = (code for code in errno.errorcode if os.strerror(code) == found[1])
                raise OSError(next(codes, errno.EIO), found[1]) from None
            raise


def _stable(example: bytes) -> bytes:
    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS' warnings and progress bars; our builders show their own bars."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _scratch_folder() -> Iterator[str]:
    """Creates a temporary folder, also for `tempfile`, and deletes it afterwards.

    TFDS leaves empty download and temporary folders behind.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch
        try:
            yield scratch
        finally:
            tempfile.tempdir = before


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Hides the main module, so that spawned worker processes do not import it.

    Importing it could load JAX, which the workers do not need. A script that calls `build` outside of
    `if __name__ == "__main__"` would even start another build in each worker and wait for itself.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def problems() -> list[str]:
    """Returns what differs between the installed TFDS and the version this module was written for."""
    found = []
    installed = metadata.version("tensorflow-datasets")
    if installed.split(".")[:2] != VERSION.split(".")[:2]:
        found.append(f"expected tensorflow-datasets {VERSION}, got {installed}")
    builder = tfds.core.GeneratorBasedBuilder
    called = inspect.getsource(dataset_builder)
    for name in ("_log_download_bytes", "_log_download_done", "_example_writer"):
        method = getattr(builder, name, None)
        if method is None or list(inspect.signature(method).parameters) != ["self"]:
            found.append(f"expected a method {builder.__name__}.{name}(self)")
        if f"self.{name}()" not in called:
            found.append(f"expected {dataset_builder.__name__} to call self.{name}()")
    written = list(inspect.signature(tfds_writer.ExampleWriter.write).parameters)
    if written != ["self", "path", "examples"]:
        found.append(f"expected ExampleWriter.write(self, path, examples), got {written}")
    return found
