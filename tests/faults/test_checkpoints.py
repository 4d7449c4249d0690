"""Checkpoints that something happened to after they were written."""

import json
import pathlib

import jax
import pytest
from states import assert_equal, make_state, shapes

from rdfer_jax.training import checkpoint
from rdfer_jax.training.checkpoint import (
    CheckpointNotSavedError,
    Checkpoints,
    DamagedCheckpointError,
)


def flip(folder):
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    return largest.name


def cut(folder):
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    return largest.name


def lose(folder):
    (folder / "state" / "_METADATA").unlink()
    return "state/_METADATA is missing"


def blank(folder):
    (folder / checkpoint.SUMS).write_text("no JSON")
    return "sums.json is no list of sums"


@pytest.fixture
def workdir(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), None)
    return tmp_path


@pytest.mark.parametrize("hurt", [flip, cut, lose, blank])
def test_a_damaged_checkpoint_is_refused_and_the_file_is_named(workdir, hurt):
    what = hurt(workdir / "checkpoints" / "3")
    with (
        Checkpoints(workdir, keep=3) as checkpoints,
        pytest.raises(DamagedCheckpointError, match=rf"3 in .* is damaged: .*{what}.*\[1, 2\]"),
    ):
        checkpoints.restore(3, shapes(make_state(3)))


@pytest.mark.parametrize("hurt", [flip, cut, lose, blank])
def test_training_falls_back_to_the_newest_good_one_and_says_so(workdir, hurt, caplog):
    hurt(workdir / "checkpoints" / "3")
    hurt(workdir / "checkpoints" / "2")
    assert checkpoint.quarantine_damaged(workdir) == [3, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "checkpoint 3 is damaged" in caplog.text
    assert {p.name for p in (workdir / checkpoint.DAMAGED).iterdir()} == {"2", "3"}
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.steps() == [1]
        assert_equal(checkpoints.restore(1, shapes(make_state(1))), make_state(1))
        checkpoints.save(2, make_state(2), None)
        assert_equal(checkpoints.restore(2, shapes(make_state(2))), make_state(2))
    # Once more: what was set aside before makes room.
    hurt(workdir / "checkpoints" / "2")
    assert checkpoint.quarantine_damaged(workdir) == [2]


def test_good_checkpoints_stay_where_they_are(workdir, caplog):
    assert checkpoint.quarantine_damaged(workdir) == []
    assert checkpoint.quarantine_damaged(workdir / "none") == []
    assert not caplog.records and not (workdir / checkpoint.DAMAGED).exists()


def test_damage_to_an_older_checkpoint_does_not_stand_in_the_way(workdir):
    flip(workdir / "checkpoints" / "1")
    assert checkpoint.quarantine_damaged(workdir) == []


def test_the_sums_are_of_every_file(workdir):
    folder = workdir / "checkpoints" / "3"
    sums = json.loads((folder / checkpoint.SUMS).read_text())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert sums.keys() == files - {checkpoint.SUMS} and len(sums) > 3


def test_a_process_that_was_killed_before_it_wrote_the_sums_left_a_good_checkpoint(workdir):
    (pathlib.Path(workdir) / "checkpoints" / "3" / checkpoint.SUMS).unlink()
    assert checkpoint.quarantine_damaged(workdir) == []
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert_equal(checkpoints.restore(3, shapes(make_state(3))), make_state(3))


def test_what_a_killed_save_left_is_removed(workdir):
    folder = workdir / "checkpoints"
    (folder / "3").rename(folder / "4.orbax-checkpoint-tmp")
    assert checkpoint.quarantine_damaged(workdir) == []
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, make_state(3), None)
        assert_equal(checkpoints.restore(3, shapes(make_state(3))), make_state(3))
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("processes", "said", "error"),
    [
        (2, "INTERNAL: Gloo AllGather failed: Connection reset by peer", RuntimeError),
        (2, "Barrier failed: Task 1 heartbeat timeout", RuntimeError),
        (2, "No space left on device", CheckpointNotSavedError),
        (1, "UNAVAILABLE: a disk far away", CheckpointNotSavedError),
    ],
)
def test_a_lost_process_is_no_fault_of_the_disk(workdir, monkeypatch, processes, said, error):
    with Checkpoints(workdir, keep=3) as checkpoints:

        def fails(*_, **__):
            raise RuntimeError(said)

        monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables", fails)
        with monkeypatch.context() as several, pytest.raises(error, match=said) as raised:
            several.setattr(jax, "process_count", lambda: processes)
            checkpoints.save(4, make_state(4), None)
        assert type(raised.value) is error
