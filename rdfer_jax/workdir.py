"""What a run's folder says of itself, so that it can be used without its data set.

config.json holds the settings, data.json what the network was made for.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax.config import Config


class Known(NamedTuple):
    """What a run was trained with.

    Attributes:
      config: its settings.
      classes: names of the N classes, by index.
      num_train: videos of its training split.
    """

    config: Config
    classes: tuple[str, ...]
    num_train: int


def write_data(workdir: epath.Path, data_set: str, classes: Sequence[str], num_train: int) -> None:
    """Writes data.json.

    Args:
      workdir: of the run.
      data_set: name, variant and version, such as dfew/default/1.0.0.
      classes: names of the N classes, by index.
      num_train: videos of the training split.
    """
    known = {"data_set": data_set, "classes": list(classes), "num_train": num_train}
    (workdir / "data.json").write_text(json.dumps(known, indent=2) + "\n")


def read(workdir: epath.PathLike) -> Known:
    """Reads config.json and data.json.

    Raises:
      FileNotFoundError: the folder is no run, or no step of it was ever done.
      ValueError: a file is damaged, or of another version of the program.
    """
    workdir = epath.Path(workdir)
    found = {}
    for name in ("config.json", "data.json"):
        path = workdir / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: there is no such file, so {workdir} is not the folder of a training run. "
                "Give --workdir the folder that --mode=train wrote"
            )
        try:
            found[name] = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: not the JSON that training wrote: {error}") from None
    try:
        config = config_lib.resolve(found["config.json"])
        data = found["data.json"]
        return Known(config, tuple(map(str, data["classes"])), int(data["num_train"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{workdir}: config.json or data.json does not fit this version of the program: {error}"
        ) from None
