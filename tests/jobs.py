"""Runs the program as a user would, in processes of its own, at the smallest sizes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

ROOT = Path(__file__).parents[1]

#: Makes any config small: 16 px frames, four of them, a narrow network.
SMALL = {
    "data.frames": 4,
    "data.image_size": 32,
    "data.batch_size": 8,
    "data.eval_batch_size": 8,
    "augment.size": 32,
    "clips.number": 3,
    "clips.frames": 4,
    "key.number": 2,
    "key.frames": 2,
    "model.trunk": "resnet8_narrow",
    "model.width": 16,
    "model.long_layers": 1,
    "train.log_every": "1 steps",
}

#: A drawn data set of a few clips.
DRAWN = {
    "build.num_train": 32,
    "build.num_test": 21,
    "build.num_frames": 8,
    "build.image_size": 32,
    "build.flip_rate": 0.3,
}


def command(config: str, settings: dict, **flags: object) -> list[str]:
    """The command line for a config file, with settings overridden and further flags."""
    words = [sys.executable, "-m", "rdfer_jax.main", f"--config={config}"]
    words += [f"--config.{name}={value}" for name, value in settings.items()]
    return words + [f"--{name}={value}" for name, value in flags.items()]


def environment(devices: int = 1) -> dict[str, str]:
    """The environment of a job with that many simulated devices."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        # As in conftest.py: little optimization, because compiling takes most of the time.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false",
        # Where a test has a cache of programs, also for small ones.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def run(config: str, settings: dict, *, devices: int = 1, **flags: object) -> str:
    """Runs a job to its end and returns what it printed."""
    done = subprocess.run(
        command(config, settings, **flags),
        cwd=ROOT,
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def start(config: str, settings: dict, *, devices: int = 1, **flags: object) -> subprocess.Popen:
    """Starts a job and returns its process."""
    return subprocess.Popen(
        command(config, settings, **flags),
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_at(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Kills a job, with no chance to clean up, once it has reported a step."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended before step {step}: {process.communicate()[0]}"
        if any(row["step"] >= step for row in rows(workdir)):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.05)
    raise TimeoutError(f"no step {step} in {workdir}")


def rows(workdir: Path) -> list[dict]:
    """The whole lines of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"
    ]


def results(workdir: Path) -> dict:
    """What results.json holds."""
    return json.loads((workdir / "results.json").read_text())


def checkpoint(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, by its path."""
    tree = ocp.load(workdir / "checkpoints" / str(step), checkpointable_name="state")
    return {
        jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }
