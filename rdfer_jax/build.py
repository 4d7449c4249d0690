"""Settings -> a built data set."""

from etils import epath

from rdfer_jax.config import Config


def build(config: Config) -> epath.Path:
    """Builds the configured data set, unless it is there, and returns its directory.

    Raises:
      ValueError: an option does not fit, or the data set was built with other options.
    """
    import data.build as builder

    return builder.build(
        config.data.name,
        config.data.dir,
        variant=config.data.variant,
        options=dict(config.build),
    )
