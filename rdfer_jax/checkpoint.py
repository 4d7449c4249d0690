"""Checkpoints: the train state and the position in the data, through Orbax V1.

A checkpoint is written whole or not at all: Orbax writes into a temporary folder and renames it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from rdfer_jax.models import Variables
from rdfer_jax.state import TrainState

#: Name of the metric that chooses the best checkpoint.
BEST_METRIC = "validation_war"


class CheckpointNotFoundError(FileNotFoundError):
    """There is no checkpoint of that step, or none at all."""


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

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    def save(
        self, step: int, state: TrainState, iterator: Any, metrics: Mapping[str, float] | None
    ) -> None:
        """Writes a checkpoint, unless there is one of this step.

        Args:
          step: training steps done.
          state: on the devices.
          iterator: of the training data; its state is saved with the rest.
          metrics: with BEST_METRIC, if this step was evaluated on the validation part.
        """
        if step == self.latest():
            return
        self._checkpointer.save_checkpointables(
            step, {"state": state, "data": iterator}, metrics=dict(metrics) if metrics else None
        )

    def restore(self, step: int, abstract_state: TrainState, iterator: Any = None) -> TrainState:
        """Reads a checkpoint.

        Args:
          step: one of steps().
          abstract_state: shapes, types and shardings to restore to.
          iterator: of the training data, which is moved to where it was; None leaves the data out.
        """
        wanted: dict[str, Any] = {"state": abstract_state}
        if iterator is not None:
            wanted["data"] = iterator
        return self._checkpointer.load_checkpointables(step, wanted)["state"]

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
    return (path if "://" in str(path) else path.resolve()) / "checkpoints"


def _metric(metrics: Any) -> float:
    return float((metrics or {}).get(BEST_METRIC, float("-inf")))


def abstract(state: Any, sharding: jax.sharding.Sharding) -> Any:
    """Returns the shapes and types of a state, laid out as given."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
    )
