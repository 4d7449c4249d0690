"""Training: prepares data, network, step and checkpoints, runs the loop, evaluates the result."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rdfer_jax import models, optim, plots, sharding
from rdfer_jax.config import Config
from rdfer_jax.models import pretrained
from rdfer_jax.pipeline import loader, source
from rdfer_jax.pipeline.feed import close, feed
from rdfer_jax.state import TrainState
from rdfer_jax.steps import TrainStep, make_train_step
from rdfer_jax.training import evaluate, run_dir
from rdfer_jax.training.checkpoint import Checkpoints, abstract, last_variables, quarantine_damaged
from rdfer_jax.training.loop import Loop, MetricLogger, StepCounts
from rdfer_jax.training.predictions import Predictions
from rdfer_jax.training.writers import MetricWriter, Progress, read_metrics
from rdfer_jax.types import Batch

log = logging.getLogger(__name__)


def train(config: Config, workdir: epath.PathLike) -> dict[str, Any]:
    """Trains, or goes on where an earlier run in the same folder stopped, and evaluates the result.

    Args:
      config: all settings.
      workdir: folder of the run: checkpoints/, config.json, metrics.jsonl, results.json, pictures.

    Returns:
      What results.json holds: of the last checkpoint and, under best_on_validation, of the best.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      NonFiniteLossError: training diverged.
      PreemptedError: the process was asked to end; the state is saved.
      FileNotFoundError: config.init_from is no file and no run.
      OSError: the folder, or that of config.data.frame_cache, cannot be written to, or the disk is full.
      RecordError: a file of the data set is missing or damaged.
      ValueError: the settings do not fit the data, the devices, the run to be resumed, or the weights to
        start from; or another run is using the folder.
    """
    workdir = epath.Path(workdir)
    if jax.process_index():
        return _train(config, workdir)
    with run_dir.run_lock(workdir):
        return _train(config, workdir)


def _train(config: Config, workdir: epath.Path) -> dict[str, Any]:
    mesh = sharding.make_mesh()
    local_batch_size = sharding.local_batch_size(
        config.data.batch_size, mesh, "config.data.batch_size"
    )
    directory = source.find(config.data)
    whole, test_split = source.open_splits(directory, config.data)
    first = jax.process_index() == 0
    data_set = f"{config.data.name}/{config.data.variant}/{directory.name}"
    fingerprint = source.fingerprint(directory, config.data.labels)
    run_dir.check_config(workdir, config)
    run_dir.check_data(workdir, data_set, fingerprint)
    # Every frame may have to be decoded now. What was decoded stays, should anything be refused later.
    whole, test_split = (split.with_cache(config.data) for split in (whole, test_split))
    train_split, validation = source.hold_out(whole, config.data.validation_percent)
    num_classes = len(train_split.classes)
    network = models.create(config, num_classes, mesh.devices.flat[0].platform)
    lengths = StepCounts(config, len(train_split))
    step_fn, learning_rate = make_step(config, network, lengths, mesh)
    eval_split = validation or test_split
    evaluator = evaluate.Evaluator(config, network, mesh, eval_split)
    if first:
        quarantine_damaged(workdir)
    multihost_utils.sync_global_devices("the newest checkpoint is whole")
    with Checkpoints(workdir, keep=config.train.keep) as checkpoints, evaluator:
        state = _start(config, network, checkpoints, num_classes, len(train_split), mesh)
        if first:  # and not before config.init_from has proved right
            run_dir.write_config(workdir, config)
        start = int(state.step)
        log.info(
            "%s: %d videos to train on, %d to validate, %d to test; %d classes; steps %d to %d on %d %s",
            directory, len(train_split), len(validation or ()), len(test_split), num_classes, start,
            lengths.total, mesh.size, mesh.devices.flat[0].device_kind,
        )  # fmt: skip
        if first and start == 0:
            run_dir.write_data(
                workdir, data_set, train_split.classes, len(train_split), fingerprint
            )
            table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
            (workdir / "parameters.txt").write_text(table + "\n")
            count = sum(p.size for p in jax.tree.leaves(state.params))
            log.info("%s parameters, listed in parameters.txt", f"{count:,}")
        with (
            MetricWriter(
                workdir, resume_step=start, tensorboard=config.train.tensorboard, enabled=first
            ) as writer,
            Progress(lengths.total, start_step=start, enabled=first) as progress,
        ):
            newest: Predictions | None = None

            def watch(state: TrainState) -> Predictions:
                nonlocal newest
                newest = evaluator(state, eval_split)
                return newest

            def record(epoch: int, state: TrainState) -> None:
                predictions = evaluator(state, train_split)
                if first:
                    (workdir / "epochs").mkdir(exist_ok=True)
                    predictions.save(workdir / "epochs" / f"train_{epoch:04d}.npz")

            loop = Loop(
                lengths=lengths,
                step_fn=step_fn,
                checkpoints=checkpoints,
                evaluate=watch,
                eval_split="validation" if validation else "test",
                record=record,
                news=MetricLogger(writer, progress, learning_rate, lengths, config.data.batch_size),
                profile=workdir / "profile" if config.profile and first else None,
            )
            batches = loader.train_loader(
                train_split,
                config.data,
                seed=config.seed,
                local_batch_size=local_batch_size,
                process=jax.process_index(),
                processes=jax.process_count(),
                start=start,
            )
            iterator = iter(feed(batches, mesh, config.data.prefetch))
            try:
                state = loop.run(state, iterator)
            finally:
                close(iterator)
        results = evaluate.report(
            evaluator, state, test_split, train_split, workdir, "last",
            # The last step was evaluated, on the test split if there is no validation part.
            predictions=None if validation else newest,
        )  # fmt: skip
        if validation is not None:
            best = checkpoints.find("best")
            shapes = abstract(state, sharding.replicated(mesh))
            found = evaluate.summary(evaluator(checkpoints.restore(best, shapes), test_split))
            results["best_on_validation"] = {"checkpoint": "best", "step": best} | found
    if first:
        plots.save(plots.training_curves(read_metrics(workdir)), workdir / "training_curves.png")
        # The last file of a run: where it is, all others are.
        run_dir.write_json(workdir / "results.json", results)
    return results


def make_step(
    config: Config, network: models.Network, lengths: StepCounts, mesh: Mesh
) -> tuple[TrainStep, optax.Schedule]:
    """Returns the train step, jitted over the mesh with the state donated, and the learning rate."""
    learning_rate = optim.schedule(
        config.optim, total_steps=lengths.total, steps_per_epoch=lengths.epoch
    )
    step_fn = make_train_step(
        config,
        network,
        optim.create(config.optim, learning_rate),
        total_steps=lengths.total,
        steps_per_epoch=lengths.epoch,
    )
    whole = sharding.replicated(mesh)
    jitted = jax.jit(
        step_fn,
        in_shardings=(whole, sharding.split_batch(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    return jitted, learning_rate


def abstract_step(
    config: Config, mesh: Mesh, *, num_classes: int, num_train: int
) -> tuple[TrainStep, tuple[TrainState, Batch]]:
    """Returns the train step and the shapes it takes, to be compiled without data or devices.

    Args:
      config: all settings.
      mesh: of devices that need not exist, such as those of a topology description.
      num_classes: N.
      num_train: videos of the training split.

    Returns:
      The jitted step, and arguments for its `lower`.
    """
    network = models.create(config, num_classes, mesh.devices.flat[0].platform)
    step_fn, _ = make_step(config, network, StepCounts(config, num_train), mesh)
    state = evaluate.abstract_state(config, network, num_classes, num_train, mesh)
    split = sharding.split_batch(mesh)
    sharding.local_batch_size(config.data.batch_size, mesh, "config.data.batch_size")

    def array(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((config.data.batch_size, *shape), dtype, sharding=split)

    size = config.data.image_size
    batch = Batch(
        frames=array((config.data.frames, size, size, 3), jnp.uint8),
        label=array((), jnp.int32),
        index=array((), jnp.int32),
        mask=array((), jnp.bool_),
    )
    return step_fn, (state, batch)


def _start(
    config: Config,
    network: models.Network,
    checkpoints: Checkpoints,
    num_classes: int,
    num_train: int,
    mesh: Mesh,
) -> TrainState:
    """Returns the state of the newest checkpoint, or a new state.

    config.init_from is read for a new state only.
    """
    if (step := checkpoints.latest()) is not None:
        log.info("resuming from step %d of %s", step, checkpoints.directory)
        shapes = evaluate.abstract_state(config, network, num_classes, num_train, mesh)
        return checkpoints.restore(step, shapes)

    def create(seed: jax.Array) -> TrainState:
        return evaluate.new_state(config, network, num_classes, num_train, seed)

    state = jax.jit(create, out_shardings=sharding.replicated(mesh))(np.uint32(config.seed))
    return _initialise(state, config.init_from, mesh) if config.init_from else state


def _initialise(state: TrainState, init_from: str, mesh: Mesh) -> TrainState:
    """Returns a new state with weights from a file or another run, and says what they are."""
    if epath.Path(init_from).is_dir():
        step, theirs = last_variables(init_from)
        name = f"{init_from}, step {step}"
        variables, report = pretrained.adopt(theirs, state.variables, name)
    else:
        variables, report = pretrained.load(init_from, state.variables)
    for line in report.lines():
        log.info("%s", line)
    whole = sharding.replicated(mesh)
    variables = jax.device_put(variables, whole)
    teacher = None
    if state.teacher is not None:  # begins as the student, in memory of its own
        teacher = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=whole)(variables)
    return dataclasses.replace(state, teacher=teacher, **variables)
