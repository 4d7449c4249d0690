"""Seconds from the command to the first training step, with an empty and with a filled compilation cache.

    python -m benchmarks.startup
    python -m benchmarks.startup --config=configs/dfew.py --build=False --set=data.dir=/data/tfds

Trains two steps in a new process, alternately with an empty compilation cache (config.compile_cache) and
with the cache of the previous run, --rounds times each. The time is from the start of the process until
the metrics of the first step are in metrics.jsonl. Prints a table and writes JSON.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from benchmarks import harness, runs
from rdfer_jax.training.writers import read_metrics

#: Two steps, logged immediately.
SHORT = {
    "train.duration": "2 steps",
    "train.log_every": "1 steps",
    "train.tensorboard": False,
}


def seconds_to_first_step(
    config: str, settings: dict[str, Any], workdir: epath.Path, cache: epath.Path
) -> float:
    """Starts a run and returns the seconds until its first step.

    Raises:
      subprocess.CalledProcessError: the run failed.
    """
    settings = settings | SHORT | {"compile_cache": str(cache)}
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    start = time.time()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "rdfer_jax.main",
            f"--config={config}",
            f"--workdir={workdir}",
            *words,
        ],
        check=True,
        capture_output=True,
    )
    first = next(row for row in read_metrics(workdir) if "loss" in row)
    return first["time"] - start


def measure(
    config: str, settings: dict[str, Any], output: epath.Path, rounds: int
) -> dict[str, list[float]]:
    """Returns the seconds of each run, cold and warm."""
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    for turn in range(rounds):
        for name, taken in found.items():
            workdir = output / f"{name}{turn}"
            taken.append(seconds_to_first_step(config, settings, workdir, output / f"cache{turn}"))
    return found


def table(found: dict[str, list[float]]) -> str:
    """Returns the medians as a Markdown table."""
    cold, warm = (statistics.median(found[name]) for name in ("cold", "warm"))
    return harness.table(
        [
            ["compilation cache", "seconds to the first step", "share"],
            ["empty", f"{cold:.1f}", "100%"],
            ["of the previous run", f"{warm:.1f}", f"{warm / cold:.0%}"],
        ]
    )


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    options = flags.FLAGS
    output, settings = runs.prepare()
    found = measure(options.config, settings, output, options.rounds)
    print(f"{harness.hardware()}\n\n{table(found)}")
    report = {"hardware": harness.hardware(), "commit": harness.commit(), "seconds": found}
    (output / "startup.json").write_text(harness.to_json(report))


if __name__ == "__main__":
    runs.define_flags("runs/startup")
    flags.DEFINE_integer("rounds", 2, "Number of cold and warm starts each.", lower_bound=1)
    app.run(main)
