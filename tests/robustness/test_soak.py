"""The soak tests: kills happen when they should, and differences and growth are noticed."""

import os
import signal
import subprocess
import sys

import jax
import pytest
import states
from etils import epath

from rdfer_jax.training.checkpoint import Checkpoints
from rdfer_jax.training.writers import MetricWriter
from tests.robustness import soak


def python(code="import time; time.sleep(60)", **options):
    return subprocess.Popen([sys.executable, "-c", code], **options)


def test_kills_after_a_delay_or_when_a_file_appears(tmp_path):
    process = python()
    assert soak.kill(process, 0.05) and process.returncode == -signal.SIGKILL
    file = tmp_path / "a.tmp"
    process = python(f"import time; time.sleep(0.3); open({str(file)!r}, 'w'); time.sleep(60)")
    assert soak.kill(process, 0.0, pattern="*.tmp", folder=str(tmp_path))
    assert file.exists()
    ended = python("pass")
    ended.wait()
    assert not soak.kill(ended, 0.0, pattern="*.none", folder=str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_usage_includes_the_children():
    code = """
import subprocess, sys
kept = b"x" * (50 * 2**20)
files = [open(sys.executable) for _ in range(30)]
subprocess.run([sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"])
"""
    process = python(code, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    usage = soak.usage(process.pid)
    for child in soak.children(process.pid):
        os.kill(child, signal.SIGKILL)
    process.kill()
    process.communicate()
    assert usage["processes"] == 2 and usage["files"] >= 33
    assert 50 * 2**20 < usage["memory"] < 120 * 2**20


def rows(memory, files=lambda t: 10):
    return [
        {"seconds": t, "memory": memory(t), "files": files(t), "shared": 0, "processes": 3}
        for t in range(0, 100, 2)
    ]


def test_growth_is_measured_from_a_tenth_of_the_time_to_the_end():
    steady = soak.growth(rows(lambda t: 50 if t < 10 else 100), seconds=100)
    assert steady["memory_growth"] == 0 and steady["file_growth"] == 0
    leaking = soak.growth(rows(lambda t: 100 + t, files=lambda t: t), seconds=100)
    assert leaking["memory_growth"] == pytest.approx(194 / 114 - 1)
    assert leaking["file_growth"] == 80


def test_digests_differ_by_content_and_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12")
    first = soak.digests(epath.Path(tmp_path))
    (tmp_path / "a" / "x").write_bytes(b"13")
    second = soak.digests(epath.Path(tmp_path))
    (tmp_path / "a" / "x").rename(tmp_path / "x")
    assert len({str(first), str(second), str(soak.digests(epath.Path(tmp_path)))}) == 3


def write_run(workdir, change=1.0, last_loss=0.5):
    """Writes a run of two steps, in which one parameter is multiplied by `change`."""
    state = states.make_state(2)
    leaves, structure = jax.tree.flatten(state.params)
    state = state.replace(params=jax.tree.unflatten(structure, [leaves[0] * change, *leaves[1:]]))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(2, state, None)
    with MetricWriter(workdir, tensorboard=False) as writer:
        for step, loss in ((1, 1.0), (2, last_loss)):
            writer.write_scalars(step, {"loss": loss})
    return epath.Path(workdir)


def test_runs_that_differ_in_a_parameter_or_a_loss_are_told_apart(tmp_path):
    whole = write_run(tmp_path / "whole")
    equal = soak.compare_runs(whole, write_run(tmp_path / "equal"))
    assert equal["steps"] == 2 and equal["equal_parameters"] and equal["equal_metrics"]
    changed = soak.compare_runs(whole, write_run(tmp_path / "changed", change=1 + 1e-6))
    assert not changed["equal_parameters"] and changed["equal_metrics"]
    worse = soak.compare_runs(whole, write_run(tmp_path / "worse", last_loss=0.6))
    assert worse["equal_parameters"] and not worse["equal_metrics"]
