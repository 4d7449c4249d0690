"""Settings -> a built data set, or what is wrong with one."""

from typing import Any

from etils import epath

from rdfer_jax.config import Config
from rdfer_jax.pipeline import label_files


def build(config: Config) -> epath.Path:
    """Builds the configured data set, unless it is there, and returns its directory.

    Raises:
      FileNotFoundError: there is no such file as config.build.labels.
      ValueError: an option does not fit, or the data set was built with other options.
    """
    import data.builder as builder

    return builder.build(
        config.data.name, config.data.dir, variant=config.data.variant, options=_options(config)
    )


def check(config: Config) -> Any:
    """Looks for what is wrong with a data set: the raw one, if config.build.source_dir names it.

    Returns:
      data.check.Checked.

    Raises:
      FileNotFoundError: there is no such data set.
      ValueError: an option does not fit, or a list of the data set is malformed.
    """
    import data.check as checker

    options = _options(config)
    if options.get("source_dir"):
        return checker.check_raw(config.data.name, options)
    return checker.check_built(config.data.name, config.data.dir, config.data.variant)


def _options(config: Config) -> dict[str, Any]:
    """The options as the builders take them: labels as a mapping, read from their file."""
    options = dict(config.build)
    path = options.pop("labels", "")
    if path:
        given = label_files.read_names(path, "config.build.labels")
        options["labels"] = {clip_id: name for clip_id, (name, _) in given.items()}
    return options
