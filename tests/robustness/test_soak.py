"""The soak benchmark: that it kills when it says, sees what is held, and notices what is lost."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath

from tests.robustness import soak


def sleeper(code="import time; time.sleep(60)"):
    return subprocess.Popen([sys.executable, "-c", code])


def test_kills_after_some_time_or_when_a_file_appears(tmp_path):
    process = sleeper()
    assert soak.kill(process, 0.05) and process.returncode == -signal.SIGKILL
    process = sleeper(
        f"import time; time.sleep(0.3); open({str(tmp_path / 'a.tmp')!r}, 'w'); time.sleep(60)"
    )
    assert soak.kill(process, 0.0, sign="*.tmp", root=str(tmp_path))
    assert (tmp_path / "a.tmp").exists()
    ended = sleeper("pass")
    ended.wait()
    assert not soak.kill(ended, 0.0, sign="*.none", root=str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_process_and_its_children_hold():
    code = """
import subprocess, sys
kept = b"x" * (50 * 2**20)
files = [open(sys.executable) for _ in range(30)]
subprocess.run([sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    held = soak.usage(process.pid)
    for child in soak.children(process.pid):
        os.kill(child, signal.SIGKILL)
    process.kill()
    process.communicate()
    assert held["processes"] == 2 and held["files"] >= 33
    assert 50 * 2**20 < held["memory"] < 120 * 2**20


def rows(memory, files=10):
    return [
        {"seconds": t, "memory": memory(t), "files": files, "shared": 0, "processes": 3}
        for t in range(0, 100, 2)
    ]


def test_growth_is_from_a_tenth_of_the_time_to_the_end():
    steady = soak.leaks(rows(lambda t: 50 if t < 10 else 100), seconds=100)
    assert steady["grew_by"] == 0 and steady["files_grew_by"] == 0
    leaking = soak.leaks(rows(lambda t: 100 + t), seconds=100)
    assert leaking["grew_by"] == pytest.approx(194 / 114 - 1)


def test_files_that_differ_in_a_byte_or_a_name_are_told_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12")
    first = soak.digests(epath.Path(tmp_path))
    (tmp_path / "a" / "x").write_bytes(b"13")
    second = soak.digests(epath.Path(tmp_path))
    (tmp_path / "a" / "x").rename(tmp_path / "x")
    assert len({str(first), str(second), str(soak.digests(epath.Path(tmp_path)))}) == 3


class Finished:
    """A run that is over as soon as it is started."""

    def __init__(self, *_):
        self.returncode = 0

    def wait(self):
        return 0

    def poll(self):
        return 0

    def send_signal(self, _):
        pass


@pytest.mark.parametrize("lost", ["nothing", "parameters", "metrics"])
def test_a_run_that_lost_something_is_noticed(tmp_path, monkeypatch, lost):
    monkeypatch.setattr(soak, "start", Finished)
    monkeypatch.setattr(soak, "kill", lambda *a, **k: True)
    monkeypatch.setattr(time, "sleep", lambda s: None)

    def variables(folder):
        wrong = folder.name == "hurt" and lost == "parameters"
        return 7, {"params": {"b": np.ones(3), "a": np.full(2, 2.0 + wrong * 1e-7)}}

    def metrics(folder):
        wrong = folder.name == "hurt" and lost == "metrics"
        return [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5 + wrong}]

    monkeypatch.setattr(soak, "last_variables", variables)
    monkeypatch.setattr(soak, "read_metrics", metrics)
    found = soak.killed_training({}, epath.Path(tmp_path), 3, random.Random(0))
    assert found["kills"] == 3 and found["well"] == (lost == "nothing")
    assert found["equal_bit_for_bit"] == (lost != "parameters")
    assert found["equal_metrics"] == (lost != "metrics")
