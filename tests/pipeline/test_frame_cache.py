"""The frame cache: same batches, complete or absent, and never the frames of other data."""

import dataclasses
import errno
import logging
import os
import pathlib
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny

from rdfer_jax import config as config_lib
from rdfer_jax.pipeline import frame_cache, loader, source
from rdfer_jax.pipeline.feed import close


@pytest.fixture
def data(tiny_data, tmp_path):
    return dataclasses.replace(tiny_data, frame_cache=str(tmp_path / "cache"))


def opened(data):
    return [split.with_cache(data) for split in source.open_splits(source.find(data), data)]


def folder(data, split="train"):
    (found,) = pathlib.Path(data.frame_cache).glob(f"*/{split}-{data.image_size}-{data.fit}")
    return found


def take(batches, number):
    iterator = iter(batches)
    found = [next(iterator) for _ in range(number)]
    close(iterator)
    return found


def train(split, data, number=7):
    batches = loader.train_loader(split, data, seed=3, local_batch_size=4, process=0, processes=1)
    return take(batches, number)


def evaluation(split, data):
    batches = loader.eval_loader(split, data, local_batch_size=4, process=0, processes=1)
    return take(batches, loader.eval_batches(len(split), 4))


def assert_equal(one, two):
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.e2e)])
@pytest.mark.parametrize(
    "changes", [{}, {"image_size": 24, "frames": 9}, {"fold": "2/3"}, {"labels": True}], ids=str
)
def test_batches_are_those_of_decoding_each_time(tiny_data, data, tmp_path, workers, changes):
    if "labels" in changes:
        path = tmp_path / "labels.csv"
        path.write_text("clip_id,label\ntrain-2,happy\ntrain-4,fear\n")
        changes = {"labels": str(path)}
    plain = dataclasses.replace(tiny_data, **changes)
    data = dataclasses.replace(data, num_workers=workers, **changes)
    for (expected, split), read in zip(
        zip(opened(plain), opened(data), strict=True), (train, evaluation), strict=True
    ):
        expected, split = (s.select(np.arange(len(s))[::-1]) for s in (expected, split))
        assert_equal(read(split, data), read(expected, plain))


def test_frames_are_decoded_once(data, monkeypatch):
    first = train(opened(data)[0], data)
    assert (folder(data) / "frames").stat().st_size == sum(tiny.SPLITS["train"]) * 16 * 16 * 3

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(loader, "decode_frames", refuse)
    monkeypatch.setattr(frame_cache, "_create", refuse)
    assert_equal(train(opened(data)[0], data), first)


def test_each_size_has_frames_of_its_own(data):
    sizes = (16, 24)
    for size in sizes:
        other = dataclasses.replace(data, image_size=size)
        assert train(opened(other)[0], other, 1)[0]["frames"].shape[2:4] == (size, size)
    assert len(list(folder(data).parent.glob("train-*-crop"))) == 2


def test_other_data_have_frames_of_their_own(data, tmp_path):
    first = train(opened(data)[0], data)
    records = tiny.records()
    records["train"] = records["train"][:-1]
    tiny.build(tmp_path, records)
    other = tiny.data(tmp_path, frame_cache=data.frame_cache)
    assert len(opened(other)[0]) == 10
    assert_equal(train(opened(data)[0], data), first)


def cut(found):
    os.truncate(found / "frames", 1000)


def change_frames(found):
    content = np.fromfile(found / "frames", np.uint8)
    (255 - content).tofile(found / "frames")


def drop_records(found):
    (found / "records.npz").unlink()


def damage_records(found):
    os.truncate(found / "records.npz", 100)


@pytest.mark.parametrize("hurt", [cut, change_frames, drop_records, damage_records])
def test_what_is_damaged_is_made_anew_and_told(data, caplog, hurt):
    first = train(opened(data)[0], data)
    hurt(folder(data))
    with caplog.at_level(logging.WARNING):
        again = opened(data)[0]
    assert f"{folder(data)}: the cached frames are unusable and will be recreated" in caplog.text
    assert_equal(train(again, data), first)


def test_frames_of_another_data_set_are_not_taken(data, tmp_path, caplog):
    """Were the fingerprint of two data sets the same."""
    opened(data)
    records = tiny.records()
    for record in records["train"]:
        record["frames"] = [tiny.picture(0, 0) for _ in record["frames"]]
    tiny.build(tmp_path, records)
    other = tiny.data(tmp_path, frame_cache=data.frame_cache)
    left = folder(data)
    opened(other)
    (new,) = set(left.parent.parent.glob("*/train-16-crop")) - {left}
    shutil.rmtree(new)
    shutil.copytree(left, new)
    split = opened(other)[0]
    assert "differs from the data set" in caplog.text
    assert train(split, other, 1)[0]["frames"].max() < 10


def test_what_a_killed_run_left_is_no_obstacle(data):
    first = train(opened(data)[0], data)
    found = folder(data)
    found.rename(found.with_name(f"{found.name}.part"))
    os.truncate(found.with_name(f"{found.name}.part") / "frames", 500)
    assert_equal(train(opened(data)[0], data), first)
    assert not list(found.parent.glob("*.part"))


def test_one_fills_and_the_others_wait(data, monkeypatch):
    filled, fills = frame_cache._create, []

    def counted(folder, *arguments):
        fills.append(folder.name)
        return filled(folder, *arguments)

    monkeypatch.setattr(frame_cache, "_create", counted)
    with ThreadPoolExecutor(4) as pool:
        splits = [split for split, _ in pool.map(opened, [data] * 4)]
    assert sorted(fills) == ["test-16-crop", "train-16-crop"]
    for split in splits[1:]:
        assert_equal(train(split, data, 2), train(splits[0], data, 2))


def test_no_room_is_told_early_and_leaves_nothing(data, monkeypatch):
    usage = shutil.disk_usage(data.dir)
    monkeypatch.setattr(frame_cache, "_SAMPLE", 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
    with pytest.raises(
        OSError,
        match=r"train-16-crop: cannot cache decoded frames: expected .* GB of free space, got ",
    ):
        opened(data)
    assert not list(pathlib.Path(data.frame_cache).glob("*/*.part"))


def test_a_full_disk_is_told_and_leaves_nothing(data, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"train-16-crop: .*No space left on device.*leave it empty"):
        opened(data)
    assert not list(pathlib.Path(data.frame_cache).glob("*/train-16-crop*[!k]"))


def test_a_folder_that_cannot_be_is_told(data, tmp_path):
    (tmp_path / "file").write_text("")
    data = dataclasses.replace(data, frame_cache=str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"file/.*Set config.data.frame_cache to another folder"):
        opened(data)
    tree = config_lib.default()
    tree.data.frame_cache = "gs://bucket/frames"
    with pytest.raises(
        ValueError, match=r"frame_cache: expected a local folder.*, got 'gs://bucket/frames'"
    ):
        config_lib.resolve(tree)


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path):
    records = tiny.records()
    records["train"][1]["frames"][2] = b"not an image"
    tiny.build(tmp_path, records)
    data = tiny.data(tmp_path, frame_cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"split train: clip 'train-1': frame 2: 12 bytes are not"):
        opened(data)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_cut_while_it_is_read_is_named(data, workers):
    data = dataclasses.replace(data, num_workers=workers)
    split, _ = opened(data)
    os.truncate(folder(data) / "frames", 1000)
    with pytest.raises(
        OSError, match=r"train-16-crop: file frames was truncated during the run; restart the run"
    ):
        evaluation(split, data)
