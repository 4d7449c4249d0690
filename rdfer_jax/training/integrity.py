"""Integrity of checkpoints: checksums of their files, and quarantine of damaged ones.

Orbax writes a checkpoint completely or not at all, but does not detect damage done later. On a file system,
checksums are written next to the files; object stores have their own.
"""

import hashlib
import json
import logging
import os
import pathlib

from etils import epath

from rdfer_jax import paths

log = logging.getLogger(__name__)

#: In the folder of a checkpoint: the SHA-256 of every other file, by its path in that folder.
SUMS = "sums.json"
#: In the folder of a run: damaged checkpoints are moved there.
DAMAGED = "damaged_checkpoints"


def checkpoints_folder(workdir: epath.PathLike) -> epath.Path:
    """Returns the folder of a run's checkpoints, as an absolute path, which Orbax requires."""
    path = epath.Path(workdir)
    return (path.resolve() if paths.is_local(path) else path) / "checkpoints"


def finished(workdir: epath.PathLike) -> dict[int, epath.Path]:
    """Returns the folders of a run's finished checkpoints by step."""
    folder = checkpoints_folder(workdir)
    if not folder.exists():
        return {}
    # The names of unfinished checkpoints are longer.
    return {int(path.name): path for path in folder.iterdir() if path.name.isdigit()}


def write_sums(path: epath.Path) -> None:
    """Writes the checksums of a complete checkpoint into its folder."""
    # pathlib, because etils has no "**".
    files = sorted(file for file in pathlib.Path(path).rglob("*") if file.is_file())
    sums = {file.relative_to(path).as_posix(): _sum(file) for file in files}
    temporary = path.parent.parent / f".{SUMS}.new"  # outside of the folders that Orbax lists
    temporary.write_text(json.dumps(sums, indent=2) + "\n")
    temporary.replace(path / SUMS)


def damage(path: epath.Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint, or None.

    A checkpoint without checksums cannot be checked and passes: one in an object store, or one whose
    process was killed just before it wrote them.

    Args:
      path: folder of the checkpoint.
    """
    if not (path / SUMS).exists():
        return None
    try:
        sums = json.loads((path / SUMS).read_text())
        for name, expected in sums.items():
            if not (path / name).exists():
                return f"{name} is missing"
            if _sum(path / name) != expected:
                return f"{name} has changed since it was written"
    except (ValueError, AttributeError):
        return f"{SUMS} is not a list of checksums"
    return None


def quarantine_damaged(workdir: epath.PathLike) -> list[int]:
    """Moves damaged checkpoints that are newer than every good one out of the way, with a warning.

    Call it in one process, before the checkpoints are opened to resume from the newest. It does not use
    Orbax, which would wait for the other processes.

    Args:
      workdir: folder of the run.

    Returns:
      The steps of the moved checkpoints, newest first.
    """
    folder, moved = checkpoints_folder(workdir), []
    if not paths.is_local(folder):
        return []
    for step, path in sorted(finished(workdir).items(), reverse=True):
        if (problem := damage(path)) is None:
            break
        target = folder.parent / DAMAGED / path.name
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rmtree()
        path.rename(target)
        log.warning("checkpoint %d is damaged: %s; moved to %s", step, problem, target)
        moved.append(step)
    return moved


def _sum(path: os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
