"""What the benchmarks that train a run share: their flags, and the settings that follow from them."""

from typing import Any

from absl import flags
from etils import epath

from benchmarks import harness
from rdfer_jax import paths
from rdfer_jax.build import build

flags.disclaim_key_flags()  # --help lists a flag under the script that asks for it


def define_flags(output: str) -> None:
    """Defines --config, --set, --build and --output; `output` is the default folder."""
    paths.DEFINE_path("config", "configs/synthetic.py", "File of the settings.")
    flags.DEFINE_multi_string("set", [], "Further settings, such as model.trunk=resnet18.")
    flags.DEFINE_boolean("build", True, "Build the data set of the settings first.")
    paths.DEFINE_path("output", output, "Folder for everything; must not exist.")


def prepare() -> tuple[epath.Path, dict[str, Any]]:
    """Builds the data set, if --build says so.

    Returns:
      The folder, and the settings of --set with data.dir, which is inside the folder by default.

    Raises:
      ValueError: the folder exists.
    """
    options = flags.FLAGS
    output = epath.Path(options.output).absolute()
    if output.exists():
        raise ValueError(f"{output} exists; choose another --output")
    settings = {"data.dir": str(output / "tfds")} | harness.parse_settings(options.set)
    if options.build:
        build(harness.load(options.config, settings))
    return output, settings
