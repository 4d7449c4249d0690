"""What a run's folder says of itself, so that it can be used without its data set.

config.json holds the settings, data.json what the network was made for, results.json what came out.
"""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax.config import Config

#: Packages whose versions are kept.
PACKAGES = ("rdfer-jax", "jax", "jaxlib", "flax", "optax", "grain", "numpy")


class RunInfo(NamedTuple):
    """What a run was trained with.

    Attributes:
      config: its settings.
      classes: names of the N classes, by index.
      num_train: videos of its training split.
    """

    config: Config
    classes: tuple[str, ...]
    num_train: int


def write_json(path: epath.Path, tree: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all: who is killed while writing leaves the old one, or none.

    Raises:
      ValueError: a number is not finite.
    """
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(tree, indent=2, allow_nan=False) + "\n")
    beside.replace(path)


@contextlib.contextmanager
def run_lock(workdir: epath.Path) -> Iterator[None]:
    """Keeps a second run out of a folder; the system lets go of it however the process ends.

    Object stores, and systems without POSIX locks, cannot do so; there nothing is kept out.

    Raises:
      ValueError: another run is under way in the folder.
      OSError: the folder cannot be written to.
    """
    try:
        import fcntl
    except ImportError:
        fcntl = None  # type: ignore[assignment]
    if "://" in str(workdir) or fcntl is None:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{workdir}: a run is under way there ({file.read().strip()}). Wait for it, or take "
                "another --workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def write_config(workdir: epath.Path, config: Config) -> None:
    """Writes config.json, unless the folder has one already.

    Raises:
      ValueError: it has one of other settings; see `check_config`.
    """
    check_config(workdir, config)
    path = workdir / "config.json"
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, config_lib.to_dict(config))


def check_config(workdir: epath.Path, config: Config) -> None:
    """Compares settings with those of the run in the folder, if there is one.

    Raises:
      ValueError: a setting that changes what is learned differs.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    # A setting that is newer than the run was at what is its default now.
    standard, new = (
        _flat(json.loads(json.dumps(config_lib.to_dict(c)))) for c in (Config(), config)
    )
    old = standard | _flat(json.loads(path.read_text()))
    differ = [
        f"config.{name} = {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and config_lib.affects_training(name)
    ]
    if differ:
        raise ValueError(
            f"{workdir} holds a run with other settings:\n  "
            + "\n  ".join(differ)
            + "\nTake the old values, or another --workdir"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def write_data(
    workdir: epath.Path,
    data_set: str,
    classes: Sequence[str],
    num_train: int,
    fingerprint: str = "",
) -> None:
    """Writes data.json, with the versions of what the run begins with.

    Args:
      workdir: of the run.
      data_set: name, variant and version, such as dfew/default/1.0.0.
      classes: names of the N classes, by index.
      num_train: videos of the training split.
      fingerprint: of the data, see pipeline.source; empty where there is no one data set.
    """
    known = {
        "data_set": data_set,
        "classes": list(classes),
        "num_train": num_train,
        "fingerprint": fingerprint,
        "versions": _versions() | {"commit": commit()},
    }
    write_json(workdir / "data.json", known)


def check_data(workdir: epath.Path, data_set: str, fingerprint: str) -> None:
    """Compares the data with those of the run in the folder, if there is one.

    Raises:
      ValueError: they are others.
    """
    path = workdir / "data.json"
    if not path.exists():
        return
    known = json.loads(path.read_text())
    if known.get("fingerprint") and known["fingerprint"] != fingerprint:
        raise ValueError(
            f"{workdir} holds a run on other data: {known['data_set']} with fingerprint "
            f"{known['fingerprint']}, now {data_set} with {fingerprint}. The data set was built anew with "
            "other options, or config.data.labels names a file of other labels. Take the old data, or "
            "another --workdir"
        )


def commit() -> str:
    """The commit of the code, with + where files differ from it; "unknown" where it is no repository."""
    root = epath.Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():  # installed, perhaps inside another repository
        return "unknown"
    try:
        found = [
            subprocess.run(
                ["git", "-C", root, *command], capture_output=True, text=True, check=True
            )
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found[0].stdout.strip() + ("+" if found[1].stdout.strip() else "")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def read(workdir: epath.PathLike) -> RunInfo:
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
        return RunInfo(config, tuple(map(str, data["classes"])), int(data["num_train"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{workdir}: config.json or data.json does not fit this version of the program: {error}"
        ) from None
