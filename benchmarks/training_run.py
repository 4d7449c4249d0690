"""A real training run on this machine: its speed, its wait for data, its memory, and whether it resumes.

    python -m benchmarks.training_run                                   # configs/synthetic.py
    python -m benchmarks.training_run --config=configs/dfew.py --build=False --set=data.dir=/data/tfds

Builds the data set of the settings and trains --steps steps as `rdfer train` does. Then it deletes the last
checkpoint and resumes from the one in the middle: the state must come out the same, bit for bit. On a GPU
that needs XLA_FLAGS=--xla_gpu_deterministic_ops=true. Prints a table and writes training_run.json.
"""

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from benchmarks import harness, runs
from rdfer_jax.config import Config
from rdfer_jax.training.checkpoint import Checkpoints
from rdfer_jax.training.integrity import checkpoints_folder
from rdfer_jax.training.setup import Setup
from rdfer_jax.training.train import train
from rdfer_jax.training.writers import read_metrics

#: Windows in which speed is measured; the first has the compilation and does not count.
WINDOWS = 6


def settings(config: str, steps: int, changes: dict[str, Any]) -> Config:
    """Returns the settings of the run: of a file, with its length and two checkpoints."""
    short = {
        "train.duration": f"{steps} steps",
        "train.log_every": f"{max(steps // WINDOWS, 1)} steps",
        "train.save_every": f"{max(steps // 2, 1)} steps",
        "train.keep": 2,
        "train.tensorboard": False,
    }
    return harness.load(config, short | changes)


def speed(workdir: epath.Path) -> dict[str, float]:
    """Returns videos per second, and the share of time spent waiting for data, after the first window."""
    rows = [row for row in read_metrics(workdir) if "videos_per_second" in row][1:]
    seconds = [1 / row["videos_per_second"] for row in rows]  # for each video
    return {
        "videos_per_second": len(rows) / sum(seconds),
        "input_wait": float(np.average([row["input_wait"] for row in rows], weights=seconds)),
    }


def peak_memory() -> int | None:
    """Returns the most bytes in use on the first device so far; None if it does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


def resumed(config: Config, workdir: epath.Path) -> dict[str, Any]:
    """Trains again from the middle of a finished run, and compares the two final states.

    Returns:
      from_step; bit_for_bit; largest_difference of any number of the state; parts that differ.
    """
    expected, last = final_state(config, workdir)
    shutil.rmtree(checkpoints_folder(workdir) / str(last))
    with Checkpoints(workdir) as checkpoints:
        middle = checkpoints.latest()
    train(config, workdir)
    found, _ = final_state(config, workdir)
    largest, parts = 0.0, []
    for field in dataclasses.fields(expected):
        pairs = zip(
            *(jax.tree.leaves(getattr(state, field.name)) for state in (expected, found)),
            strict=True,
        )
        for one, other in pairs:
            if not np.array_equal(one, other, equal_nan=True):
                parts.append(field.name)
                difference = np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64))
                largest = max(largest, float(difference.max()))
    return {
        "from_step": middle,
        "bit_for_bit": not parts,
        "largest_difference": largest,
        "parts": sorted(set(parts)),
    }


def final_state(config: Config, workdir: epath.Path) -> tuple[Any, int]:
    """Returns the newest state on the host, and its step."""
    setup = Setup.create(config, workdir)
    with Checkpoints(workdir, keep=config.train.keep) as checkpoints:
        step = checkpoints.latest()
        assert step is not None
        return jax.device_get(checkpoints.restore(step, setup.abstract_state())), step


def table(report: dict[str, Any]) -> str:
    """Returns the results as a Markdown table."""
    peak, again = report["peak_memory"], report["resumed"]
    differs = f"no: {', '.join(again['parts'])} by up to {again['largest_difference']:.2g}"
    return harness.table(
        [
            ["videos/s", "wait for data", "peak memory, GiB", "resumed bit for bit"],
            [
                f"{report['videos_per_second']:.1f}",
                f"{report['input_wait']:.1%}",
                "" if peak is None else f"{peak / 2**30:.2f}",
                f"yes, from step {again['from_step']}" if again["bit_for_bit"] else differs,
            ],
        ]
    )


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    options = flags.FLAGS
    with contextlib.redirect_stdout(sys.stderr):  # only the results are printed
        output, changes = runs.prepare()
        config, workdir = settings(options.config, options.steps, changes), output / "run"
        train(config, workdir)
    report: dict[str, Any] = {"hardware": harness.hardware(), "commit": harness.commit()}
    report |= speed(workdir) | {"peak_memory": peak_memory()}
    report |= {"resumed": resumed(config, workdir)}
    print(f"{harness.hardware()}\n\n{table(report)}")
    (output / "training_run.json").write_text(harness.to_json(report))


if __name__ == "__main__":
    runs.define_flags("runs/training_run")
    flags.DEFINE_integer("steps", 60, "Training steps.", lower_bound=4)
    app.run(main)
