"""Training: the loop over steps, from a new state or a checkpoint, and the evaluation of the result."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from etils import epath
from jax.experimental import multihost_utils

from rdfer_jax import plots, weights
from rdfer_jax.config import Config
from rdfer_jax.models import pretrained
from rdfer_jax.pipeline import loader, source
from rdfer_jax.pipeline.feed import close, feed
from rdfer_jax.state import TrainState
from rdfer_jax.steps import TrainStep
from rdfer_jax.training import memory_limit, run_dir
from rdfer_jax.training.checkpoint import Checkpoints, last_variables
from rdfer_jax.training.evaluate import Evaluator, evaluate_and_save, final_summary
from rdfer_jax.training.integrity import quarantine_damaged
from rdfer_jax.training.loop import Loop, MetricLogger
from rdfer_jax.training.predictions import Predictions
from rdfer_jax.training.setup import Setup
from rdfer_jax.training.writers import MetricWriter, Progress, read_metrics

log = logging.getLogger(__name__)


def train(config: Config, workdir: epath.PathLike) -> dict[str, Any]:
    """Trains and evaluates a network; resumes an earlier run in the same folder.

    Args:
      config: all settings.
      workdir: folder of the run: checkpoints/, config.json, metrics.jsonl, results.json, plots.

    Returns:
      The content of results.json: the results of the last checkpoint and, under best_on_validation, of the
      best one.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      NonFiniteLossError: training diverged.
      PreemptedError: the process was asked to stop; the state is saved.
      FileNotFoundError: config.init_from is neither a file nor the folder of a run.
      OSError: workdir or the folder of config.data.frame_cache cannot be written to, or the disk is full.
      RecordError: a file of the data set is missing or damaged.
      ValueError: the settings do not fit the data, the devices, the run to resume, or the initial weights;
        or another run is using the folder.
    """
    workdir = epath.Path(workdir)
    with alone_in(workdir):
        return _train(Setup.create(config, workdir), workdir)


@contextlib.contextmanager
def alone_in(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out of a folder, from which the settings of a run without a checkpoint are removed.

    Raises:
      ValueError: another run is using the folder.
      OSError: the folder cannot be written to.
    """
    is_first = jax.process_index() == 0
    with run_dir.run_lock(workdir) if is_first else contextlib.nullcontext():
        if is_first:
            run_dir.clear_unstarted(workdir)
        multihost_utils.sync_global_devices("settings of a run without a checkpoint are removed")
        yield


def open_checkpoints(config: Config, workdir: epath.Path) -> Checkpoints:
    """Opens the checkpoints of a run; damaged ones are moved aside first."""
    if jax.process_index() == 0:
        quarantine_damaged(workdir)
    multihost_utils.sync_global_devices("the newest checkpoint is intact")
    return Checkpoints(workdir, keep=config.train.keep, best_metric=config.train.best_metric)


def _train(setup: Setup, workdir: epath.Path) -> dict[str, Any]:
    is_first, config = jax.process_index() == 0, setup.config
    step_fn = setup.train_step()
    evaluator = Evaluator(config, setup.network, setup.mesh, setup.validation or setup.test)
    evaluations = Evaluations(evaluator, setup, workdir)
    with open_checkpoints(config, workdir) as checkpoints, evaluator:
        state = initial_state(setup, checkpoints)
        describe(setup, state, workdir)
        state = run_loop(setup, step_fn, state, checkpoints, evaluations, workdir)
        results = evaluate_and_save(
            evaluator, state, setup, workdir, "last", predictions=evaluations.of_final_state()
        )
        if setup.validation is not None:
            best = checkpoints.find("best")
            predictions = evaluator(checkpoints.restore(best, setup.abstract_state()), setup.test)
            scores = final_summary(predictions)
            results["best_on_validation"] = {"checkpoint": "best", "step": best} | scores
            if is_first:
                results["best_on_validation"] |= _choice(workdir, best, len(setup.validation))
    if is_first:
        plots.save(plots.training_curves(read_metrics(workdir)), workdir / "training_curves.png")
        # The last file of a run: where it exists, the run is complete.
        run_dir.write_json(workdir / "results.json", results)
    return results


def _choice(workdir: epath.Path, best: int, number: int) -> dict[str, Any]:
    """Returns how many clips chose the best checkpoint, and its WAR on them."""
    (row,) = (row for row in read_metrics(workdir) if row["step"] == best)
    return {"chosen_on": number, "chosen_war": row["validation_war"]}


class Evaluations:
    """The predictions that a run makes while it trains.

    Attributes:
      split_name: "validation", whose score chooses the best checkpoint, or "test".
    """

    def __init__(self, evaluator: Evaluator, setup: Setup, workdir: epath.Path):
        """Keeps what is needed to predict; `evaluator` reads the split ahead."""
        self._evaluator, self._setup, self._folder = evaluator, setup, workdir / "epochs"
        self._split = setup.validation or setup.test
        self.split_name = "validation" if setup.validation else "test"
        self._newest: Predictions | None = None

    def evaluate(self, state: TrainState) -> Predictions:
        """Returns the predictions for the validation part or, without one, for the test split."""
        self._newest = self._evaluator(state, self._split)
        return self._newest

    def record(self, epoch: int, state: TrainState) -> None:
        """Saves the predictions for the training split after an epoch."""
        predictions = self._evaluator(state, self._setup.train)
        if jax.process_index() == 0:
            self._folder.mkdir(exist_ok=True)
            predictions.save(self._folder / f"train_{epoch:04d}.npz")

    def of_final_state(self) -> Predictions | None:
        """Returns the predictions for the test split after the last step, if this process made any."""
        # The loop always evaluates after the last step.
        return None if self._setup.validation else self._newest


def initial_state(setup: Setup, checkpoints: Checkpoints) -> TrainState:
    """Returns the state of the newest checkpoint or, without one, a new state.

    config.init_from is read for a new state only.
    """
    if (step := checkpoints.latest()) is not None:
        log.info("resuming from step %d of %s", step, checkpoints.directory)
        return checkpoints.restore(step, setup.abstract_state())
    state, init_from = setup.new_state(), setup.config.init_from
    return initialized(state, init_from) if init_from else state


def initialized(state: TrainState, init_from: str) -> TrainState:
    """Returns a new state with weights from a file or another run, and logs which were used."""
    if init_from in weights.NAMES:
        packaged = weights.load(init_from)
        name = f"the packaged weights {init_from!r}"
        variables, report = pretrained.adopt(packaged.variables, state.variables, name)
    elif epath.Path(init_from).is_dir():
        step, other = last_variables(init_from)
        name = f"{init_from}, step {step}"
        variables, report = pretrained.adopt(other, state.variables, name)
    else:
        variables, report = pretrained.load(init_from, state.variables)
    for line in report.lines():
        log.info("%s", line)
    layout = jax.tree.map(lambda leaf: leaf.sharding, state.variables)
    variables = jax.device_put(variables, layout)
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=layout)
    # Teacher and average start as copies of the student; buffers must not be shared.
    copies = {
        name: copy(variables) for name in ("teacher", "average") if getattr(state, name) is not None
    }
    return dataclasses.replace(state, **copies, **variables)


def describe(setup: Setup, state: TrainState, workdir: epath.Path) -> None:
    """Logs the sizes; the first process writes config.json, data.json and parameters.txt."""
    start = int(state.step)
    log.info(
        "%s: %s; steps %d to %d on %d %s",
        setup.directory, setup.sizes, start, setup.counts.total, setup.mesh.size,
        setup.mesh.devices.flat[0].device_kind,
    )  # fmt: skip
    if jax.process_index():
        return
    run_dir.write_config(workdir, setup.config)
    if start:
        return
    run_dir.write_data(
        workdir,
        setup.data_set,
        setup.classes,
        setup.num_train,
        setup.fingerprint,
        source.faces(setup.directory),
        setup.kind,
    )
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    (workdir / "parameters.txt").write_text(table + "\n")
    count = sum(p.size for p in jax.tree.leaves(state.params))
    log.info("%s parameters, listed in parameters.txt", f"{count:,}")


def run_loop(
    setup: Setup,
    step_fn: TrainStep,
    state: TrainState,
    checkpoints: Checkpoints,
    evaluations: Evaluations | None,
    workdir: epath.Path,
) -> TrainState:
    """Runs the remaining steps and returns the final state; `evaluations` is None in pretraining."""
    config, start = setup.config, int(state.step)
    is_first = jax.process_index() == 0
    with (
        MetricWriter(
            workdir, resume_step=start, tensorboard=config.train.tensorboard, enabled=is_first
        ) as writer,
        Progress(setup.counts.total, start_step=start, enabled=is_first) as progress,
    ):
        loop = Loop(
            counts=setup.counts,
            step_fn=step_fn,
            checkpoints=checkpoints,
            evaluate=evaluations.evaluate if evaluations else None,
            eval_split=evaluations.split_name if evaluations else "",
            record=evaluations.record if evaluations else None,
            logger=MetricLogger(
                writer, progress, setup.learning_rate, setup.counts, config.data.batch_size
            ),
            profile=workdir / "profile" if config.profile and is_first else None,
        )
        batches = loader.train_loader(
            setup.train,
            config.data,
            seed=config.seed,
            local_batch_size=setup.local_batch_size,
            process=jax.process_index(),
            processes=jax.process_count(),
            start=start,
        )
        iterator = iter(feed(batches, setup.mesh, config.data.prefetch))
        try:
            if start < setup.counts.total:
                log.info("decoding the first videos in the background")
                memory_limit.compile_and_check(
                    step_fn, (state, setup.abstract_batch()), setup.mesh,
                    "training step, config.data.batch_size", config.data.batch_size,
                )  # fmt: skip
            return loop.run(state, iterator)
        finally:
            close(iterator)
