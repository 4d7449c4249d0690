"""Where numbers of a run go while it runs: metrics.jsonl, TensorBoard, the progress bar.

Enters: a step and its named scalars or pictures. Leaves: lines in `workdir/metrics.jsonl`, event
files in `workdir/tensorboard`, a bar on the terminal. Only one process of a run may write.

TensorFlow, which clu's TensorBoard writer needs, is imported only when it is asked for and
installed; metrics.jsonl is always written.
"""

import contextlib
import importlib.util
import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

import numpy as np
import tqdm
from etils import epath
from tqdm.contrib.logging import logging_redirect_tqdm

T = TypeVar("T")

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"

_RESERVED = ("step", "time")


class MetricWriter:
    """Writes scalars to `workdir/metrics.jsonl`, and scalars and pictures to TensorBoard.

    A line of metrics.jsonl is a JSON object: "step", "time" (seconds since 1970), then the
    scalars by name. JSON has no NaN and no infinity: both are written as null. One step may have
    several lines, one for each call; `read_metrics` joins them.

    Each line is on disk when `write_scalars` returns, so a killed run loses at most the line it
    was writing. Object stores (gs://) cannot append to a file; there the file is written anew by
    `flush` and `close`.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        enabled: bool = True,
    ):
        """Opens the files, and repairs metrics.jsonl after a killed run.

        Args:
          workdir: the run's folder, local or on an object store; made when it is missing.
          resume_step: the step that the run goes on from. Lines of later steps, written by the
            killed run after its last checkpoint, are dropped. None keeps all lines.
          tensorboard: write event files when tensorboard and tensorflow are installed.
          enabled: False for a writer that does nothing, for the processes of a run that must not
            write: `enabled=jax.process_index() == 0`.
        """
        self._enabled = enabled
        self._tensorboard: Any = None
        if not enabled:
            return
        workdir = epath.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / METRICS_FILE
        self._lines = _repaired_lines(self._path, resume_step)
        self._file = None if _is_remote(self._path) else self._path.open("a")
        if tensorboard:
            self._tensorboard = _tensorboard_writer(workdir / "tensorboard")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes one line.

        Args:
          step: the train step that the scalars belong to.
          scalars: Python numbers, or NumPy or JAX scalars (which are waited for).

        Raises:
          ValueError: a value is no scalar, or a name is "step" or "time".
        """
        if not self._enabled:
            return
        if taken := [name for name in _RESERVED if name in scalars]:
            raise ValueError(f"{taken} cannot be names of scalars: each line has its own")
        values = {name: _plain(name, value) for name, value in scalars.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": int(step), "time": round(time.time(), 3)} | finite
        line = json.dumps(row, allow_nan=False) + "\n"
        if self._file is None:
            self._lines.append(line)
        else:
            self._file.write(line)
            self._file.flush()
        if self._tensorboard is not None:
            self._tensorboard.write_scalars(step, values)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Shows pictures in TensorBoard; without TensorBoard it does nothing.

        Args:
          step: the train step that the pictures belong to.
          images: uint8 [H, W, 3], RGB, by name.

        Raises:
          ValueError: a picture has another shape or type.
        """
        for name, image in images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"picture '{name}' must be uint8 [H, W, 3], got {image.dtype} {image.shape}"
                )
        if self._tensorboard is not None:
            self._tensorboard.write_images(step, images)

    @property
    def shows_images(self) -> bool:
        """Whether write_images has anywhere to show them."""
        return self._tensorboard is not None

    def flush(self) -> None:
        """Puts everything written so far where others can read it."""
        if not self._enabled:
            return
        if self._file is None:
            self._path.write_text("".join(self._lines))
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes the files; closing again does nothing."""
        if not self._enabled:
            return
        self.flush()
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._enabled, self._tensorboard = False, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Reads metrics.jsonl of a run, also of one that is still writing it.

    Args:
      workdir: the run's folder.

    Returns:
      One dict for each step, in rising order: "step", "time" and the scalars by name, joined
      from all lines of the step, where the last line to name a scalar counts. A scalar that was
      not finite is None.

    Raises:
      FileNotFoundError: the folder holds no metrics.jsonl.
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in (epath.Path(workdir) / METRICS_FILE).read_text().splitlines():
        if (row := _parse(line)) is not None:
            rows.setdefault(row["step"], {}).update(row)
    return [rows[step] for step in sorted(rows)]


class Progress:
    """A progress bar: steps, steps per second, time left, the newest metrics.

    It draws on stderr when that is a terminal, and is silent when it is a file or a pipe. While it
    is open, lines that go through logging appear above it.
    Use it as a context manager, or call `close`.
    """

    def __init__(self, total_steps: int, *, start_step: int = 0, enabled: bool = True):
        """Draws the empty bar.

        Args:
          total_steps: the step at which the run ends.
          start_step: the step at which it goes on, after a resume.
          enabled: False for a bar that stays silent on a terminal too, for the processes of a
            run other than the first.
        """
        self._bar = tqdm.tqdm(
            total=total_steps,
            initial=start_step,
            desc="train",
            unit=" steps",
            dynamic_ncols=True,
            # None: silent unless stderr is a terminal.
            disable=None if enabled else True,
        )
        self._above = contextlib.ExitStack()
        if not self._bar.disable:
            self._above.enter_context(logging_redirect_tqdm())

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Moves the bar to a step.

        Args:
          step: the number of steps done.
          metrics: the newest means, of which loss, agreement and the shares clean, hard and
            noisy are shown; None leaves the shown ones as they are.
        """
        if self._bar.disable:
            return
        if metrics is not None:
            self._bar.set_postfix_str(describe(metrics), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Ends the bar, which stays on the terminal."""
        self._bar.close()
        self._above.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe(metrics: Mapping[str, Any]) -> str:
    """Returns one short line of the train step's means, whichever of them are there.

    Example: `loss 1.234, agreement 0.81, clean/hard/noisy 61/27/12 %`.

    Args:
      metrics: means by name; loss, accuracy, agreement, clean, hard and noisy are used.
    """
    parts = []
    for name, form in (("loss", ".3f"), ("accuracy", ".2f"), ("agreement", ".2f")):
        if name in metrics:
            parts.append(f"{name} {float(metrics[name]):{form}}")
    kinds = ("clean", "hard", "noisy")
    if all(name in metrics for name in kinds):
        shares = "/".join(f"{100 * float(metrics[name]):.0f}" for name in kinds)
        parts.append(f"{'/'.join(kinds)} {shares} %")
    return ", ".join(parts)


def _plain(name: str, value: Any) -> float | int:
    """Turns a scalar of any library into a Python number."""
    array = np.asarray(value)
    if array.shape != ():
        raise ValueError(f"'{name}' must be a scalar, got shape {array.shape}")
    # bool and the integers stay whole; float() also takes bfloat16.
    return int(array) if array.dtype.kind in "biu" else float(array)


def _parse(line: str) -> dict[str, Any] | None:
    """Returns the row of a line, or None where the line is no whole row."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _repaired_lines(path: epath.Path, resume_step: int | None) -> list[str]:
    """Drops half-written lines and those after `resume_step`; returns the lines that stay."""
    if not path.exists():
        return []
    text = path.read_text()
    kept = []
    for line in text.splitlines():
        row = _parse(line)
        if row is None:
            log.warning("%s: dropped a line that is no whole row: %.80r", path, line)
        elif resume_step is None or row["step"] <= resume_step:
            kept.append(line + "\n")
    repaired = "".join(kept)
    if repaired != text:
        # Written beside and moved, so that a kill at this moment loses nothing.
        beside = path.parent / f"{path.name}.tmp"
        beside.write_text(repaired)
        beside.replace(path)
    return kept


def _is_remote(path: epath.Path) -> bool:
    return "://" in str(path)


def _tensorboard_writer(logdir: epath.Path) -> Any:
    """Returns clu's TensorBoard writer, or None, and says which, when it is not installed."""
    missing = [name for name in ("tensorflow", "tensorboard") if not _is_installed(name)]
    if missing:
        log.info(
            "TensorBoard is off: %s not installed (pip install 'rdfer-jax[tensorboard]'). "
            "Metrics go to %s.",
            " and ".join(missing),
            METRICS_FILE,
        )
        return None
    import tensorflow as tf
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the accelerator's memory.
    log.info("TensorBoard is on: tensorboard --logdir %s", logdir)
    return metric_writers.SummaryWriter(str(logdir))


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def bar(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterable[T]:
    """The items, with a progress bar on a terminal while they are taken; silent elsewhere."""
    return tqdm.tqdm(
        items, desc=what, unit=unit, total=total, leave=False, disable=not sys.stderr.isatty()
    )
