"""Kills real runs again and again, and checks that nothing is lost. Linux only.

    python -m tests.robustness.soak --what=kills --number=50     # SIGKILL while training and saving
    python -m tests.robustness.soak --what=builds --number=20    # SIGKILL while building a data set
    python -m tests.robustness.soak --what=leaks --minutes=60    # one long run: memory, processes, files

kills: one training run is killed at random times, every third time while a checkpoint is being written,
and restarted after each kill. Its final parameters must equal those of an uninterrupted run, bit for bit.
builds: the same for a data set and every byte of its files. leaks: a run with worker processes trains,
evaluates and saves about every ten seconds. Its memory at the end is compared with that after a tenth of
the time. Then SIGTERM must stop it after the current step, with its state saved.

Prints the results, writes soak_<what>.json, and exits with 1 if anything was lost.
"""

import hashlib
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from benchmarks import harness
from rdfer_jax import paths, workarounds
from rdfer_jax.training.checkpoint import last_variables
from rdfer_jax.training.writers import read_metrics

CONFIG = "configs/synthetic.py"
#: A small network and small data, so that a step takes milliseconds.
SMALL: Mapping[str, Any] = {
    "build.num_train": 64, "build.num_test": 32, "build.num_frames": 8, "build.image_size": 32,
    "data.frames": 4, "data.image_size": 32, "data.batch_size": 8, "data.eval_batch_size": 8,
    "data.validation_percent": 25, "augment.size": 32, "clips.number": 3, "clips.frames": 4,
    "key.number": 2, "key.frames": 2, "model.width": 16, "agreement.memory_decay": 0.5,
    "train.eval_every": "20 steps", "train.save_every": "5 steps", "train.log_every": "1 steps",
    "train.tensorboard": False, "cpu_devices": 1,
}  # fmt: skip
#: A run that does not end by itself. TensorStore loses some memory with every save.
LONG: Mapping[str, Any] = {
    "train.duration": "100000000 steps", "train.eval_every": "100 steps",
    "train.save_every": "100 steps", "data.num_workers": 2,
}  # fmt: skip
#: A data set that takes some seconds to build.
BUILT: Mapping[str, Any] = {"build.num_train": 1000, "build.num_test": 500, "build.num_frames": 16}
#: Memory may grow by this share from a tenth of the time to the end.
MAX_GROWTH = 0.05


def start(mode: str, settings: Mapping[str, Any], workdir: epath.Path) -> subprocess.Popen:
    """Starts the program; its output is appended to workdir's output.txt."""
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "rdfer_jax.main", f"--mode={mode}", f"--config={CONFIG}"]
    with open(workdir / "output.txt", "ab") as output:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *words], stdout=output, stderr=subprocess.STDOUT
        )


def run(mode: str, settings: Mapping[str, Any], workdir: epath.Path) -> None:
    """Runs the program to its end.

    Raises:
      ValueError: it failed.
    """
    process = start(mode, settings, workdir)
    if process.wait():
        tail = (workdir / "output.txt").read_text()[-2000:]
        raise ValueError(f"exit status {process.returncode}: {tail}")


def kill(process: subprocess.Popen, delay: float, pattern: str = "", folder: str = "") -> bool:
    """Kills a process after `delay` seconds, or when a file that matches `pattern` is then in `folder`.

    Returns:
      Whether the process was still running.
    """
    time.sleep(delay)
    while pattern and process.poll() is None and not any(pathlib.Path(folder).glob(pattern)):
        time.sleep(0.002)
    is_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return is_running


def kill_training(
    settings: Mapping[str, Any], output: epath.Path, number: int, rng: random.Random
) -> dict[str, Any]:
    """Compares a run that is killed `number` times with an uninterrupted one."""
    whole, killed = output / "whole", output / "killed"
    run("train", settings, whole)
    steps = []
    for turn in range(number):
        process = start("train", settings, killed)
        saving = ("*tmp*", str(killed / "checkpoints")) if turn % 3 == 2 else ()
        if not kill(process, rng.uniform(2, 15), *saving):
            break  # the run had ended
        steps.append(latest_step(killed))
    run("train", settings, killed)
    return compare_runs(whole, killed) | {
        "kills": len(steps),
        "all_kills_done": len(steps) == number,
        "latest_checkpoint_at_kills": steps,
    }


def compare_runs(one: epath.Path, two: epath.Path) -> dict[str, Any]:
    """Compares the final step, parameters and losses of two runs."""
    (step, variables), (other_step, others) = last_variables(one), last_variables(two)
    leaves, other_leaves = jax.tree.leaves(variables), jax.tree.leaves(others)
    has_equal_parameters = (
        step == other_step
        and jax.tree.structure(variables) == jax.tree.structure(others)
        and all(map(np.array_equal, leaves, other_leaves))
    )
    losses = [
        {row["step"]: row.get("loss") for row in read_metrics(folder)} for folder in (one, two)
    ]
    return {
        "steps": step,
        "parameters": sum(np.size(leaf) for leaf in leaves),
        "equal_parameters": has_equal_parameters,
        "equal_metrics": losses[0] == losses[1],
    }


def latest_step(workdir: epath.Path) -> int:
    """Returns the step of the newest complete checkpoint, or 0."""
    folder = pathlib.Path(workdir) / "checkpoints"
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


def kill_builds(
    settings: Mapping[str, Any], output: epath.Path, number: int, rng: random.Random
) -> dict[str, Any]:
    """Compares a data set whose build is killed `number` times with one of an uninterrupted build."""
    whole, killed = output / "whole", output / "killed"
    began = time.monotonic()
    run("build", {**settings, "data.dir": whole / "tfds"}, whole)
    duration = time.monotonic() - began
    settings = {**settings, "data.dir": killed / "tfds"}
    complete_builds = kills = 0
    while kills < number:
        if kill(start("build", settings, killed), rng.uniform(0.3, 1.0) * duration):
            kills += 1
        else:
            complete_builds += 1
            shutil.rmtree(killed / "tfds", ignore_errors=True)
    run("build", settings, killed)
    files, others = digests(whole / "tfds"), digests(killed / "tfds")
    return {
        "kills": kills,
        "builds_that_ended_before_the_kill": complete_builds,
        "files": len(files),
        "equal_files": files == others,
    }


def digests(folder: epath.Path) -> dict[str, str]:
    """Returns the SHA-256 of every file, by its path relative to the folder."""
    root = pathlib.Path(folder)
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def usage(pid: int) -> dict[str, int]:
    """Returns the memory in bytes, the processes and the open files of a process and its children."""
    pids = [pid, *children(pid)]
    total = {"memory": 0, "processes": len(pids), "files": 0}
    for one in pids:
        try:
            lines = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            sizes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
            total["memory"] += 1024 * sizes["Pss:"]  # counts shared pages once
            total["files"] += len(list(pathlib.Path(f"/proc/{one}/fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            total["processes"] -= 1  # it has just ended
    return total | {"shared": segments(pid)}


def segments(pid: int) -> int:
    """Returns the number of shared memory segments that the data workers of a process hold."""
    return len(list(workarounds.SHARED_MEMORY.glob(f"{workarounds.segment_prefix(pid)}*")))


def children(pid: int) -> list[int]:
    """Returns the children of a process, and their children."""
    pids = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, path.read_text().split()):
                pids += [child, *children(child)]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pids


def run_long(
    settings: Mapping[str, Any], output: epath.Path, minutes: float, interval: float
) -> dict[str, Any]:
    """Measures one run every `interval` seconds, and stops it by SIGTERM after some minutes."""
    workdir = output / "long"
    process = start("train", settings, workdir)
    began, rows = time.monotonic(), []
    while (seconds := time.monotonic() - began) < 60 * minutes and process.poll() is None:
        rows.append({"seconds": seconds, **usage(process.pid)})
        time.sleep(interval)
    workers, stopped = children(process.pid), time.monotonic()
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=120)
    stopping = time.monotonic() - stopped
    changes = growth([row for row in rows if row["processes"]], minutes * 60)
    time.sleep(interval)  # Python's resource tracker ends a little later
    metrics = read_metrics(workdir)
    return changes | {
        "minutes": minutes,
        "steps": max((row["step"] for row in metrics), default=0),
        "evaluations_and_saves": sum("validation_war" in row for row in metrics),
        "exit_status": status,
        "seconds_from_sigterm_to_end": stopping,
        "no_memory_growth": changes["memory_growth"] <= MAX_GROWTH,
        "no_file_growth": changes["file_growth"] <= 0,
        "stopped_by_sigterm": not status
        and "stopped by SIGTERM" in (workdir / "output.txt").read_text(),
        "no_processes_left": not any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers),
        "no_shared_memory_left": not segments(process.pid),
        "rows": rows,
    }


def growth(rows: Sequence[Mapping[str, float]], seconds: float) -> dict[str, float]:
    """Compares the medians of the last tenth of the time with those of the second tenth."""
    early = [row for row in rows if 0.1 <= row["seconds"] / seconds < 0.2]
    late = [row for row in rows if row["seconds"] / seconds >= 0.9]

    def median(part: Sequence[Mapping[str, float]], name: str) -> float:
        return statistics.median(row[name] for row in part)

    return {
        "memory_early": median(early, "memory"),
        "memory_late": median(late, "memory"),
        "memory_growth": median(late, "memory") / median(early, "memory") - 1,
        "processes": median(late, "processes"),
        "file_growth": median(late, "files") - median(early, "files"),
        "shared_growth": median(late, "shared") - median(early, "shared"),
    }


def main(argv: Sequence[str]) -> None:
    """Runs the chosen test, prints the results and writes them to a file."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    options = flags.FLAGS
    output = epath.Path(options.output).absolute() / options.what
    if output.exists():
        raise ValueError(f"{output} exists already: remove it, or choose another --output")
    rng = random.Random(options.seed)
    settings = {**SMALL, "data.dir": output / "tfds", "compile_cache": output / "compiled"}
    if options.what == "kills":
        settings["train.duration"] = f"{options.steps} steps"
        results = kill_training(settings, output, options.number, rng)
    elif options.what == "builds":
        results = kill_builds({**settings, **BUILT}, output, options.number, rng)
    else:
        results = run_long({**settings, **LONG}, output, options.minutes, interval=5)
    shown = [[name, str(value)] for name, value in results.items() if name != "rows"]
    print(harness.table([["name", "value"], *shown]))
    report = {"hardware": harness.hardware(), "commit": harness.commit(), "results": results}
    (output.parent / f"soak_{options.what}.json").write_text(harness.to_json(report))
    sys.exit(any(value is False for value in results.values()))


if __name__ == "__main__":
    flags.DEFINE_enum("what", "kills", ["kills", "builds", "leaks"], "What to test.")
    flags.DEFINE_integer("number", 50, "Number of kills.", lower_bound=1)
    flags.DEFINE_integer("steps", 2000, "Steps of the run that is killed.", lower_bound=1)
    flags.DEFINE_float("minutes", 60.0, "Duration of the long run, in minutes.", lower_bound=0.1)
    flags.DEFINE_integer("seed", 0, "Seed of the times of the kills.")
    paths.DEFINE_path("output", "runs/soak", "Folder for everything.")
    app.run(main)
