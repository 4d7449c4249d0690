"""Builds a data set: name, variant and options in, a finished TFDS directory out.

A directory `data_dir/name/variant/version` exists only when it is complete: TFDS writes beside it
and renames at the end. One build of a variant runs at a time, held by a file lock that the system
drops when the process ends, however it ends; so whatever unfinished directory a build finds was
left by a killed one, and it is removed. Equal options give equal bytes. No TensorFlow is imported.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2

from rdfer_jax import hints

#: Name of a data set -> module that defines its `Builder` and `Options`, imported when needed.
BUILDERS: Mapping[str, str] = types.MappingProxyType(
    {
        name: f"{__package__}.{name}.{name}_dataset_builder"
        for name in ("synthetic_faces", "dfew", "ferv39k", "mafw", "video_folder")
    }
)

_BASE_FIELDS = frozenset(field.name for field in dataclasses.fields(tfds.core.BuilderConfig))
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


def build(
    name: str,
    data_dir: epath.PathLike,
    *,
    variant: str = "default",
    options: Mapping[str, Any] = _NOTHING,
) -> epath.Path:
    """Builds a data set, unless it is built already, and returns its directory.

    Args:
      name: which data set, a key of `BUILDERS`.
      data_dir: where data sets lie; this one goes to `data_dir/name/variant/version`.
      variant: tells data sets of the same name with different options apart.
      options: parameters of the data set, fields of its `Options`.

    Returns:
      The directory, ready for `tfds.builder_from_directory`.

    Raises:
      ValueError: there is no such data set or option, an option has a bad value, or the variant is
        built already with other options. Whatever the builder raises goes through.
    """
    config = make_config(name, variant=variant, options=options)
    module = importlib.import_module(BUILDERS[name])
    directory = epath.Path(data_dir).expanduser() / name / variant / str(module.Builder.VERSION)
    if _is_finished(directory, config):
        return directory
    with _only_build(directory.parent):
        # Another process may have built it while this one waited.
        if _is_finished(directory, config):
            return directory
        _remove_leftovers(directory.parent)
        with quiet(), without_main(), _scratch() as scratch:
            builder = module.Builder(data_dir=epath.Path(data_dir).expanduser(), config=config)
            builder._log_download_bytes = builder._log_download_done = lambda: None
            builder._example_writer = lambda: _StableWriter(builder.info.file_format)
            builder.download_and_prepare(file_format="array_record", download_dir=scratch)
    if hasattr(builder, "summary"):
        print(builder.summary(), flush=True)
    return directory


def make_config(
    name: str, *, variant: str = "default", options: Mapping[str, Any] = _NOTHING
) -> tfds.core.BuilderConfig:
    """Returns the checked options of a data set as TFDS takes them.

    Raises:
      ValueError: there is no such data set or option, an option has a bad value, or the variant's
        name is no plain file name.
    """
    if name not in BUILDERS:
        raise ValueError(f"unknown data set {name!r}; {hints.suggest(name, BUILDERS)}")
    if not re.fullmatch(r"\w[\w.\-]*", variant):
        raise ValueError(f"variant must be letters, digits, '_', '-' and '.', got {variant!r}")
    options_class = importlib.import_module(BUILDERS[name]).Options
    fields = [f.name for f in dataclasses.fields(options_class) if f.name not in _BASE_FIELDS]
    for option in {**options}:
        if option not in fields:
            raise ValueError(f"{name} has no option {option!r}; {hints.suggest(option, fields)}")
    return options_class(name=variant, **options)


def content(config: tfds.core.BuilderConfig) -> dict[str, Any]:
    """Returns the options that the records depend on, as they come back from JSON.

    These are `config.content()` where the options define that (to leave out where the source
    lies), else all fields. Builders store them as `tfds.core.MetadataDict(options=...)`.
    """
    if hasattr(config, "content"):
        values = config.content()
    else:
        fields = [field.name for field in dataclasses.fields(config)]
        values = {name: getattr(config, name) for name in fields if name not in _BASE_FIELDS}
    return json.loads(json.dumps(values))


class _StableWriter(tfds_writer.ExampleWriter):
    """Writes equal records as equal bytes.

    A serialised `Example` holds a map, whose order changes from process to process unless asked.
    """

    def write(self, path, examples):
        """See tfds.core.writer.ExampleWriter."""
        return super().write(path, ((key, _stable(example)) for key, example in examples))


def _stable(example: bytes) -> bytes:
    return tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)


def _is_finished(directory: epath.Path, config: tfds.core.BuilderConfig) -> bool:
    """Whether the data set is there; raises ValueError when it is there with other options."""
    if not directory.exists():
        return False
    if not (directory / "dataset_info.json").exists():
        raise ValueError(f"{directory} is no finished data set; delete it to build it again")
    metadata = directory / "metadata.json"
    stored = json.loads(metadata.read_text()).get("options", {}) if metadata.exists() else {}
    wanted = content(config)
    lines = [
        f"  {field}: built with {_show(stored, field)}, asked for {_show(wanted, field)}"
        for field in {**stored, **wanted}
        if stored.get(field, _NOTHING) != wanted.get(field, _NOTHING)
    ]
    if lines:
        raise ValueError(
            "\n".join([f"{directory} is built already, with other options:", *lines])
            + "\nName another variant, or delete the directory to build it again."
        )
    return True


def _show(options: Mapping[str, Any], field: str) -> str:
    return repr(options[field]) if field in options else "nothing"


@contextlib.contextmanager
def _only_build(variant_dir: epath.Path) -> Iterator[None]:
    """Waits until no other process builds this variant, and keeps others waiting."""
    variant_dir.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        fcntl = None  # type: ignore[assignment]
    if fcntl is None or "://" in os.fspath(variant_dir):
        yield
        return
    with (variant_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another build in {variant_dir}", file=sys.stderr, flush=True)
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield


def _remove_leftovers(variant_dir: epath.Path) -> None:
    """Removes what killed builds left; call only while no other build can run."""
    if "://" in os.fspath(variant_dir):  # no lock there, so another build may be running
        return
    for path in variant_dir.glob("incomplete.*"):
        path.rmtree()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS' warnings and progress bars; builders show their own on a terminal."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder for what TFDS leaves behind: empty download and temporary folders."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as scratch:
        tempfile.tempdir = scratch
        try:
            yield scratch
        finally:
            tempfile.tempdir = before


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Keeps worker processes from importing the main module.

    That may load JAX, which they do not need; and a script that calls `build` outside of
    `if __name__ == "__main__"` would build again in each of them, and wait for itself.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
