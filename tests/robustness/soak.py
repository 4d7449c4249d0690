"""Hurts real runs, again and again, and looks whether anything was lost.

    python -m tests.robustness.soak --what=kills --number=50     # SIGKILL while it trains, saves, evaluates
    python -m tests.robustness.soak --what=builds --number=20    # SIGKILL while it builds a data set
    python -m tests.robustness.soak --what=leaks --minutes=60    # one long run: memory, processes, files

kills: one training run is killed at random moments, a third of them just when a checkpoint is being
written, and started again each time; at the end its parameters must be those of a run that was left alone,
bit for bit. builds: the same for a data set and every byte of its files. leaks: a run that trains,
evaluates and saves about every ten seconds, with worker processes; its memory at the end is compared with
that at a tenth of the time, and it is ended by SIGTERM, which it has to obey within a step and with its
state saved.

Prints what was found, writes soak_<what>.json, and exits with 1 where something was lost. Linux only.
"""

import hashlib
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from benchmarks import harness
from rdfer_jax import workarounds
from rdfer_jax.training.checkpoint import last_variables
from rdfer_jax.training.writers import read_metrics

CONFIG = "configs/synthetic.py"
#: Small steps, so that much happens in little time.
SMALL: Mapping[str, Any] = {
    "build.num_train": 64, "build.num_test": 32, "build.num_frames": 8, "build.image_size": 32,
    "data.frames": 4, "data.image_size": 32, "data.batch_size": 8, "data.eval_batch_size": 8,
    "data.validation_percent": 25, "augment.size": 32, "clips.number": 3, "clips.frames": 4,
    "key.number": 2, "key.frames": 2, "model.width": 16, "agreement.memory_decay": 0.5,
    "train.eval_every": "20 steps", "train.save_every": "5 steps", "train.log_every": "1 steps",
    "train.tensorboard": False, "cpu_devices": 1,
}  # fmt: skip
#: A run that is left to itself. TensorStore loses some memory with every save (docs/reliability.md).
LONG: Mapping[str, Any] = {
    "train.duration": "100000000 steps", "train.eval_every": "100 steps",
    "train.save_every": "100 steps", "data.num_workers": 2,
}  # fmt: skip
#: What a data set takes to build some seconds.
BUILT: Mapping[str, Any] = {"build.num_train": 1000, "build.num_test": 500, "build.num_frames": 16}


def start(mode: str, settings: Mapping[str, Any], workdir: epath.Path) -> subprocess.Popen:
    """Starts the program in a process of its own; what it prints goes to workdir's output.txt."""
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "rdfer_jax.main", f"--mode={mode}", f"--config={CONFIG}",
             f"--workdir={workdir}", *words],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def finish(process: subprocess.Popen, workdir: epath.Path) -> None:
    """Waits for the end.

    Raises:
      ValueError: it failed.
    """
    if process.wait():
        tail = (workdir / "output.txt").read_text()[-2000:]
        raise ValueError(f"exit status {process.returncode}: {tail}")


def kill(process: subprocess.Popen, after: float, sign: str = "", root: str = "") -> bool:
    """Kills a process after some seconds; or, from then on, when a file like `sign` appears in `root`.

    Returns:
      Whether it was still running.
    """
    time.sleep(after)
    while sign and process.poll() is None and not any(pathlib.Path(root).glob(sign)):
        time.sleep(0.002)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


def killed_training(
    settings: Mapping[str, Any], output: epath.Path, number: int, draw: random.Random
) -> dict[str, Any]:
    """Compares a run that is killed `number` times with one that is left alone."""
    whole, hurt = output / "whole", output / "hurt"
    finish(start("train", settings, whole), whole)
    seconds = []
    reached = []
    for turn in range(number):
        process = start("train", settings, hurt)
        seconds.append(draw.uniform(2, 15))
        saving = {"sign": "*tmp*", "root": str(hurt / "checkpoints")} if turn % 3 == 2 else {}
        if not kill(process, seconds[-1], **saving):
            break  # the run was done
        reached.append(newest(hurt))
    finish(start("train", settings, hurt), hurt)
    parameters = [last_variables(folder) for folder in (whole, hurt)]
    arrays = [np.concatenate([np.ravel(x) for x in _leaves(tree)]) for _, tree in parameters]
    equal = parameters[0][0] == parameters[1][0] and np.array_equal(arrays[0], arrays[1])
    tables = [{r["step"]: r.get("loss") for r in read_metrics(folder)} for folder in (whole, hurt)]
    return {
        "kills": len(reached),
        "step_of_newest_checkpoint_when_killed": reached,
        "steps": parameters[0][0],
        "parameters": int(arrays[0].size),
        "equal_bit_for_bit": bool(equal),
        "equal_metrics": tables[0] == tables[1],
        "well": bool(equal) and tables[0] == tables[1] and len(reached) == number,
    }


def newest(workdir: epath.Path) -> int:
    """The step of the newest finished checkpoint, or 0."""
    folder = pathlib.Path(workdir) / "checkpoints"
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    return max(steps, default=0)


def _leaves(tree: Any) -> Iterator[np.ndarray]:
    if isinstance(tree, Mapping):
        for name in sorted(tree):
            yield from _leaves(tree[name])
    else:
        yield tree


def killed_builds(
    settings: Mapping[str, Any], output: epath.Path, number: int, draw: random.Random
) -> dict[str, Any]:
    """Compares a data set whose build is killed `number` times with one that is left alone."""
    began = time.monotonic()
    whole = output / "whole"
    finish(start("build", {**settings, "data.dir": whole / "tfds"}, whole), whole)
    length = time.monotonic() - began
    hurt = output / "hurt"
    done = kills = 0
    while kills < number:
        process = start("build", {**settings, "data.dir": hurt / "tfds"}, hurt)
        if kill(process, draw.uniform(0.3, 1.0) * length):
            kills += 1
        else:  # It was faster: throw it away, and count only what was killed.
            done += 1
            _remove(hurt / "tfds")
    finish(start("build", {**settings, "data.dir": hurt / "tfds"}, hurt), hurt)
    files = [digests(folder / "tfds") for folder in (whole, hurt)]
    return {
        "kills": kills,
        "builds_that_were_faster": done,
        "files": len(files[0]),
        "bytes": sum(
            path.stat().st_size for path in pathlib.Path(whole / "tfds").rglob("*.array*")
        ),
        "well": files[0] == files[1],
    }


def _remove(folder: epath.Path) -> None:
    if folder.exists():
        folder.rmtree()


def digests(folder: epath.Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the folder."""
    root = pathlib.Path(folder)
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def usage(pid: int) -> dict[str, int]:
    """What a process and its children hold: bytes of memory, processes, open files, shared memory."""
    pids = [pid, *children(pid)]
    held = {"memory": 0, "processes": len(pids), "files": 0, "shared": 0}
    for one in pids:
        try:
            lines = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            sizes = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
            held["memory"] += 1024 * sizes["Pss:"]  # what is shared counts once
            held["files"] += len(list(pathlib.Path(f"/proc/{one}/fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            held["processes"] -= 1  # it ended just now
    held["shared"] = segments(pid)
    return held


def segments(pid: int) -> int:
    """The segments of shared memory that reading processes made for a process."""
    return len(list(workarounds.SHARED_MEMORY.glob(f"{workarounds.segment_prefix(pid)}*")))


def children(pid: int) -> list[int]:
    """The processes that a process started, and those that they did, by Linux."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, path.read_text().split()):
                found += [child, *children(child)]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def long_run(
    settings: Mapping[str, Any], output: epath.Path, minutes: float, every: float
) -> dict[str, Any]:
    """Watches one run for so long and then ends it."""
    workdir = output / "long"
    process = start("train", settings, workdir)
    began, rows = time.monotonic(), []
    while (passed := time.monotonic() - began) < 60 * minutes and process.poll() is None:
        rows.append({"seconds": passed, **usage(process.pid)})
        time.sleep(every)
    started, asked = children(process.pid), time.monotonic()
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=120)
    ended = time.monotonic() - asked
    printed = (workdir / "output.txt").read_text()
    found = leaks([row for row in rows if row["processes"]], minutes * 60)
    time.sleep(every)  # Python's own helper ends a moment later
    left = [pid for pid in started if pathlib.Path(f"/proc/{pid}").exists()]
    shared_left = segments(process.pid)
    metrics = read_metrics(workdir)
    steps = max((row["step"] for row in metrics), default=0)
    return found | {
        "minutes": minutes,
        "steps": steps,
        "evaluations_and_saves": sum("validation_war" in row for row in metrics),
        "exit_status": status,
        "seconds_from_sigterm_to_end": ended,
        "said_so": "stopped by SIGTERM" in printed,
        "processes_left": len(left),
        "shared_memory_left": shared_left,
        "well": found["grew_by"] <= 0.05
        and found["files_grew_by"] <= 0
        and not status
        and "stopped by SIGTERM" in printed
        and not left
        and not shared_left,
        "rows": rows,
    }


def leaks(rows: Sequence[Mapping[str, float]], seconds: float) -> dict[str, float]:
    """Compares what is held at the end with what was held at a tenth of the time; medians of a tenth."""
    early = [row for row in rows if 0.1 <= row["seconds"] / seconds < 0.2]
    late = [row for row in rows if row["seconds"] / seconds >= 0.9]

    def middle(part: Sequence[Mapping[str, float]], name: str) -> float:
        return statistics.median(row[name] for row in part)

    return {
        "memory_early": middle(early, "memory"),
        "memory_late": middle(late, "memory"),
        "grew_by": middle(late, "memory") / middle(early, "memory") - 1,
        "processes": middle(late, "processes"),
        "files_grew_by": middle(late, "files") - middle(early, "files"),
        "shared_grew_by": middle(late, "shared") - middle(early, "shared"),
    }


def main(argv: Sequence[str]) -> None:
    """Runs one of them, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    options = flags.FLAGS
    output = epath.Path(options.output).absolute() / options.what
    if output.exists():
        raise ValueError(f"{output} exists, and would be mixed up with the new runs. Remove it")
    draw = random.Random(options.seed)
    settings = {**SMALL, "data.dir": output / "tfds", "compile_cache": output / "compiled"}
    if options.what == "kills":
        settings["train.duration"] = f"{options.steps} steps"
        found = killed_training(settings, output, options.number, draw)
    elif options.what == "builds":
        found = killed_builds({**settings, **BUILT}, output, options.number, draw)
    else:
        found = long_run({**settings, **LONG}, output, options.minutes, every=5)
    told = {name: value for name, value in found.items() if name != "rows"}
    print(harness.table([["what", "found"], *([name, str(value)] for name, value in told.items())]))
    report = {"hardware": harness.hardware(), "commit": harness.commit(), "found": found}
    (output.parent / f"soak_{options.what}.json").write_text(harness.to_json(report))
    sys.exit(not found["well"])


if __name__ == "__main__":
    flags.DEFINE_enum("what", "kills", ["kills", "builds", "leaks"], "What is tried.")
    flags.DEFINE_integer("number", 50, "Kills.", lower_bound=1)
    flags.DEFINE_integer("steps", 2000, "Steps of the run that is killed.", lower_bound=1)
    flags.DEFINE_float("minutes", 60.0, "Length of the long run.", lower_bound=0.1)
    flags.DEFINE_integer("seed", 0, "Of the moments.")
    flags.DEFINE_string("output", "runs/soak", "Folder for everything.")
    app.run(main)
