"""The training loop: steps, evaluation, checkpoints, logging.

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

from rdfer_jax import plots
from rdfer_jax.metrics import StepMetrics
from rdfer_jax.state import TrainState
from rdfer_jax.steps import TrainStep
from rdfer_jax.training import preemption
from rdfer_jax.training.checkpoint import BEST_METRICS, Checkpoints
from rdfer_jax.training.evaluate import summary
from rdfer_jax.training.predictions import Predictions
from rdfer_jax.training.preemption import PreemptedError
from rdfer_jax.training.run_dir import write_json
from rdfer_jax.training.setup import StepCounts
from rdfer_jax.training.writers import MetricWriter, Progress, format_metrics

log = logging.getLogger(__name__)

#: Steps of a process that config.profile traces, after compilation and warm-up.
PROFILE_STEPS = range(10, 15)


class NonFiniteLossError(FloatingPointError):
    """The loss became infinite or NaN."""


class Loop:
    """Runs training steps, and evaluations and checkpoints between them."""

    def __init__(
        self,
        *,
        counts: StepCounts,
        step_fn: TrainStep,
        checkpoints: Checkpoints,
        evaluate: Callable[[TrainState], Predictions] | None,
        eval_split: str,
        record: Callable[[int, TrainState], None] | None,
        logger: "MetricLogger",
        profile: epath.Path | None = None,
    ):
        """Takes what a run needs.

        Args:
          counts: of the steps of the run and between evaluations, checkpoints, rows of metrics.
          step_fn: the jitted train step.
          checkpoints: where the state is saved.
          evaluate: predicts eval_split; None for no evaluation.
          eval_split: "validation", whose score chooses the best checkpoint, or "test".
          record: saves the predictions for the training split, given the epoch and the state; None if
            counts.record is 0.
          logger: reads and writes the metrics.
          profile: folder for a trace of PROFILE_STEPS; None for no trace.
        """
        self.counts, self.step_fn, self.checkpoints = counts, step_fn, checkpoints
        self.evaluate, self.eval_split, self.logger = evaluate, eval_split, logger
        self.record = record
        self._profile, self._tracing = profile, False
        # What the host knows of the last two batches: metrics are read one step late.
        self._batches: dict[int, dict[str, Any] | None] = {}

    def run(self, state: TrainState, iterator: Any) -> TrainState:
        """Runs from the step of the state to the end; the iterator must begin with that step's batch.

        Raises:
          NonFiniteLossError: the loss is infinite or NaN.
          PreemptedError: the process was asked to stop; the state is saved.
        """
        start = int(state.step)
        with preemption.StopSignals() as signals:
            for step in range(start, self.counts.total):
                self._trace(step - start)
                with self.logger.waiting():
                    batch, known = next(iterator)
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, step_metrics = self.step_fn(state, batch)
                self._batches = {step + 1: known} | {step: self._batches.get(step)}
                self._check_finite(self.logger.add(step + 1, step_metrics))
                self._evaluate_and_save(step + 1, state)
                if signals.stop_requested(step + 1) and step + 1 < self.counts.total:
                    self._stop(step + 1, state, signals.received)
        self._end_trace()
        return state

    def _stop(self, done: int, state: TrainState, received: signal.Signals | None) -> None:
        """Saves the state and raises PreemptedError."""
        self._check_finite(self.logger.flush())
        self.checkpoints.save(done, state, None)
        self._end_trace()
        name = "a preemption notice" if received is None else received.name
        raise PreemptedError(
            f"stopped by {name} after step {done} of {self.counts.total}. The state is saved in "
            f"{self.checkpoints.directory}; run the same command to resume",
            130 if received is signal.SIGINT else 0,
        )

    def _evaluate_and_save(self, done: int, state: TrainState) -> None:
        """Evaluates, records and saves the state if it is time to, or if the last step is done."""
        is_last = done == self.counts.total
        evaluate = self.evaluate if is_last or done % self.counts.evaluate == 0 else None
        scores = None
        if evaluate or is_last or done % self.counts.save == 0:
            self._check_finite(self.logger.flush())
        if evaluate:
            with self.logger.pause():
                predictions = evaluate(state)
            scores = self._score(done, predictions)
        if self.record and self.counts.record and done % self.counts.record == 0:
            with self.logger.pause():
                self.record(round(done / self.counts.epoch), state)
        # A state with a validation score is always saved, as it may be the best one. A score on the test
        # split must not choose a checkpoint.
        kept = scores if scores and set(BEST_METRICS) <= scores.keys() else None
        if is_last or kept or done % self.counts.save == 0:
            with self.logger.pause():
                self.checkpoints.save(done, state, kept)
            if self.evaluate is None:
                self._say(done)

    def _score(self, done: int, predictions: Predictions) -> dict[str, float]:
        """Logs the scores of predictions; returns WAR and UAR by the name of their metric."""
        with self.logger.pause():
            results = summary(predictions)
            scores = {f"{self.eval_split}_{name}": results[name] for name in ("war", "uar")}
        agreement = {f"{self.eval_split}_agreement": predictions["agreement"].mean()}
        self.logger.write(done, scores | agreement)
        self.logger.show_confusion(done, self.eval_split, results, predictions.classes)
        self._say(done, f"{self.eval_split} WAR {results['war']:.4f}, UAR {results['uar']:.4f}; ")
        return scores

    def _say(self, done: int, scores: str = "") -> None:
        """Logs how far training is, and the newest metrics."""
        log.info(
            "step %d of %d, epoch %.1f: %s%s",
            done, self.counts.total, done / self.counts.epoch, scores,
            format_metrics(self.logger.newest),
        )  # fmt: skip

    def _check_finite(self, newest: tuple[int, dict[str, float]] | None) -> None:
        """Raises NonFiniteLossError for a loss that is not finite, after writing the step's statistics."""
        if newest is None or np.isfinite(newest[1]["loss"]):
            return
        dump = self._dump(*newest)
        latest = self.checkpoints.latest()
        folder = self.checkpoints.directory
        good = f"The last good checkpoint in {folder} is {latest}"
        if latest is None:
            good = f"There is no checkpoint yet in {folder}"
        raise NonFiniteLossError(
            f"the loss of step {newest[0]} is {newest[1]['loss']}. {good}. The step's statistics and clips "
            f"are in {dump}. Lower "
            "config.optim.learning_rate or config.optim.clip_norm, or set config.model.dtype to float32"
        )

    def _dump(self, step: int, values: dict[str, float]) -> epath.Path:
        """Writes the statistics of a step, non-finite numbers as text, and this process's clips."""
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
        """Starts and ends the profiler trace; steps count from the start of this process."""
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
            log.info("the profiler trace is in %s", self._profile)


class MetricLogger:
    """Reads the metrics of each step one step late and writes their means.

    The metric input_wait is the share of time in which the loop waited for the next batch. It is an upper
    bound of the devices' idle time, since a step may still have been running.

    Attributes:
      newest: metrics of the newest step that was read.
    """

    def __init__(
        self,
        writer: MetricWriter,
        progress: Progress,
        learning_rate: optax.Schedule,
        counts: StepCounts,
        batch_size: int,
    ):
        """Takes the outputs, and what is written besides the metrics of a step.

        Args:
          writer: writes scalars and images.
          progress: shows the newest metrics.
          learning_rate: as a function of the step.
          counts: says when to write.
          batch_size: videos in a step, over all processes.
        """
        self._writer, self._progress = writer, progress
        self._learning_rate, self._counts, self._batch_size = learning_rate, counts, batch_size
        self._pending: tuple[int, StepMetrics] | None = None
        self._window: StepMetrics | None = None
        self._clock, self._steps, self._waited = time.monotonic(), 0, 0.0
        self.newest: dict[str, float] = {}

    def add(self, step: int, step_metrics: StepMetrics) -> tuple[int, dict[str, float]] | None:
        """Takes the metrics of a step, which may still be running; returns those of the previous step."""
        previous, self._pending = self._pending, (step, step_metrics)
        return self._read(previous)

    def flush(self) -> tuple[int, dict[str, float]] | None:
        """Waits for the newest step and returns its metrics."""
        previous, self._pending = self._pending, None
        return self._read(previous)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes scalars of a step."""
        self._writer.write_scalars(step, scalars)

    def show_confusion(
        self, step: int, name: str, results: dict[str, Any], classes: tuple[str, ...]
    ) -> None:
        """Writes a confusion matrix to TensorBoard, if that is enabled."""
        if self._writer.shows_images:
            picture = plots.confusion_matrix_figure(
                np.array(results["confusion_matrix"]), classes, f"{name}, step {step}"
            )
            self._writer.write_images(step, {f"{name}_confusion": plots.to_rgb(picture)})

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time of a with block from the steps per second."""
        start = time.monotonic()
        yield
        self._clock += time.monotonic() - start

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of a with block as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def _read(self, pending: tuple[int, StepMetrics] | None) -> tuple[int, dict[str, float]] | None:
        """Waits for the metrics of a step, shows them and, if it is time to, writes the means."""
        if pending is None:
            return None
        step, on_device = pending
        on_host = jax.device_get(on_device)
        self._window = on_host if self._window is None else self._window.merge(on_host)
        self._steps += 1
        self.newest = values = _floats(on_host)
        self._progress.update(step, values)
        if step % self._counts.log == 0 or step == self._counts.total:
            self._write_means(step, _floats(self._window))
            self._window, self._clock, self._steps = None, time.monotonic(), 0
            self._waited = 0.0
        return step, values

    def _write_means(self, step: int, means: dict[str, float]) -> None:
        taken = max(time.monotonic() - self._clock, 1e-9)
        rate = self._steps / taken
        speed = {
            "learning_rate": float(self._learning_rate(step - 1)),
            "epoch": step / self._counts.epoch,
            "steps_per_second": rate,
            "videos_per_second": rate * self._batch_size,
            "input_wait": min(self._waited / taken, 1.0),
        }
        self._writer.write_scalars(step, means | speed)


def _floats(values: StepMetrics) -> dict[str, float]:
    return {name: float(value) for name, value in values.compute().items()}
