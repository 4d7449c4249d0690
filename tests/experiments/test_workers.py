"""The workers of a grid: which cell a worker gets, its share of the machine, and a process that dies."""

import os

import pytest
from etils import epath

from experiments import workers
from experiments.workers import Queue


def folders(**programs):
    return {epath.Path(name): program for name, program in programs.items()}


def test_a_worker_keeps_its_program_and_others_get_other_programs():
    waiting = Queue(folders(a1="a", b1="b", b2="b", a2="a", b3="b", c1="c"))
    first = waiting.take(None)
    assert first == (epath.Path("b1"), "b")  # the most cells wait for it
    second = waiting.take(None)
    assert second == (epath.Path("a1"), "a")
    assert waiting.take("b") == (epath.Path("b2"), "b")
    assert waiting.take("a") == (epath.Path("a2"), "a")
    assert waiting.take("a") == (epath.Path("c1"), "c")  # nobody uses it
    assert waiting.take("c") == (epath.Path("b3"), "b")  # better than to wait
    assert waiting.take("b") is None and waiting.take(None) is None


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_every_cell_is_taken_once(jobs):
    given = folders(**{f"{p}{i}": p for p in "abc" for i in range(3)})
    waiting, last, seen = Queue(given), dict.fromkeys(range(jobs)), []
    while len(seen) < len(given):
        for job in range(jobs):
            if taken := waiting.take(last[job]):
                folder, last[job] = taken
                assert given[folder] == last[job]
                seen.append(folder)
    assert sorted(seen) == sorted(given) and waiting.take(None) is None


@pytest.mark.parametrize(("jobs", "cores"), [(1, [0, 1, 2]), (2, [1, 3, 5, 7]), (3, [4, 5, 6, 7])])
def test_the_shares_of_the_machine_are_apart_and_complete(monkeypatch, jobs, cores):
    shares, flags = [], []
    monkeypatch.setattr(workers.os, "environ", os.environ.copy())
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda pid: set(cores), raising=False)
    monkeypatch.setattr(
        workers.os, "sched_setaffinity", lambda pid, mine: shares.append(mine), raising=False
    )
    for slot in range(jobs):
        workers.os.environ["XLA_FLAGS"] = "--given"
        workers.take_share(slot, jobs)
        flags.append(workers.os.environ["XLA_FLAGS"])
    assert sorted(core for share in shares for core in share) == cores
    assert all(len(share) >= len(cores) // jobs for share in shares)
    for share, words in zip(shares, flags, strict=True):
        assert words == ("--given" if len(share) > 1 else f"--given {workers.ONE_THREAD}")
    assert float(workers.os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == pytest.approx(
        0.9 / jobs, abs=1e-3
    )


def test_a_job_without_a_core_of_its_own_takes_any(monkeypatch):
    taken = []
    monkeypatch.setattr(workers.os, "environ", os.environ.copy())
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(
        workers.os, "sched_setaffinity", lambda pid, mine: taken.append(mine), raising=False
    )
    for slot in range(2):
        workers.take_share(slot, 2)
    assert taken == [[0], [0]]


@pytest.mark.e2e
def test_a_cell_that_cannot_be_read_fails_and_a_process_that_dies_is_replaced(
    tmp_path, monkeypatch
):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    given = {epath.Path(tmp_path / name): name for name in ("one", "two")}
    told = {}
    workers.run(given, 1, lambda folder, finished: told.update({folder.name: finished}))
    assert told == {"one": False, "two": False}
    assert "cell.json" in (tmp_path / "one/log.txt").read_text()

    worker = workers.Worker(0, 1)
    first = worker._process.pid
    worker._process.kill()
    assert not worker.train(epath.Path(tmp_path / "one"))
    assert "exit code -9" in (tmp_path / "one/log.txt").read_text()
    assert worker._process.is_alive() and worker._process.pid != first
    worker.close()
