"""The input benchmark: that all read the same frames, and what its table says."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from etils import epath

from benchmarks import input as bench
from rdfer_jax.config import Data

pytestmark = pytest.mark.slow


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


def test_every_contestant_reads_whole_epochs(written):
    root, split = written
    # Eight frames in four parts: none is drawn twice.
    bare = bench.Bare(split.directory, DATA, cores=2)
    assert bare() == 2 * bench.EPOCHS * 14 * 4
    bare.close()
    reading = bench.ours(split, DATA, 0)
    assert reading() == reading() == bench.EPOCHS * 14 * 4
    reading.close()
    cached = split.with_cache(dataclasses.replace(DATA, frame_cache=str(root.parent / "frames")))
    reading = bench.ours(cached, DATA, 0)
    assert reading() == bench.EPOCHS * 14 * 4
    reading.close()
    if importlib.util.find_spec("torch"):
        assert bench.theirs(root, DATA, 0)() == bench.EPOCHS * 14 * 4


def test_only_the_second_reading_is_timed(monkeypatch):
    clock, log = iter([0.0, 2.0, 0.0, 1.0, 0.0, 4.0, 0.0, 1.0]), []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    rates = bench.measure({"a": lambda: log.append("a") or 8, "b": lambda: log.append("b") or 8}, 2)
    assert log == list("aabb" * 2)
    assert rates == {"a": np.median([4, 2]), "b": 8}


def test_rows_compare_with_the_limit_of_their_frames_and_with_as_many_workers():
    rates = {
        "256, bare": 200.0,
        "256, 0": 150.0,
        "256, 1": 90.0,
        "128, bare": 400.0,
        "128, 0": 300.0,
        "128 cached, 1": 600.0,
    }
    peers = {"PyTorch, 0": 20.0, "PyTorch, 1": 30.0}
    found = bench.rows(rates | peers)
    assert [row["share_of_limit"] for row in found] == [0.75, 0.45, 0.75, 1.5]
    assert [row["times_peer"] for row in found] == [5.0, 3.0, 10.0, 20.0]
    assert [row["times_peer"] for row in bench.rows(rates)] == [None] * 4
    assert bench.table(found).splitlines()[2:] == [
        "| 256 px | threads | 150 | 200 | 75% | 30 | 5.00 |",
        "| 256 px | 1 | 90 | 200 | 45% | 30 | 3.00 |",
        "| 128 px | threads | 300 | 400 | 75% | 30 | 10.00 |",
        "| 128 px, decoded once | 1 | 600 | 400 | 150% | 30 | 20.00 |",
    ]
    assert bench.table(bench.rows(rates)).splitlines()[2] == (
        "| 256 px | threads | 150 | 200 | 75% |  |  |"
    )
