"""Whole programs with a fault: each ends with a clear message and resumes with the same result."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import jobs
import numpy as np
import pytest

from rdfer_jax import workarounds
from rdfer_jax.training.checkpoint import last_variables
from tests.robustness import soak

pytestmark = pytest.mark.e2e


CONFIG = "configs/synthetic.py"
STEPS = 12


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    return (
        jobs.SMALL
        | jobs.DRAWN
        | {
            "data.dir": folder / "tfds",
            "compile_cache": folder / "cache",
            "train.duration": f"{STEPS} steps",
            "train.eval_every": f"{STEPS} steps",
            "train.save_every": "2 steps",
            "train.keep": 3,
            "train.tensorboard": False,
        }
    )


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """The last checkpoint of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    jobs.run(CONFIG, settings, workdir=workdir)
    return jobs.checkpoint(workdir, STEPS)


def assert_finishes(settings, workdir, whole):
    """Resumes a run, which must end bit-identical to the uninterrupted one; returns its output."""
    printed = jobs.run(CONFIG, settings, workdir=workdir)
    found = jobs.checkpoint(workdir, STEPS)
    assert found.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    return printed


def wait_for(step, workdir, *processes):
    deadline = time.monotonic() + 200
    while not any(row["step"] >= step for row in jobs.rows(workdir)):
        assert time.monotonic() < deadline
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def assert_clear(printed):
    """Checks that the output has an error line and no stack trace."""
    assert "Traceback" not in printed, printed
    assert re.search(r"^error: ", printed, re.MULTILINE), printed


def test_sigterm_saves_within_a_step_and_says_so(settings, whole, tmp_path):
    process = jobs.start(CONFIG, settings | {"train.save_every": "1000 steps"}, workdir=tmp_path)
    wait_for(3, tmp_path, process)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "Traceback" not in printed
    (step,) = map(
        int, re.findall(r"stopped by SIGTERM after step (\d+) of 12\. The state is saved", printed)
    )
    newest = jobs.rows(tmp_path)[-1]["step"]
    assert newest <= step <= newest + 1 < STEPS
    assert f"resuming from step {step}" in assert_finishes(settings, tmp_path, whole)


def test_training_resumes_from_the_checkpoint_before_a_damaged_one(settings, whole, tmp_path):
    process = jobs.start(CONFIG, settings, workdir=tmp_path)
    jobs.kill_at(process, tmp_path, 7)
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    damaged = tmp_path / "checkpoints" / str(steps[-1])
    (damaged / "state" / "_METADATA").write_text("{}")
    printed = assert_finishes(settings, tmp_path, whole)
    assert f"checkpoint {steps[-1]} is damaged" in printed
    assert f"resuming from step {steps[-2]}" in printed


@pytest.mark.parametrize("workers", [(2, 0), (0, 1)])
def test_resuming_with_another_number_of_workers_gives_the_same_result(
    settings, whole, tmp_path, workers
):
    before, after = ({"data.num_workers": number} for number in workers)
    jobs.kill_at(jobs.start(CONFIG, settings | before, workdir=tmp_path), tmp_path, 5)
    assert_finishes(settings | after, tmp_path, whole)


def test_ctrl_c_during_a_build(tmp_path):
    built = {"data.dir": tmp_path, "build.num_train": 50_000}
    process = jobs.start(CONFIG, jobs.SMALL | jobs.DRAWN | built, mode="build")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/*/*incomplete*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130, printed
    assert printed.splitlines()[-1] == "stopped by Ctrl-C" and "Traceback" not in printed


def test_resuming_with_a_frame_cache_gives_the_same_result(settings, whole, tmp_path):
    run = tmp_path / "run"
    jobs.kill_at(jobs.start(CONFIG, settings, workdir=run), run, 5)
    printed = assert_finishes(settings | {"data.frame_cache": str(tmp_path / "frames")}, run, whole)
    assert "frames decoded" in printed


@pytest.mark.skipif(not workarounds.SHARED_MEMORY.is_dir(), reason="no folder of shared memory")
def test_no_worker_process_or_shared_memory_is_left_behind(settings, tmp_path):
    with_workers = settings | {"data.num_workers": 2, "train.duration": "5000 steps"}
    killed = jobs.start(CONFIG, with_workers, workdir=tmp_path / "killed")
    wait_for(3, tmp_path / "killed", killed)
    readers = soak.children(killed.pid)
    killed.kill()
    killed.wait()
    assert len(readers) >= 2 and soak.segments(killed.pid)
    deadline = time.monotonic() + 30
    while any(pathlib.Path(f"/proc/{reader}").exists() for reader in readers):
        assert time.monotonic() < deadline, "a worker process is still running"
        time.sleep(0.1)
    asked = jobs.start(CONFIG, with_workers, workdir=tmp_path / "asked")
    wait_for(3, tmp_path / "asked", asked)
    assert not soak.segments(killed.pid) and soak.segments(asked.pid)
    asked.send_signal(signal.SIGTERM)
    printed = asked.communicate(timeout=60)[0]
    assert asked.returncode == 0, printed
    assert "resource_tracker" not in printed and "ignored" not in printed
    assert not soak.segments(asked.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")
def test_a_killed_worker_process_is_reported(settings, whole, tmp_path):
    process = jobs.start(
        CONFIG, settings | {"data.num_workers": 1, "train.duration": "5000 steps"}, workdir=tmp_path
    )
    wait_for(3, tmp_path, process)
    (reader,) = [
        pid
        for pid in soak.children(process.pid)
        if "spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(reader, signal.SIGKILL)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert_clear(printed)
    assert "a data worker process was killed" in printed


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_leaves_older_checkpoints(settings, whole, small_disk):
    process = jobs.start(CONFIG, settings, workdir=small_disk)
    printed = process.communicate(timeout=200)[0]
    assert process.returncode == 1
    assert_clear(printed)
    assert "could not be written" in printed and "No space left on device" in printed
    (good,) = map(int, re.findall(r"the newest good one is (\d+)", printed))
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    assert f"resuming from step {good}" in assert_finishes(settings, small_disk, whole)


def test_a_read_only_folder_is_reported_before_any_work(settings, small_disk, whole):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    process = jobs.start(CONFIG, settings, workdir=small_disk)
    printed = process.communicate(timeout=100)[0]
    assert process.returncode == 1
    assert_clear(printed)
    assert "Read-only file system" in printed and str(small_disk) in printed
    assert "videos to train on" not in printed


def test_a_second_run_in_the_same_folder_is_refused(settings, whole, tmp_path):
    first = jobs.start(CONFIG, settings | {"train.duration": "5000 steps"}, workdir=tmp_path)
    wait_for(2, tmp_path, first)
    second = jobs.start(CONFIG, settings | {"train.duration": "5000 steps"}, workdir=tmp_path)
    printed = second.communicate(timeout=100)[0]
    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert_clear(printed)
    assert f"another run is using this folder (process {first.pid} on " in printed


def start_two(settings, workdir):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        jobs.start(
            CONFIG,
            settings,
            workdir=workdir,
            coordinator=f"localhost:{port}",
            processes=2,
            process=p,
        )
        for p in (0, 1)
    ]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_its_peer_and_both_resume(settings, tmp_path, victim):
    alone = tmp_path / "alone"
    if victim == 1:  # comparing with an uninterrupted run once is enough
        for process in start_two(settings, alone):
            printed = process.communicate(timeout=200)[0]
            assert process.returncode == 0, printed
    interrupted = tmp_path / "interrupted"
    pair = start_two(settings, interrupted)
    wait_for(5, interrupted, *pair)
    pair[victim].kill()
    began = time.monotonic()
    printed = pair[1 - victim].communicate(timeout=60)[0]
    assert time.monotonic() - began < 60
    pair[victim].communicate()
    assert pair[1 - victim].returncode not in (0, None)
    assert "another process of this job ended" in printed or "another task died" in printed
    if victim == 1:
        for process in start_two(settings, interrupted):
            printed = process.communicate(timeout=200)[0]
            assert process.returncode == 0, printed
            assert "resuming from step" in printed or "error" not in printed
        one, other = (last_variables(folder) for folder in (alone, interrupted))
        jax.tree.map(np.testing.assert_array_equal, one, other)
        assert one[0] == STEPS


def test_a_lost_peer_is_reported_at_once(settings, tmp_path):
    """During steps. During a save, a process waits for its peer until JAX misses the heartbeat."""
    steps = {"train.duration": "5000 steps", "train.save_every": "5000 steps"}
    pair = start_two(settings | steps, tmp_path)
    wait_for(5, tmp_path, *pair)
    pair[1].kill()
    printed = pair[0].communicate(timeout=10)[0]
    pair[1].communicate()
    assert pair[0].returncode == 1
    assert_clear(printed)
    assert "error: another process of this job ended or cannot be reached: " in printed
