"""The input benchmark: that all read the same frames, and what its table says."""

import importlib.util

import numpy as np
import pytest
from etils import epath

from benchmarks import input as bench
from rdfer_jax.config import Data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("input"))
    bench.write_clips(folder / "clips", clips=14, frames=8, side=32)
    return folder / "clips", bench.built(folder / "clips", 32, folder / "tfds")


DATA = Data(frames=4, image_size=24, batch_size=7, num_threads=2)


def test_the_records_hold_the_bytes_of_the_files(written):
    root, split = written
    assert len(split) == 14
    record = split[0]
    folder = root / record["clip_id"].decode()
    files = sorted(folder.iterdir())
    assert [file.read_bytes() for file in files] == list(record["frames"])


def test_every_contestant_reads_an_epoch_of_frames(written):
    root, split = written
    # Eight frames in four parts: none is drawn twice.
    assert bench.bare(split, DATA)() == 14 * 4
    reading = bench.ours(split, DATA, 0)
    assert reading() == reading() == 14 * 4
    reading.close()
    if importlib.util.find_spec("torch"):
        assert bench.theirs(root, DATA, 0)() == 14 * 4


def test_only_the_second_reading_is_timed(monkeypatch):
    clock, log = iter([0.0, 2.0, 0.0, 1.0, 0.0, 4.0, 0.0, 1.0]), []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    rates = bench.measure({"a": lambda: log.append("a") or 8, "b": lambda: log.append("b") or 8}, 2)
    assert log == list("aabb" * 2)
    assert rates == {"a": np.median([4, 2]), "b": 8}


def test_the_limit_grows_with_the_cores_that_workers_may_use():
    rates = {"bare": 100.0, "ours, 0": 150.0, "ours, 1": 90.0, "ours, 8": 180.0, "theirs, 1": 30.0}
    found = bench.rows(rates, [0, 1, 8], cores=2)
    assert [row["cores"] for row in found] == [2, 1, 2]
    assert [row["share_of_limit"] for row in found] == [0.75, 0.9, 0.9]
    assert [row["times_peer"] for row in found] == [None, 3.0, None]
    lines = bench.table(found).splitlines()
    assert lines[2:] == [
        "| threads | 150 | 200 | 75% |  |  |",
        "| 1 | 90 | 100 | 90% | 30 | 3.00 |",
        "| 8 | 180 | 200 | 90% |  |  |",
    ]
