"""Steps, with evaluations and checkpoints in between, and what is said of them meanwhile.

The metrics of a step are read while the next one runs, so that the devices never wait for the host.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import plots
from rdfer_jax.config import Config
from rdfer_jax.metrics import TrainMetrics
from rdfer_jax.state import TrainState
from rdfer_jax.steps import TrainStep
from rdfer_jax.training import preemption
from rdfer_jax.training.checkpoint import BEST_METRIC, Checkpoints
from rdfer_jax.training.evaluate import summary
from rdfer_jax.training.predictions import Predictions
from rdfer_jax.training.preemption import PreemptedError
from rdfer_jax.training.run_dir import write_json
from rdfer_jax.training.writers import MetricWriter, Progress, format_metrics

log = logging.getLogger(__name__)

#: Steps of a process that config.profile traces: past compilation and warm-up.
PROFILE_STEPS = range(10, 15)


class NonFiniteLossError(FloatingPointError):
    """The loss became infinite or not a number."""


class StepCounts:
    """Durations of the settings as steps.

    Attributes:
      epoch: steps that see every training video once, rounded.
      total: steps of the run.
      evaluate, save, log: steps between two of them.
      record: likewise, or 0 for never.
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
        self.record = every(config.train.record_every) if config.train.record_every else 0


class Loop:
    """Steps, with evaluations and checkpoints in between."""

    def __init__(
        self,
        *,
        lengths: StepCounts,
        step_fn: TrainStep,
        checkpoints: Checkpoints,
        evaluate: Callable[[TrainState], Predictions],
        eval_split: str,
        record: Callable[[int, TrainState], None],
        news: "MetricLogger",
        profile: epath.Path | None = None,
    ):
        """Takes what a run needs.

        Args:
          lengths: of the run and its parts.
          step_fn: the jitted train step.
          checkpoints: where the state is kept.
          evaluate: predicts the eval_split part of the data.
          eval_split: "validation", whose score chooses the best checkpoint, or "test".
          record: keeps what is predicted of the training split after some epochs.
          news: reads and tells the metrics.
          profile: folder for a trace of PROFILE_STEPS, if one is wanted.
        """
        self.lengths, self.step_fn, self.checkpoints = lengths, step_fn, checkpoints
        self.evaluate, self.eval_split, self.news = evaluate, eval_split, news
        self.record = record
        self._profile, self._tracing = profile, False
        self._batches: dict[int, dict[str, Any] | None] = {}  # metrics are read a step late

    def run(self, state: TrainState, iterator: Any) -> TrainState:
        """Runs from the state's step to the end; the iterator has to begin with that step's batch.

        Raises:
          NonFiniteLossError: the loss is no finite number any more.
          PreemptedError: the process was asked to end; the state is saved.
        """
        start = int(state.step)
        with preemption.StopSignals() as signals:
            for step in range(start, self.lengths.total):
                self._trace(step - start)
                with self.news.waiting():
                    batch, known = next(iterator)
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, step_metrics = self.step_fn(state, batch)
                self._batches = {step + 1: known} | {step: self._batches.get(step)}
                self._check(self.news.add(step + 1, step_metrics))
                self._between(step + 1, state)
                if signals.stop_requested(step + 1) and step + 1 < self.lengths.total:
                    self._stop(step + 1, state, signals.received)
        self._end_trace()
        return state

    def _stop(self, done: int, state: TrainState, received: signal.Signals | None) -> None:
        """Saves and ends training."""
        self._check(self.news.flush())
        self.checkpoints.save(done, state, None)
        self._end_trace()
        name = "a preemption notice" if received is None else received.name
        raise PreemptedError(
            f"stopped by {name} after step {done} of {self.lengths.total}, which is saved in "
            f"{self.checkpoints.directory}; the same command goes on from there",
            130 if received is signal.SIGINT else 0,
        )

    def _between(self, done: int, state: TrainState) -> None:
        last = done == self.lengths.total
        scores = None
        evaluates = last or done % self.lengths.evaluate == 0
        if evaluates or done % self.lengths.save == 0:
            self._check(self.news.flush())
        if evaluates:
            scores = self._evaluate(done, state)
        if self.lengths.record and done % self.lengths.record == 0:
            with self.news.pause():
                self.record(round(done / self.lengths.epoch), state)
        # An evaluation on the validation part is saved with its checkpoint: it may be the best. A
        # score on the test split goes with none.
        kept = scores if scores and BEST_METRIC in scores else None
        if last or kept or done % self.lengths.save == 0:
            with self.news.pause():
                self.checkpoints.save(done, state, kept)

    def _evaluate(self, done: int, state: TrainState) -> dict[str, float]:
        with self.news.pause():
            predictions = self.evaluate(state)
            found = summary(predictions)
            scores = {f"{self.eval_split}_{name}": found[name] for name in ("war", "uar")}
        self.news.write(
            done, scores | {f"{self.eval_split}_agreement": predictions["agreement"].mean()}
        )
        self.news.show_confusion(done, self.eval_split, found, predictions.classes)
        log.info(
            "step %d of %d, epoch %.1f: %s WAR %.4f, UAR %.4f; %s",
            done, self.lengths.total, done / self.lengths.epoch, self.eval_split, found["war"],
            found["uar"], format_metrics(self.news.newest),
        )  # fmt: skip
        return scores

    def _check(self, newest: tuple[int, dict[str, float]] | None) -> None:
        """Stops on a loss that is not a finite number, and leaves what is known of the step."""
        if newest is None or np.isfinite(newest[1]["loss"]):
            return
        dump = self._dump(*newest)
        known = self.checkpoints.latest()
        good = (
            "there is no checkpoint yet"
            if known is None
            else f"the last good checkpoint is {known}"
        )
        raise NonFiniteLossError(
            f"the loss of step {newest[0]} is {newest[1]['loss']}; {good} in "
            f"{self.checkpoints.directory}; the step's statistics and its clips are in {dump}. Lower "
            "config.optim.learning_rate or config.optim.clip_norm, or set config.model.dtype to float32"
        )

    def _dump(self, step: int, values: dict[str, float]) -> epath.Path:
        """Writes a step's statistics, numbers that are not finite as texts, and this process's clips."""
        known = self._batches.get(step) or {}
        ids, labels = (np.asarray(known.get(key, ())).tolist() for key in ("clip_id", "label"))
        number = f"_process{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self.checkpoints.directory.parent / f"not_finite_step{step}{number}.json"
        statistics = {
            name: value if np.isfinite(value) else str(value) for name, value in values.items()
        }
        write_json(path, {"step": step, "statistics": statistics, "clip_id": ids, "label": labels})
        return path

    def _trace(self, step: int) -> None:
        """Starts and ends the trace, counting steps from the start of this process."""
        if self._profile is None:
            return
        if step == PROFILE_STEPS.start:
            jax.profiler.start_trace(str(self._profile))
            self._tracing = True
        elif step == PROFILE_STEPS.stop:
            self._end_trace()

    def _end_trace(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            log.info("trace of a few steps in %s", self._profile)


class MetricLogger:
    """Reads each step's metrics one step late, so that the devices never wait for the host.

    input_wait is the share of the time in which the loop waited for the next batch. The devices had at
    most that long nothing to do: a step may still have been running.
    """

    def __init__(
        self,
        writer: MetricWriter,
        progress: Progress,
        learning_rate: optax.Schedule,
        lengths: StepCounts,
        batch_size: int,
    ):
        """Takes where to tell, and what is told beside the step's own metrics."""
        self._writer, self._progress = writer, progress
        self._learning_rate, self._lengths, self._batch_size = learning_rate, lengths, batch_size
        self._pending: tuple[int, TrainMetrics] | None = None
        self._window: TrainMetrics | None = None
        self._clock, self._steps, self._waited = time.monotonic(), 0, 0.0
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

    def show_confusion(
        self, step: int, name: str, found: dict[str, Any], classes: tuple[str, ...]
    ) -> None:
        """Shows a confusion matrix in TensorBoard, where that is on."""
        if self._writer.shows_images:
            picture = plots.confusion_matrix_figure(
                np.array(found["confusion_matrix"]), classes, f"{name}, step {step}"
            )
            self._writer.write_images(step, {f"{name}_confusion": plots.to_rgb(picture)})

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves what happens in a with block out of the steps per second."""
        start = time.monotonic()
        yield
        self._clock += time.monotonic() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts what happens in a with block as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

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
            taken = max(time.monotonic() - self._clock, 1e-9)
            rate = self._steps / taken
            self._writer.write_scalars(
                step,
                _floats(self._window)
                | {
                    "learning_rate": float(self._learning_rate(step - 1)),
                    "epoch": step / self._lengths.epoch,
                    "steps_per_second": rate,
                    "videos_per_second": rate * self._batch_size,
                    "input_wait": min(self._waited / taken, 1.0),
                },
            )
            self._window, self._clock, self._steps = None, time.monotonic(), 0
            self._waited = 0.0
        return step, values


def _floats(values: TrainMetrics) -> dict[str, float]:
    return {name: float(value) for name, value in values.compute().items()}
