"""Checkpoints of the train state, through Orbax V1.

The step of a state gives its position in the data, so a checkpoint is all that is needed to resume.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from rdfer_jax import paths
from rdfer_jax.models import Variables
from rdfer_jax.state import TrainState
from rdfer_jax.training import integrity
from rdfer_jax.training.preemption import is_peer_failure
from rdfer_jax.workarounds import silence_orbax

#: Metrics that can choose the best checkpoint; a checkpoint has all of them or none.
BEST_METRICS = ("validation_war", "validation_uar")
_FIELDS = dataclasses.fields(TrainState)


class CheckpointNotFoundError(FileNotFoundError):
    """There is no checkpoint of the given step, or none at all."""


class DamagedCheckpointError(ValueError):
    """The files of a checkpoint have changed since they were written."""


class OtherLayoutError(ValueError):
    """A checkpoint of an earlier version, which stored other parts of the state."""


class CheckpointNotSavedError(OSError):
    """A checkpoint could not be written; the older ones are unchanged."""


class Checkpoints:
    """The checkpoints of one run, in workdir/checkpoints.

    Use as a context manager, so that pending writes are finished.
    """

    def __init__(self, workdir: epath.PathLike, *, keep: int = 1, best_metric: str = "war"):
        """Opens or creates the folder.

        Args:
          workdir: folder of the run.
          keep: number of newest checkpoints to keep, besides the best one.
          best_metric: config.train.best_metric, war or uar.
        """
        self._best_metric = f"validation_{best_metric}"
        self.directory = integrity.checkpoints_folder(workdir)
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
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
            if error is None:  # otherwise Orbax only repeats the earlier error
                raise

    def save(self, step: int, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Writes a checkpoint, unless there is one of this step.

        Args:
          step: number of training steps done.
          state: the state, on the devices.
          metrics: BEST_METRICS, if this step was evaluated on the validation part.

        Raises:
          CheckpointNotSavedError: the disk is full, or the folder cannot be written to.
          RuntimeError: another process of the job was lost.
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
            good = "there is none yet" if newest is None else f"the newest good one is {newest}"
            raise CheckpointNotSavedError(
                f"checkpoint {step} could not be written to {self.directory}, {good}: "
                f"{str(error).splitlines()[0]}. Fix this and run the same command to resume"
            ) from error
        if jax.process_index() == 0 and paths.is_local(self.directory):
            integrity.write_sums(self._path(step))

    def _score(self, metrics: Any) -> float:
        return float((metrics or {}).get(self._best_metric, float("-inf")))

    def _path(self, step: int) -> epath.Path:
        return next(epath.Path(c.path) for c in self._checkpointer.checkpoints if c.step == step)

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """Reads a checkpoint.

        Args:
          step: one of steps().
          abstract_state: shapes, types and shardings of the state.

        Raises:
          DamagedCheckpointError: the files have changed since they were written.
          OtherLayoutError: an earlier version wrote the checkpoint, whose memory holds other values.
        """
        if (problem := integrity.damage(self._path(step))) is not None:
            others = [other for other in self.steps() if other != step]
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.directory} is damaged: {problem}. "
                + (f"Other checkpoints: {others}" if others else "There is no other checkpoint")
            )
        self._check_memory(step, abstract_state)
        stored = ocp.metadata(self._path(step), checkpointable_name="state").metadata
        wanted = {field.name: getattr(abstract_state, field.name) for field in _FIELDS}
        # Earlier versions had not all parts; those that this run does not use may be missing.
        wanted = {name: part for name, part in wanted.items() if name in stored or part is not None}
        return TrainState(
            **self._checkpointer.load_checkpointables(step, {"state": wanted})["state"]
        )

    def _check_memory(self, step: int, abstract_state: TrainState) -> None:
        if abstract_state.memory is None:
            return
        stored = ocp.metadata(self._path(step), checkpointable_name="state").metadata["memory"]
        wanted = {field.name for field in dataclasses.fields(abstract_state.memory)}
        found = set(stored) if isinstance(stored, Mapping) else {"one array"}
        if found != wanted:
            raise OtherLayoutError(
                f"checkpoint {step} in {self.directory} has another layout of the memory: expected "
                f"{', '.join(sorted(wanted))}, got {', '.join(sorted(found))}. An earlier version wrote "
                "it: use that version, or start a new run from its weights with config.init_from"
            )

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, in ascending order."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def latest(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Returns the step of the checkpoint with the best score on the validation part, or None."""
        scored = {
            c.step: c.metrics[self._best_metric]
            for c in self._checkpointer.checkpoints
            if self._best_metric in (c.metrics or {})
        }
        return max(scored, key=lambda step: (scored[step], step), default=None)

    def find(self, which: str) -> int:
        """Returns the step of the checkpoint named "last" or "best", or given by its number.

        Raises:
          CheckpointNotFoundError: there is no such checkpoint; the message lists the existing ones.
          ValueError: `which` is neither of these names nor a number.
        """
        if which not in ("last", "best") and not which.isdigit():
            raise ValueError(f"checkpoint {which!r}: expected last, best or a step")
        steps = self.steps()
        if not steps:
            raise CheckpointNotFoundError(f"{self.directory} holds no checkpoint: train first")
        if which == "best":
            if (best := self.best()) is None:
                raise CheckpointNotFoundError(
                    f"no checkpoint in {self.directory} was evaluated on a validation part, so there is "
                    "no best one. Train with config.data.validation_percent, or use the last checkpoint"
                )
            return best
        step = steps[-1] if which == "last" else int(which)
        if step not in steps:
            raise CheckpointNotFoundError(
                f"{self.directory} holds no checkpoint of step {step}, only of {steps}"
            )
        return step


def last_variables(workdir: epath.PathLike) -> tuple[int, Variables]:
    """Reads the network of any run, with any settings, and leaves its folder unchanged.

    Args:
      workdir: folder of the run, which may still be training.

    Returns:
      The step of the last checkpoint, and its params and batch_stats, nested dicts of NumPy arrays: their
      average over the last steps, if the run evaluates it.

    Raises:
      CheckpointNotFoundError: there is no checkpoint.
    """
    directory = integrity.checkpoints_folder(workdir)
    if not directory.exists():
        raise CheckpointNotFoundError(
            f"{directory}: no such folder, so {workdir} is not the folder of a run"
        )
    with ocp.training.Checkpointer(directory) as checkpointer:
        if (last := checkpointer.latest) is None:
            raise CheckpointNotFoundError(f"{directory} holds no checkpoint: train first")
    shapes = ocp.metadata(last.path, checkpointable_name="state").metadata
    names = ("params", "batch_stats")
    averaged = bool(shapes.get("average"))
    shapes = shapes["average"] if averaged else {name: shapes[name] for name in names}
    wanted = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
    context = ocp.Context()
    context.pytree.loading.partial_load = True  # do not read the rest of the state
    with context:
        tree = {"average": wanted} if averaged else wanted
        loaded = ocp.load(last.path, tree, checkpointable_name="state")
    return last.step, loaded["average"] if averaged else loaded
