"""Checkpoints that were damaged after they were written, or could not be written."""

import json
import pathlib

import jax
import pytest
from states import assert_equal, make_state, shapes

from rdfer_jax.training import integrity
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
    (folder / integrity.SUMS).write_text("no JSON")
    return "sums.json is not a list of checksums"


@pytest.fixture
def workdir(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), None)
    return tmp_path


@pytest.mark.parametrize("damage_files", [flip, cut, lose, blank])
def test_restoring_a_damaged_checkpoint_fails_and_names_the_file(workdir, damage_files):
    what = damage_files(workdir / "checkpoints" / "3")
    with (
        Checkpoints(workdir, keep=3) as checkpoints,
        pytest.raises(DamagedCheckpointError, match=rf"3 in .* is damaged: .*{what}.*\[1, 2\]"),
    ):
        checkpoints.restore(3, shapes(make_state(3)))


@pytest.mark.parametrize("damage_files", [flip, cut, lose, blank])
def test_damaged_checkpoints_are_quarantined_down_to_the_newest_good_one(
    workdir, damage_files, caplog
):
    damage_files(workdir / "checkpoints" / "3")
    damage_files(workdir / "checkpoints" / "2")
    assert integrity.quarantine_damaged(workdir) == [3, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "checkpoint 3 is damaged" in caplog.text
    assert {p.name for p in (workdir / integrity.DAMAGED).iterdir()} == {"2", "3"}
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.steps() == [1]
        assert_equal(checkpoints.restore(1, shapes(make_state(1))), make_state(1))
        checkpoints.save(2, make_state(2), None)
        assert_equal(checkpoints.restore(2, shapes(make_state(2))), make_state(2))
    # A second time: the checkpoint that was moved before is replaced.
    damage_files(workdir / "checkpoints" / "2")
    assert integrity.quarantine_damaged(workdir) == [2]


def test_good_checkpoints_are_not_moved(workdir, caplog):
    assert integrity.quarantine_damaged(workdir) == []
    assert integrity.quarantine_damaged(workdir / "none") == []
    assert not caplog.records and not (workdir / integrity.DAMAGED).exists()


def test_a_damaged_older_checkpoint_is_not_moved(workdir):
    flip(workdir / "checkpoints" / "1")
    assert integrity.quarantine_damaged(workdir) == []


def test_every_file_has_a_checksum(workdir):
    folder = workdir / "checkpoints" / "3"
    sums = json.loads((folder / integrity.SUMS).read_text())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert sums.keys() == files - {integrity.SUMS} and len(sums) > 3


def test_a_checkpoint_without_checksums_is_good(workdir):
    (pathlib.Path(workdir) / "checkpoints" / "3" / integrity.SUMS).unlink()
    assert integrity.quarantine_damaged(workdir) == []
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert_equal(checkpoints.restore(3, shapes(make_state(3))), make_state(3))


def test_the_temporary_folder_of_a_killed_save_is_removed(workdir):
    folder = workdir / "checkpoints"
    (folder / "3").rename(folder / "4.orbax-checkpoint-tmp")
    assert integrity.quarantine_damaged(workdir) == []
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        checkpoints.save(3, make_state(3), None)
        assert_equal(checkpoints.restore(3, shapes(make_state(3))), make_state(3))
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("processes", "message", "error"),
    [
        (2, "INTERNAL: Gloo AllGather failed: Connection reset by peer", RuntimeError),
        (2, "Barrier failed: Task 1 heartbeat timeout", RuntimeError),
        (2, "No space left on device", CheckpointNotSavedError),
        (1, "UNAVAILABLE: a disk far away", CheckpointNotSavedError),
    ],
)
def test_a_lost_process_is_told_apart_from_a_full_disk(
    workdir, monkeypatch, processes, message, error
):
    with Checkpoints(workdir, keep=3) as checkpoints:

        def fails(*_, **__):
            raise RuntimeError(message)

        monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables", fails)
        with monkeypatch.context() as several, pytest.raises(error, match=message) as raised:
            several.setattr(jax, "process_count", lambda: processes)
            checkpoints.save(4, make_state(4), None)
        assert type(raised.value) is error
