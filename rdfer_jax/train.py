"""The training loop: data, steps, evaluation, checkpoints, and what it says meanwhile."""

import json
import logging
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from etils import epath
from jax.sharding import Mesh

from rdfer_jax import config as config_lib
from rdfer_jax import evaluate, metrics, models, optim, plots, sharding
from rdfer_jax import state as state_lib
from rdfer_jax.checkpoint import BEST_METRIC, Checkpoints
from rdfer_jax.config import Config
from rdfer_jax.metrics import TrainMetrics
from rdfer_jax.pipeline import loader, source
from rdfer_jax.pipeline.feed import close, feed
from rdfer_jax.state import TrainState
from rdfer_jax.steps import TrainStep, make_train_step
from rdfer_jax.types import Batch
from rdfer_jax.writers import MetricWriter, Progress, describe, read_metrics

log = logging.getLogger(__name__)

#: Steps that config.profile traces: past compilation and warm-up.
PROFILE_STEPS = range(10, 15)

#: Settings that may change between the parts of a resumed run: they do not change what is learned.
FREE_TO_CHANGE = (
    "profile", "compile_cache", "build", "data.dir", "data.num_workers", "data.num_threads",
    "data.prefetch", "data.eval_batch_size", "data.test_split", "train.eval_every", "train.save_every",
    "train.log_every", "train.keep", "train.tensorboard", "model.remat",
)  # fmt: skip


class NonFiniteLossError(FloatingPointError):
    """The loss became infinite or not a number."""


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
      ValueError: the settings do not fit the data, the devices, or the run to be resumed.
    """
    workdir = epath.Path(workdir)
    mesh = sharding.make_mesh()
    directory = source.find(config.data)
    train_split, validation = source.hold_out(
        source.Split(directory, config.data.train_split), config.data.validation_percent
    )
    test_split = source.Split(directory, config.data.test_split)
    num_classes = len(train_split.classes)
    network = models.create(config, num_classes, mesh.devices.flat[0].platform)
    lengths = Lengths(config, len(train_split))
    step_fn, learning_rate = make_step(config, network, lengths, mesh)
    batches = loader.train_loader(
        train_split,
        config.data,
        seed=config.seed,
        local_batch_size=sharding.local_batch_size(
            config.data.batch_size, mesh, "config.data.batch_size"
        ),
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    iterator = iter(feed(batches, mesh, config.data.prefetch))
    first = jax.process_index() == 0
    _keep_config(config, workdir, write=first)
    with Checkpoints(workdir, keep=config.train.keep) as checkpoints:
        state = _start(config, network, checkpoints, iterator, num_classes, len(train_split), mesh)
        start = int(state.step)
        log.info(
            "%s: %d videos to train on, %d to validate, %d to test; %d classes; steps %d to %d on %d %s",
            directory, len(train_split), len(validation or ()), len(test_split), num_classes, start,
            lengths.total, mesh.size, mesh.devices.flat[0].device_kind,
        )  # fmt: skip
        if first and start == 0:
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
            watched = "validation" if validation else "test"
            loop = _Loop(
                lengths=lengths,
                step_fn=step_fn,
                checkpoints=checkpoints,
                evaluator=evaluate.Evaluator(config, network, validation or test_split, mesh),
                watched=watched,
                news=_News(writer, progress, learning_rate, lengths, config.data.batch_size),
                profile=workdir / "profile" if config.profile and first else None,
            )
            state = loop.run(state, iterator)
        close(iterator)
        results = evaluate.report(
            config, network, state, test_split, train_split, mesh, workdir, "last"
        )
        if validation is not None:
            results["best_on_validation"] = _evaluate_best(
                checkpoints, state, evaluate.Evaluator(config, network, test_split, mesh)
            )
    if first:
        evaluate.write_results(workdir, results)
        (workdir / "training_curves.png").write_bytes(plots.training_curves(read_metrics(workdir)))
    return results


class Lengths:
    """Durations of the settings as steps.

    Attributes:
      epoch: steps that see every training video once, rounded.
      total: steps of the run.
      evaluate, save, log: steps between two of them.
    """

    def __init__(self, config: Config, num_train: int):
        """Turns the durations into steps."""
        self.epoch = max(1, round(num_train / config.data.batch_size))
        self.total = config_lib.steps(config.train.duration, steps_per_epoch=self.epoch)

        def every(duration: str) -> int:
            return config_lib.steps(duration, steps_per_epoch=self.epoch, total_steps=self.total)

        self.evaluate = every(config.train.eval_every)
        self.save = every(config.train.save_every)
        self.log = every(config.train.log_every)


def make_step(
    config: Config, network: models.Network, lengths: Lengths, mesh: Mesh
) -> tuple[TrainStep, optim.optax.Schedule]:
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
    step_fn, _ = make_step(config, network, Lengths(config, num_train), mesh)
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


class _Loop:
    """Steps, with evaluations and checkpoints in between."""

    def __init__(self, *, lengths, step_fn, checkpoints, evaluator, watched, news, profile):
        self.lengths, self.step_fn, self.checkpoints = lengths, step_fn, checkpoints
        self.evaluator, self.watched, self.news = evaluator, watched, news
        self.profile = profile

    def run(self, state: TrainState, iterator: Any) -> TrainState:
        """Runs from the state's step to the end."""
        for step in range(int(state.step), self.lengths.total):
            self._trace(step)
            batch, _ = next(iterator)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, step_metrics = self.step_fn(state, batch)
            self._check(self.news.add(step + 1, step_metrics))
            # Before the next batch is taken, so that the stored position in the data is right.
            self._between(step + 1, state, iterator)
        return state

    def _between(self, done: int, state: TrainState, iterator: Any) -> None:
        last = done == self.lengths.total
        scores = None
        evaluates = last or done % self.lengths.evaluate == 0
        if evaluates or done % self.lengths.save == 0:
            self._check(self.news.flush())
        if evaluates:
            scores = self._evaluate(done, state)
        # An evaluation on the validation part is saved with its checkpoint: it may be the best.
        if last or done % self.lengths.save == 0 or (scores and BEST_METRIC in scores):
            with self.news.pause():
                # Only what chooses the best checkpoint goes with it, never a score on the test split.
                kept = scores if scores and BEST_METRIC in scores else None
                self.checkpoints.save(done, state, iterator, kept)

    def _evaluate(self, done: int, state: TrainState) -> dict[str, float]:
        with self.news.pause():
            predictions = self.evaluator(state)
            found = evaluate.summary(predictions)
            scores = {f"{self.watched}_{name}": found[name] for name in ("war", "uar")}
        self.news.write(
            done, scores | {f"{self.watched}_agreement": predictions["agreement"].mean()}
        )
        log.info(
            "step %d of %d, epoch %.1f: %s WAR %.4f, UAR %.4f; %s",
            done, self.lengths.total, done / self.lengths.epoch, self.watched, found["war"],
            found["uar"], describe(self.news.newest),
        )  # fmt: skip
        return scores

    def _check(self, newest: tuple[int, dict[str, float]] | None) -> None:
        """Stops on a loss that is not a finite number."""
        if newest is None or np.isfinite(newest[1]["loss"]):
            return
        known = self.checkpoints.latest()
        good = (
            "there is no checkpoint yet"
            if known is None
            else f"the last good checkpoint is {known}"
        )
        raise NonFiniteLossError(
            f"the loss of step {newest[0]} is {newest[1]['loss']}; {good} in "
            f"{self.checkpoints.directory}. Lower config.optim.learning_rate or "
            "config.optim.clip_norm, or set config.model.dtype to float32"
        )

    def _trace(self, step: int) -> None:
        if self.profile is None:
            return
        if step == PROFILE_STEPS.start:
            jax.profiler.start_trace(str(self.profile))
        elif step == PROFILE_STEPS.stop:
            jax.profiler.stop_trace()
            log.info("trace of steps %s in %s", list(PROFILE_STEPS), self.profile)
            self.profile = None


class _News:
    """Reads each step's metrics one step late, so that the devices never wait for the host."""

    def __init__(self, writer, progress, learning_rate, lengths: Lengths, batch_size: int):
        self._writer, self._progress = writer, progress
        self._learning_rate, self._lengths, self._batch_size = learning_rate, lengths, batch_size
        self._pending: tuple[int, TrainMetrics] | None = None
        self._window: TrainMetrics | None = None
        self._clock, self._steps = time.monotonic(), 0
        self.newest: dict[str, float] = {}

    def add(self, step: int, step_metrics: TrainMetrics) -> tuple[int, dict[str, float]] | None:
        """Takes a step's metrics, still being computed; returns those of the step before."""
        before, self._pending = self._pending, (step, step_metrics)
        return self._read(before)

    def flush(self) -> tuple[int, dict[str, float]] | None:
        """Waits for the newest step and returns its metrics."""
        before, self._pending = self._pending, None
        return self._read(before)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes scalars of a step."""
        self._writer.write_scalars(step, scalars)

    def pause(self) -> "_Pause":
        """Leaves what happens in a with block out of the steps per second."""
        return _Pause(self)

    def skip(self, seconds: float) -> None:
        """Leaves seconds out of the steps per second."""
        self._clock += seconds

    def _read(self, pending: tuple[int, TrainMetrics] | None):
        if pending is None:
            return None
        step, on_device = pending
        on_host = jax.device_get(on_device)
        self._window = on_host if self._window is None else self._window.merge(on_host)
        self._steps += 1
        values = _floats(on_host)
        self.newest = values
        self._progress.update(step, values)
        if step % self._lengths.log == 0 or step == self._lengths.total:
            rate = self._steps / max(time.monotonic() - self._clock, 1e-9)
            self._writer.write_scalars(
                step,
                _floats(self._window)
                | {
                    "learning_rate": float(self._learning_rate(step - 1)),
                    "epoch": step / self._lengths.epoch,
                    "steps_per_second": rate,
                    "videos_per_second": rate * self._batch_size,
                },
            )
            self._window, self._clock, self._steps = None, time.monotonic(), 0
        return step, values


class _Pause:
    def __init__(self, news: _News):
        self._news = news

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._news.skip(time.monotonic() - self._start)


def _floats(values: metrics.TrainMetrics) -> dict[str, float]:
    return {name: float(value) for name, value in values.compute().items()}


def _start(
    config: Config,
    network: models.Network,
    checkpoints: Checkpoints,
    iterator: Any,
    num_classes: int,
    num_train: int,
    mesh: Mesh,
) -> TrainState:
    """Returns the state of the newest checkpoint, and moves the data there; or a new state."""
    if (step := checkpoints.latest()) is not None:
        log.info("resuming from step %d of %s", step, checkpoints.directory)
        shapes = evaluate.abstract_state(config, network, num_classes, num_train, mesh)
        return checkpoints.restore(step, shapes, iterator)
    optimizer = optim.create(config.optim, lambda step: 0.0)

    def create() -> TrainState:
        return state_lib.create(
            config, network, optimizer, num_classes=num_classes, num_train=num_train
        )

    return jax.jit(create, out_shardings=sharding.replicated(mesh))()


def _evaluate_best(
    checkpoints: Checkpoints, state: TrainState, evaluator: evaluate.Evaluator
) -> dict[str, Any]:
    """Evaluates the checkpoint that was best on the validation part, on the test split."""
    step = checkpoints.find("best")
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    found = evaluate.summary(evaluator(checkpoints.restore(step, shapes)))
    return {"checkpoint": "best", "step": step} | found


def _keep_config(config: Config, workdir: epath.Path, write: bool) -> None:
    """Writes config.json, or compares it with that of the run to be resumed.

    Raises:
      ValueError: a setting that changes what is learned differs.
    """
    path = workdir / "config.json"
    settings = json.loads(json.dumps(config_lib.to_dict(config)))
    if path.exists():
        old, new = _flat(json.loads(path.read_text())), _flat(settings)
        differ = [
            f"config.{name} = {old.get(name)!r}, now {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name) and not name.startswith(FREE_TO_CHANGE)
        ]
        if differ:
            raise ValueError(
                f"{workdir} holds a run with other settings:\n  "
                + "\n  ".join(differ)
                + "\nTake the old values, or another --workdir"
            )
    elif write:
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
