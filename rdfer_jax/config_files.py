"""Configuration files: finds them by name or path, and loads them.

The files in configs/ of a clone are installed as rdfer_jax/configs, so `dfew` and `dfew:2` name the same
file in both. What follows the colon is passed to the file's `get_config`.
"""

import importlib.util
import inspect
import pathlib
from types import ModuleType

from ml_collections import ConfigDict

from rdfer_jax import hints, paths

_PACKAGE = pathlib.Path(__file__).parent


def folder() -> pathlib.Path:
    """Returns the folder of the configuration files that come with rdfer_jax."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """Returns the names of the configuration files that come with rdfer_jax, sorted."""
    return sorted(path.stem for path in folder().glob("*.py") if path.stem != "__init__")


def find(name: str) -> pathlib.Path:
    """Returns the path of a configuration file.

    Args:
      name: a name, such as `dfew`, or a path that ends in .py.

    Raises:
      FileNotFoundError: no configuration has this name, or the file does not exist.
    """
    is_path = name.endswith(".py")
    path = pathlib.Path(paths.expand(name)) if is_path else folder() / f"{name}.py"
    if not name or not path.is_file() or (not is_path and name not in names()):
        problem = f"no file {name}" if is_path else f"no configuration is called {name!r}"
        raise FileNotFoundError(
            f"--config={name}: {problem}. {hints.suggest(path.stem, names())}, or a path such as my.py"
        )
    return path


def load(name: str) -> ConfigDict:
    """Returns the settings of a configuration file.

    Args:
      name: a name or a path, optionally with a colon and an argument: `dfew`, `dfew:2`, `my.py:2`.

    Raises:
      FileNotFoundError: there is no such configuration.
      ValueError: the file has no get_config, or get_config rejects the argument.
    """
    base, colon, argument = name.partition(":")
    path = find(base)
    get_config = getattr(_module(path), "get_config", None)
    if not callable(get_config):
        raise ValueError(f"--config={name}: {path} does not define get_config()")
    if colon and not inspect.signature(get_config).parameters:
        raise ValueError(f"--config={name}: {path} takes no argument; use --config={base}")
    try:
        return get_config(*([argument] if colon else []))
    except ValueError as error:
        raise ValueError(f"--config={name}: {error}") from None


def _module(path: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"rdfer_jax_config_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
