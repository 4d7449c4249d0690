"""Checkpoints: the train state, through Orbax V1. Its step says where in the data a run is.

A checkpoint is written whole or not at all: Orbax writes into a temporary folder and renames it. On a file
system, the sums of its files are written beside them, so that damage done later is found before it is used;
object stores keep sums of their own.
"""

import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from rdfer_jax.models import Variables
from rdfer_jax.state import TrainState
from rdfer_jax.training.preemption import is_peer_failure
from rdfer_jax.workarounds import silence_orbax

log = logging.getLogger(__name__)

#: Name of the metric that chooses the best checkpoint.
BEST_METRIC = "validation_war"
#: In a checkpoint's folder, the SHA-256 of each other file, by its path there.
SUMS = "sums.json"
#: In the run's folder, where checkpoints go that are damaged.
DAMAGED = "damaged_checkpoints"


class CheckpointNotFoundError(FileNotFoundError):
    """There is no checkpoint of that step, or none at all."""


class DamagedCheckpointError(ValueError):
    """A checkpoint's files are not those that were written."""


class CheckpointNotSavedError(OSError):
    """A checkpoint could not be written; the older ones are as they were."""


class Checkpoints:
    """The checkpoints of one run, in workdir/checkpoints.

    Use as a context manager, so that nothing is left half done.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int = 1):
        """Opens or makes the folder.

        Args:
          workdir: of the run.
          keep: newest checkpoints to keep, besides the best one.
        """
        self.directory = _directory(workdir)
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=_metric, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            with silence_orbax():
                self._checkpointer.close()
        except (OSError, RuntimeError, ValueError):
            if error is None:  # otherwise it is what went wrong before, once more
                raise

    def save(self, step: int, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Writes a checkpoint, unless there is one of this step.

        Args:
          step: training steps done.
          state: on the devices.
          metrics: with BEST_METRIC, if this step was evaluated on the validation part.

        Raises:
          CheckpointNotSavedError: the disk is full, or the folder cannot be written to.
          RuntimeError: another process of the job is lost.
        """
        newest = self.latest()
        if step == newest:
            return
        try:
            with silence_orbax():
                self._checkpointer.save_checkpointables(
                    step, {"state": state}, metrics=dict(metrics) if metrics else None
                )
        except (OSError, RuntimeError, ValueError) as error:
            if is_peer_failure(error):
                raise
            good = "there is none" if newest is None else f"the newest good one is {newest}"
            raise CheckpointNotSavedError(
                f"checkpoint {step} could not be written to {self.directory}, {good}: "
                f"{str(error).splitlines()[0]}. Once that is mended, the same command goes on from there"
            ) from error
        if jax.process_index() == 0 and _is_local(self.directory):
            _write_sums(self._path(step))

    def _path(self, step: int) -> epath.Path:
        return next(epath.Path(c.path) for c in self._checkpointer.checkpoints if c.step == step)

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """Reads a checkpoint.

        Args:
          step: one of steps().
          abstract_state: shapes, types and shardings to restore to.

        Raises:
          DamagedCheckpointError: its files are not those that were written.
        """
        if (what := damage(self._path(step))) is not None:
            others = [other for other in self.steps() if other != step]
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.directory} is damaged: {what}. "
                + (f"There are others: {others}" if others else "There is no other")
            )
        return self._checkpointer.load_checkpointables(step, {"state": abstract_state})["state"]

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, rising."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def latest(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Step of the checkpoint with the highest WAR on the validation part, or None."""
        scored = {
            c.step: c.metrics[BEST_METRIC]
            for c in self._checkpointer.checkpoints
            if BEST_METRIC in (c.metrics or {})
        }
        return max(scored, key=lambda step: (scored[step], step), default=None)

    def find(self, which: str) -> int:
        """Returns the step that "last", "best" or a number stands for.

        Raises:
          CheckpointNotFoundError: there is none; the message lists those there are.
          ValueError: it is neither of these words nor a number.
        """
        if which not in ("last", "best") and not which.isdigit():
            raise ValueError(f"checkpoint {which!r}: say last, best or a step")
        known = self.steps()
        if not known:
            raise CheckpointNotFoundError(f"{self.directory} holds no checkpoint: train first")
        if which == "best":
            if (best := self.best()) is None:
                raise CheckpointNotFoundError(
                    f"no checkpoint in {self.directory} was evaluated on a validation part, so none "
                    "is the best: set config.data.validation_percent in training, or take last"
                )
            return best
        step = known[-1] if which == "last" else int(which)
        if step not in known:
            raise CheckpointNotFoundError(
                f"{self.directory} holds no checkpoint of step {step}, only of {known}"
            )
        return step


def quarantine_damaged(workdir: epath.PathLike) -> list[int]:
    """Moves damaged checkpoints that are newer than every good one out of the way, and says so.

    To be called by one process, before the checkpoints are opened to go on from the newest. Orbax, which
    would wait for the other processes, is not asked.

    Args:
      workdir: of the run.

    Returns:
      Their steps, falling.
    """
    directory, moved = _directory(workdir), []
    if not directory.exists() or not _is_local(directory):
        return []
    # An unfinished one has a longer name.
    known = {int(path.name): path for path in directory.iterdir() if path.name.isdigit()}
    for step, path in sorted(known.items(), reverse=True):
        if (what := damage(path)) is None:
            break
        target = directory.parent / DAMAGED / path.name
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rmtree()
        path.rename(target)
        log.warning("checkpoint %d is damaged: %s; moved to %s", step, what, target)
        moved.append(step)
    return moved


def damage(path: epath.Path) -> str | None:
    """Says what is wrong with a checkpoint's files, or returns None.

    A checkpoint without sums, of an object store or of a process that was killed just before it wrote
    them, cannot be looked at, and passes.

    Args:
      path: the checkpoint's folder.
    """
    if not (path / SUMS).exists():
        return None
    try:
        sums = json.loads((path / SUMS).read_text())
        for name, wanted in sums.items():
            if not (path / name).exists():
                return f"{name} is missing"
            if _sum(path / name) != wanted:
                return f"{name} has other bytes than were written"
    except (ValueError, AttributeError):
        return f"{SUMS} is no list of sums"
    return None


def _write_sums(path: epath.Path) -> None:
    # etils has no "**", which would cost many requests on an object store.
    files = sorted(file for file in pathlib.Path(path).rglob("*") if file.is_file())
    sums = {file.relative_to(path).as_posix(): _sum(file) for file in files}
    beside = path.parent.parent / f".{SUMS}.new"  # not in a folder that Orbax looks at
    beside.write_text(json.dumps(sums, indent=2) + "\n")
    beside.replace(path / SUMS)


def _sum(path: os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_local(path: epath.Path) -> bool:
    return "://" not in str(path)


def last_variables(workdir: epath.PathLike) -> tuple[int, Variables]:
    """Reads the network of any run, whatever its settings, and leaves its folder as it is.

    Args:
      workdir: of the run, which may still be going on.

    Returns:
      The step of the last checkpoint, and its params and batch_stats, nested dicts of NumPy arrays.

    Raises:
      CheckpointNotFoundError: there is none.
    """
    directory = _directory(workdir)
    if not directory.exists():
        raise CheckpointNotFoundError(f"{directory}: no such folder, so {workdir} is no run")
    with ocp.training.Checkpointer(directory) as checkpointer:
        if (last := checkpointer.latest) is None:
            raise CheckpointNotFoundError(f"{directory} holds no checkpoint: train first")
    shapes = ocp.metadata(last.path, checkpointable_name="state").metadata
    wanted = {
        name: jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes[name])
        for name in ("params", "batch_stats")
    }
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # the rest of the state stays on the disk
    with context:
        return last.step, ocp.load(last.path, wanted, checkpointable_name="state")


def _directory(workdir: epath.PathLike) -> epath.Path:
    path = epath.Path(workdir)
    # Orbax takes absolute paths only.
    return (path.resolve() if _is_local(path) else path) / "checkpoints"


def _metric(metrics: Any) -> float:
    return float((metrics or {}).get(BEST_METRIC, float("-inf")))
