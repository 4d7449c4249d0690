"""Trained networks that come with the package: weights, and the settings and classes to use them with.

NAME.safetensors holds the variables by path, such as "params/trunk/conv1/kernel", as float16; NAME.json the
rest; NAME.md is the card: data, license, command, scores, and what the network must not be used for.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import numpy as safetensors

from rdfer_jax import config as config_lib
from rdfer_jax.config import Config

FOLDER = pathlib.Path(__file__).parent
#: The networks, and what they are for.
NAMES = ("faces",)


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A trained network.

    Attributes:
      name: of the network.
      config: the settings it was trained with, and `predict` as it should be used.
      classes: names of the N classes, by index.
      variables: params and batch_stats, nested dicts of float32 arrays.
      step: training steps.
    """

    name: str
    config: Config
    classes: tuple[str, ...]
    variables: Mapping[str, Any]
    step: int


def size(network: Packaged) -> int:
    """Returns the number of parameters."""
    return sum(
        array.size for array in traverse_util.flatten_dict(network.variables["params"]).values()
    )


def load(name: str, folder: pathlib.Path = FOLDER) -> Packaged:
    """Returns one of `NAMES`."""
    about = json.loads((folder / f"{name}.json").read_text())
    arrays = safetensors.load_file(folder / f"{name}.safetensors")
    variables = {path: array.astype(np.float32) for path, array in arrays.items()}
    return Packaged(
        name=name,
        config=config_lib.resolve(about["config"]),
        classes=tuple(about["classes"]),
        variables=traverse_util.unflatten_dict(variables, sep="/"),
        step=about["step"],
    )


def save(network: Packaged, folder: pathlib.Path = FOLDER) -> None:
    """Writes NAME.safetensors and NAME.json.

    Raises:
      ValueError: a value is too large for float16.
    """
    arrays = {}
    for path, array in traverse_util.flatten_dict(network.variables, sep="/").items():
        if not np.abs(array).max() <= np.finfo(np.float16).max:
            raise ValueError(f"{path}: has values that float16 cannot hold")
        arrays[path] = np.asarray(array, np.float16)
    (folder / f"{network.name}.safetensors").write_bytes(safetensors.save(arrays))
    about = {
        "classes": list(network.classes),
        "step": network.step,
        "config": config_lib.to_dict(network.config),
    }
    (folder / f"{network.name}.json").write_text(json.dumps(about, indent=1) + "\n")
