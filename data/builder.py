"""Builds a data set: takes its name, variant and options, and returns a finished TFDS directory.

A directory `data_dir/name/variant/version` exists only if it is complete: TFDS writes to a temporary
directory next to it and renames it at the end. A file lock lets one build of a variant run at a time.
The system releases it when the process ends, even if it is killed, so any unfinished directory that a
build finds is a leftover and is removed. Equal options give equal bytes. TensorFlow is not imported.
"""

import contextlib
import dataclasses
import errno
import importlib
import json
import re
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
import tensorflow_datasets as tfds
from etils import epath

from rdfer_jax import hints, paths

from . import tfds_compat

#: Name of a data set -> module that defines its `Builder` and `Options`; imported on demand.
BUILDERS: Mapping[str, str] = types.MappingProxyType(
    {
        name: f"{__package__}.{name}.{name}_dataset_builder"
        for name in ("synthetic_faces", "dfew", "ferv39k", "mafw", "ferplus", "video_folder")
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
    tells: bool = False,
) -> epath.Path:
    """Builds a data set if it is missing, and returns its directory.

    Args:
      name: which data set, a key of `BUILDERS`.
      data_dir: folder of all data sets; this one is stored in `data_dir/name/variant/version`.
      variant: name of this build; builds with different options need different variants.
      options: parameters of the data set, fields of its `Options`.
      tells: whether to print that it is there already, as its original files may have changed since.

    Returns:
      The directory, for `tfds.builder_from_directory`.

    Raises:
      ValueError: there is no such data set or option, an option has an invalid value, or the variant
        was built with other options. Errors of the builder are passed on.
      OSError: it cannot be written.
    """
    config = make_config(name, variant=variant, options=options)
    module = importlib.import_module(BUILDERS[name])
    data_dir = epath.Path(paths.expand(data_dir))
    directory = data_dir / name / variant / str(module.Builder.VERSION)
    if _is_finished(directory, config):
        if tells:
            print(
                f"{directory} is built already. If the original files have changed, delete it and build "
                "again, or set another config.data.variant"
            )
        return directory
    with _build_lock(directory.parent):
        # Another process may have built it while this one waited.
        if _is_finished(directory, config):
            return directory
        _remove_leftovers(directory.parent)
        with tfds_compat.quiet(), tfds_compat.without_main():
            builder = module.Builder(data_dir=data_dir, config=config)
            try:
                tfds_compat.download_and_prepare(builder)
            except OSError as error:
                if error.errno not in (*paths.FULL, errno.EIO):
                    raise
                raise OSError(
                    f"{directory.parent}: the data set, or temporary files in {tempfile.gettempdir()}, "
                    f"cannot be written ({error.strerror}). Nothing of it is left. Make room there, or "
                    "choose another folder, config.data.dir; then build again"
                ) from None
    # Some print a part of their summary before they convert, and the rest now.
    report = getattr(builder, "closing", None) or getattr(builder, "summary", None)
    if report is not None:
        print(report(), flush=True)
    return directory


def make_config(
    name: str, *, variant: str = "default", options: Mapping[str, Any] = _NOTHING
) -> tfds.core.BuilderConfig:
    """Returns the options of a data set as a TFDS configuration.

    Raises:
      ValueError: there is no such data set or option, an option has an invalid value, or the name of
        the variant is not a plain file name.
    """
    if name not in BUILDERS:
        raise ValueError(f"unknown data set {name!r}. {hints.suggest(name, BUILDERS)}")
    if not re.fullmatch(r"\w[\w.\-]*", variant):
        raise ValueError(
            f"config.data.variant={variant!r}: use letters, digits, '_', '-' and '.' only, and start "
            "with a letter, a digit or '_'"
        )
    options_class = importlib.import_module(BUILDERS[name]).Options
    fields = [f.name for f in dataclasses.fields(options_class) if f.name not in _BASE_FIELDS]
    for option in {**options}:
        if option not in fields:
            raise ValueError(f"{name} has no option {option!r}. {hints.suggest(option, fields)}")
    return options_class(name=variant, **options)


def content(config: tfds.core.BuilderConfig) -> dict[str, Any]:
    """Returns the options that determine the records, as JSON values.

    These are `config.content()` if the options define it (to leave out the source folder), else all
    fields. Builders store them as `tfds.core.MetadataDict(options=...)`.
    """
    if hasattr(config, "content"):
        values = config.content()
    else:
        fields = [field.name for field in dataclasses.fields(config)]
        values = {name: getattr(config, name) for name in fields if name not in _BASE_FIELDS}
    return json.loads(json.dumps(values))


def _is_finished(directory: epath.Path, config: tfds.core.BuilderConfig) -> bool:
    """Returns whether the data set exists; raises ValueError if it was built with other options."""
    if not directory.exists():
        return False
    if not (directory / "dataset_info.json").exists():
        raise ValueError(
            f"{directory} is not a finished data set (no dataset_info.json); delete it and build again"
        )
    metadata = directory / "metadata.json"
    stored = json.loads(metadata.read_text()).get("options", {}) if metadata.exists() else {}
    # An option that is newer than the data set had its default.
    stored = content(type(config)(name=config.name)) | stored if stored else stored
    wanted = content(config)
    lines = [
        f"  {field}: built with {_show(stored, field)}, now {_show(wanted, field)}"
        for field in {**stored, **wanted}
        if not _same(stored.get(field, _NOTHING), wanted.get(field, _NOTHING))
    ]
    if lines:
        raise ValueError(
            "\n".join([f"{directory} was built with other options:", *lines])
            + "\nSet another config.data.variant, or delete the directory and build again."
        )
    return True


def _same(stored: Any, wanted: Any) -> bool:
    """Returns whether two values of an option mean the same; True, without a limit, is not 1."""
    return stored == wanted and (stored is True) == (wanted is True)


def _show(options: Mapping[str, Any], field: str) -> str:
    return repr(options[field]) if field in options else "nothing"


@contextlib.contextmanager
def _build_lock(variant_dir: epath.Path) -> Iterator[None]:
    """Lets one build of a variant run at a time; others wait. Object stores (gs://) have no locks."""
    try:
        variant_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"config.data.dir: {variant_dir} cannot be created ({error.strerror}); choose another folder"
        ) from None
    if not paths.is_local(variant_dir):
        yield
        return
    lock = filelock.FileLock(variant_dir / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"Waiting for another build in {variant_dir}", file=sys.stderr, flush=True)
        held = lock.acquire()
    with held:
        yield


def _remove_leftovers(variant_dir: epath.Path) -> None:
    """Removes what killed builds left; call it only while holding the lock."""
    if not paths.is_local(variant_dir):  # no lock: another build may be running
        return
    for path in variant_dir.glob("incomplete.*"):
        path.rmtree()
