"""The files that describe a run, so that its folder can be used without its data set.

config.json holds the settings, data.json the data set the network was built for, and results.json the
scores.
"""

import contextlib
import json
import os
import platform
import subprocess
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import filelock
from etils import epath

from rdfer_jax import atomic, paths
from rdfer_jax import config as config_lib
from rdfer_jax.config import Config
from rdfer_jax.training import integrity

#: Packages whose versions are saved.
PACKAGES = ("rdfer-jax", "jax", "jaxlib", "flax", "optax", "grain", "numpy")
#: What to do about a damaged file that describes a run.
RESTORE = "Restore it from a copy, or use another --workdir"
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class RunInfo(NamedTuple):
    """What a run was trained with.

    Attributes:
      config: its settings.
      classes: names of the N classes, by index.
      num_train: videos in its training split.
      faces: how the faces of its data were cut, see faces.cut; empty if that is not known.
    """

    config: Config
    classes: tuple[str, ...]
    num_train: int
    faces: Mapping[str, Any]


def write_json(path: epath.Path, tree: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically: a kill while writing leaves the old file, or none.

    Raises:
      ValueError: a number is not finite.
    """
    text = json.dumps(tree, indent=2, allow_nan=False) + "\n"
    atomic.write_bytes(path, text.encode())


def read_json(path: epath.Path, advice: str) -> dict[str, Any]:
    """Reads a JSON object that a run has written.

    Args:
      path: of the file.
      advice: what to do if it cannot be read, for the message.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. {advice}")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}). {advice}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a JSON object. {advice}")
    return found


@contextlib.contextmanager
def run_lock(workdir: epath.Path, flag: str = "workdir") -> Iterator[None]:
    """Keeps a second run out of a folder until this process ends, even if it is killed.

    Object stores (gs://) have no locks, so a second run is not noticed there.

    Args:
      workdir: the folder, which is created.
      flag: the flag that names it.

    Raises:
      ValueError: another run is using the folder.
      OSError: the folder cannot be written to.
    """
    if not paths.is_local(workdir):
        yield
        return
    # In a file of its own, because some systems do not let others read a locked file.
    holder = workdir / ".lock.holder"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(workdir / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        name = holder.read_text().strip() if holder.exists() else "unknown process"
        raise ValueError(
            f"{workdir}: another run is using this folder ({name}). Wait for it to finish, or choose "
            f"another --{flag}"
        ) from None
    except OSError as error:
        raise OSError(
            f"{workdir}: cannot be written to ({error.strerror}); choose another --{flag}"
        ) from None
    with held:
        holder.write_text(f"process {os.getpid()} on {platform.node()}\n")
        yield


def clear_unstarted(workdir: epath.Path) -> None:
    """Removes the settings of a run that ended before its first checkpoint, so that others may follow."""
    if integrity.finished(workdir) or (workdir / integrity.DAMAGED).exists():
        return
    for name in ("config.json", "data.json"):
        (workdir / name).unlink(missing_ok=True)


def write_config(workdir: epath.Path, config: Config) -> None:
    """Writes config.json, unless the folder has one already.

    Raises:
      ValueError: it has one with other settings; see `check_config`.
    """
    check_config(workdir, config)
    path = workdir / "config.json"
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, config_lib.to_dict(config))


def check_config(workdir: epath.Path, config: Config) -> None:
    """Compares settings with those of the run in the folder, if there is one.

    Settings added since the run started count as having had their current default.

    Raises:
      ValueError: a setting that affects training differs, or config.json is damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    defaults, new = (
        _flatten(json.loads(json.dumps(config_lib.to_dict(c)))) for c in (Config(), config)
    )
    old = defaults | _flatten(read_json(path, RESTORE))
    differences = [
        f"config.{name} = {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and config_lib.affects_training(name)
    ]
    if differences:
        raise ValueError(
            f"{workdir} holds a run with other settings:\n  "
            + "\n  ".join(differences)
            + "\nUse the old values, or another --workdir"
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dicts by path, such as "data.frames"."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def write_data(
    workdir: epath.Path,
    data_set: str,
    classes: Sequence[str],
    num_train: int,
    fingerprint: str = "",
    faces: Mapping[str, Any] = _NOTHING,
    kind: str = "train",
) -> None:
    """Writes data.json, which also holds the versions of the code at the start of the run.

    Args:
      workdir: of the run.
      data_set: name, variant and version, such as dfew/default/1.0.0.
      classes: names of the N classes, by index.
      num_train: videos in the training split.
      fingerprint: of the data, see pipeline.source; empty if the run uses several data sets.
      faces: how the faces of its data were cut, see faces.cut; empty if that is not known.
      kind: train, or pretrain for a run without a classifier.
    """
    tree = {
        "kind": kind,
        "data_set": data_set,
        "classes": list(classes),
        "num_train": num_train,
        "fingerprint": fingerprint,
        "faces": dict(faces),
        "versions": _versions() | {"commit": commit()},
    }
    write_json(workdir / "data.json", tree)


def check_data(workdir: epath.Path, data_set: str, fingerprint: str) -> None:
    """Compares the data with those of the run in the folder, if there is one.

    Raises:
      ValueError: the data differ, or data.json is damaged.
    """
    path = workdir / "data.json"
    if not path.exists():
        return
    old = read_json(path, RESTORE)
    if old.get("fingerprint") and old["fingerprint"] != fingerprint:
        raise ValueError(
            f"{workdir} holds a run on other data: {old['data_set']} with fingerprint "
            f"{old['fingerprint']}, now {data_set} with {fingerprint}. Either the data set was rebuilt "
            "with other options, or config.data.labels names a file with other labels. Use the old "
            "data, or another --workdir"
        )


def check_kind(workdir: epath.PathLike, kind: str = "train") -> None:
    """Compares the kind of a run, train or pretrain, with that of the run in the folder, if there is one.

    Raises:
      ValueError: they differ, or data.json is damaged.
    """
    path = epath.Path(workdir) / "data.json"
    found = read_json(path, RESTORE).get("kind", kind) if path.exists() else kind
    if found != kind:
        hint = ". To train from its weights, set config.init_from to it" if kind == "train" else ""
        raise ValueError(
            f"{workdir} holds a run of rdfer {found}, where one of rdfer {kind} is needed. Use another "
            f"--workdir{hint}"
        )


def commit() -> str:
    """Returns the commit of the code, with "+" if files were changed; "unknown" outside a clone."""
    root = epath.Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():  # installed, perhaps inside another repository
        return "unknown"
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", root, *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changes else "")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def read(workdir: epath.PathLike) -> RunInfo:
    """Reads config.json and data.json.

    Raises:
      FileNotFoundError: the folder is not that of a run, or the run has not started training.
      ValueError: a file is damaged, or was written by an incompatible version of the program; or the run
        is one of pretraining.
    """
    workdir = epath.Path(paths.expand(workdir))
    trees = {}
    for name in ("config.json", "data.json"):
        path = workdir / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such file, so {workdir} is not the folder of a training run. Set "
                "--workdir to a folder that training has written"
            )
        trees[name] = read_json(path, RESTORE)
    check_kind(workdir)
    try:
        config = config_lib.resolve(trees["config.json"])
        data = trees["data.json"]
        classes, faces = tuple(map(str, data["classes"])), dict(data.get("faces", {}))
        return RunInfo(config, classes, int(data["num_train"]), faces)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{workdir}: config.json or data.json does not fit this version of the program: {error}"
        ) from None


def temperature(workdir: epath.PathLike, step: int) -> float | None:
    """Returns the temperature that calibrates the checkpoint of a step, of results.json; None if unknown.

    Raises:
      ValueError: the file is damaged.
    """
    path = epath.Path(paths.expand(workdir)) / "results.json"
    if not path.exists():  # of a run that has not finished
        return None
    advice = "rdfer eval writes it again"
    results = read_json(path, advice)
    try:
        scored = [results, results.get("best_on_validation", {})]
        found = [
            one["temperature"] for one in scored if one.get("step") == step and "temperature" in one
        ]
        return None if not found or found[0] is None else float(found[0])
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the results of a run, got: {error}. {advice}") from None
