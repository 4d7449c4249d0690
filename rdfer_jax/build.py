"""Builds and checks the configured data set, through the builders' package."""

import functools
import importlib
import importlib.util
from typing import Any

from etils import epath

from rdfer_jax.config import Config
from rdfer_jax.pipeline import label_files


def datasets(module: str) -> Any:
    """Imports a module of the data set builders, such as "builder" or "synthetic_faces.labels".

    The builders are the package `data` of a clone, which is installed as `rdfer_jax.datasets`.
    """
    return importlib.import_module(f"{_package()}.{module}")


@functools.cache
def _package() -> str:
    name = "rdfer_jax.datasets"
    return name if importlib.util.find_spec(name) else "data"


def build(config: Config, *, tells: bool = False) -> epath.Path:
    """Builds the configured data set if it is missing, and returns its directory.

    Args:
      config: names the data set.
      tells: whether to print that it is there already.

    Raises:
      FileNotFoundError: the file config.build.labels does not exist.
      ValueError: an option is invalid, or the data set was built with other options.
    """
    return datasets("builder").build(
        config.data.name,
        config.data.dir,
        variant=config.data.variant,
        options=_options(config),
        tells=tells,
    )


def check(config: Config, with_strips: bool = False) -> Any:
    """Checks a data set: the original files if config.build.source_dir is set, else the built one.

    Args:
      config: names the data set.
      with_strips: whether to make pictures of some clips of each class, and of duplicates.

    Returns:
      A `Checked` of the builders' module `check`.

    Raises:
      FileNotFoundError: there is no such data set.
      ValueError: an option is invalid, or a list of the data set is malformed.
    """
    checker = datasets("check")
    options = _options(config)
    if options.get("source_dir"):
        return checker.check_raw(config.data.name, options, with_strips)
    return checker.check_built(config.data.name, config.data.dir, config.data.variant, with_strips)


def _options(config: Config) -> dict[str, Any]:
    """Returns the builder's options; labels are a mapping that is read from their file."""
    options = dict(config.build)
    path = options.pop("labels", "")
    if path:
        given = label_files.read_names(path, "config.build.labels")
        options["labels"] = {clip_id: name for clip_id, (name, _) in given.items()}
    return options
