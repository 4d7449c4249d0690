"""Output of a run while it trains: metrics.jsonl, TensorBoard files, and a progress bar.

Only one process of a run may write.
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

from rdfer_jax import atomic, paths

T = TypeVar("T")

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"

_RESERVED = ("step", "time")


class MetricWriter:
    """Writes scalars to `workdir/metrics.jsonl`, and scalars and images to `workdir/tensorboard`.

    A line of metrics.jsonl is a JSON object: "step", "time" (seconds since 1970), then the
    scalars by name. NaN and infinity, which JSON does not have, are written as null. A step may
    have several lines, one per call; `read_metrics` merges them.

    Each line is on disk when `write_scalars` returns, so a killed run loses at most the line it
    was writing. Object stores (gs://) cannot append to a file; there, `flush` and `close` write the
    whole file again.

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
          workdir: the run's folder, local or on an object store; created if missing.
          resume_step: the step that training resumes from. Lines of later steps, written after the
            last checkpoint, are dropped. None keeps all lines.
          tensorboard: also write TensorBoard files, if tensorboardX is installed.
          enabled: False for a writer that does nothing, for all processes but the first:
            `enabled=jax.process_index() == 0`.
        """
        self._enabled = enabled
        self._tensorboard: Any = None
        if not enabled:
            return
        workdir = epath.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / METRICS_FILE
        self._lines = _repaired_lines(self._path, resume_step)
        self._file = self._path.open("a") if paths.is_local(self._path) else None
        if tensorboard:
            self._tensorboard = _tensorboard_writer(workdir / "tensorboard")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes one line.

        Args:
          step: the training step of the scalars.
          scalars: Python numbers, NumPy scalars or JAX scalars, by name.

        Raises:
          ValueError: a value is not a scalar, or a name is "step" or "time".
        """
        if not self._enabled:
            return
        if taken := [name for name in _RESERVED if name in scalars]:
            raise ValueError(f"expected names other than {' and '.join(_RESERVED)}, got {taken}")
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
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images for TensorBoard; without TensorBoard files it does nothing.

        Args:
          step: the training step of the images.
          images: uint8 [H, W, 3], RGB, by name.

        Raises:
          ValueError: an image has another shape or dtype.
        """
        for name, image in images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"image '{name}': expected uint8 [H, W, 3], got {image.dtype} {image.shape}"
                )
        if self._tensorboard is not None:
            for name, image in images.items():
                self._tensorboard.add_image(name, image, step, dataformats="HWC")

    @property
    def shows_images(self) -> bool:
        """Whether `write_images` writes anything."""
        return self._tensorboard is not None

    def flush(self) -> None:
        """Makes what was written visible to other processes; TensorBoard files lag by a moment."""
        if not self._enabled:
            return
        if self._file is None:
            self._path.write_text("".join(self._lines))
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes the files. A second call does nothing."""
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
    """Reads metrics.jsonl of a run, which may still be running.

    Returns:
      One dict per step, in ascending order: "step", "time" and the scalars by name, merged from all
      lines of the step; the last value of a scalar counts. A scalar that was not finite is None.

    Raises:
      FileNotFoundError: the folder has no metrics.jsonl.
    """
    rows: dict[int, dict[str, Any]] = {}
    for line in (epath.Path(workdir) / METRICS_FILE).read_text().splitlines():
        if (row := _parse(line)) is not None:
            rows.setdefault(row["step"], {}).update(row)
    return [rows[step] for step in sorted(rows)]


class Progress:
    """A progress bar: steps, steps per second, remaining time, latest metrics.

    It writes to stderr if that is a terminal, and nothing if it is a file or a pipe. While the bar is
    open, log messages appear above it. Use it as a context manager, or call `close`.
    """

    def __init__(self, total_steps: int, *, start_step: int = 0, enabled: bool = True):
        """Shows the empty bar.

        Args:
          total_steps: the last step of the run.
          start_step: the step that training resumes from.
          enabled: False for a bar that writes nothing, for all processes but the first.
        """
        self._bar = tqdm.tqdm(
            total=total_steps,
            initial=start_step,
            desc="train",
            unit=" steps",
            dynamic_ncols=True,
            # None: enabled only if stderr is a terminal.
            disable=None if enabled else True,
        )
        self._above = contextlib.ExitStack()
        if not self._bar.disable:
            self._above.enter_context(logging_redirect_tqdm())

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Moves the bar to a step.

        Args:
          step: number of completed steps.
          metrics: latest metrics to show, see `format_metrics`; None keeps those shown.
        """
        if self._bar.disable:
            return
        if metrics is not None:
            self._bar.set_postfix_str(format_metrics(metrics), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Closes the bar, which stays visible."""
        self._bar.close()
        self._above.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Returns the main metrics in one short line.

    Example: `loss 1.234, agreement 0.81, clean/hard/noisy 61/27/12 %`.

    Args:
      metrics: values by name. Shows loss, accuracy, agreement, clean, hard and noisy, if present.
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
    """Converts a Python, NumPy or JAX scalar to a Python number."""
    array = np.asarray(value)
    if array.shape != ():
        raise ValueError(f"'{name}': expected a scalar, got shape {array.shape}")
    # float() also accepts bfloat16.
    return int(array) if array.dtype.kind in "biu" else float(array)


def _parse(line: str) -> dict[str, Any] | None:
    """Returns the row of a line, or None if the line is incomplete."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _repaired_lines(path: epath.Path, resume_step: int | None) -> list[str]:
    """Removes incomplete lines and those after `resume_step` from the file; returns the other lines."""
    if not path.exists():
        return []
    text = path.read_text()
    kept = []
    for line in text.splitlines():
        row = _parse(line)
        if row is None:
            log.warning("%s: dropped an incomplete line: %.80r", path, line)
        elif resume_step is None or row["step"] <= resume_step:
            kept.append(line + "\n")
    repaired = "".join(kept)
    if repaired != text:
        atomic.write_bytes(path, repaired.encode())
    return kept


def _tensorboard_writer(logdir: epath.Path) -> Any:
    """Returns a tensorboardX writer; None if this optional package is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        log.info("metrics are written to %s", logdir.parent / METRICS_FILE)
        return None
    import tensorboardX

    log.info("TensorBoard files are on: tensorboard --logdir %s", logdir)
    return tensorboardX.SummaryWriter(str(logdir))


def bar(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterable[T]:
    """Returns the items, with a progress bar over them if stderr is a terminal."""
    return tqdm.tqdm(
        items, desc=what, unit=unit, total=total, leave=False, disable=not sys.stderr.isatty()
    )
