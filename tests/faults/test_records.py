"""Data sets with files that are missing, truncated or damaged, or that differ from those of the run."""

import dataclasses
import os
import shutil

import pytest
import tiny
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax.pipeline import loader, source
from rdfer_jax.pipeline.records import RecordError
from rdfer_jax.pipeline.source import open_split
from rdfer_jax.training import evaluate, run_dir, train


@pytest.fixture
def directory(tiny_data, tmp_path):
    shutil.copytree(source.find(tiny_data), tmp_path / "1.0.0")
    return epath.Path(tmp_path) / "1.0.0"


def shard(directory, split="train"):
    return next(iter(sorted(directory.glob(f"*-{split}.array_record*"))))


def flip(path):
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), 997):
        content[place] ^= 255
    path.write_bytes(content)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: os.truncate(path, 0),
    "truncated": lambda path: os.truncate(path, path.stat().length // 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_file_is_named_when_the_splits_are_opened(directory, tiny_data, split, damage):
    path = shard(directory, split)
    DAMAGES[damage](path)
    with pytest.raises(
        RecordError, match=rf"{path.name}: record 0 cannot be read: .*build it again"
    ):
        source.open_splits(directory, dataclasses.replace(tiny_data, fold=""))


@pytest.fixture
def config(directory, tmp_path):
    """Settings that train on the copy of the data set."""
    folder = tmp_path / "tfds" / "tiny_faces" / "default"
    folder.mkdir(parents=True)
    (folder / "1.0.0").symlink_to(directory)
    return tiny.config(data={"dir": str(tmp_path / "tfds")}, train={"tensorboard": False})


@pytest.mark.parametrize("command", [train.train, evaluate.evaluate])
def test_training_and_evaluation_stop_before_any_work(config, directory, tmp_path, command):
    path = shard(directory)
    DAMAGES["truncated"](path)
    with pytest.raises(RecordError, match=rf"{path.name}: record 0 cannot be read"):
        command(config, tmp_path / "run")
    files = (tmp_path / "run").glob("*") if (tmp_path / "run").exists() else ()
    assert {file.name for file in files} <= {".lock", ".lock.holder"}


def test_training_on_other_data_than_before_is_refused(config, tmp_path):
    run = epath.Path(tmp_path) / "run"
    run_dir.write_config(run, config)
    run_dir.write_data(run, "tiny_faces/default/1.0.0", tiny.CLASSES, 11, fingerprint="0" * 16)
    (run / "checkpoints" / "1").mkdir(parents=True)  # a run without any binds nobody
    with pytest.raises(
        ValueError, match=r"run on other data: tiny_faces/default/1.0.0 with .* 0{16}"
    ):
        train.train(config, run)
    other = config_lib.resolve(config_lib.to_dict(config) | {"optim": {"learning_rate": 0.5}})
    with pytest.raises(ValueError, match=r"config.optim.learning_rate = .*, now 0.5"):
        train.train(other, run)


def test_an_undamaged_data_set_opens(directory, tiny_data):
    splits = source.open_splits(directory, tiny_data)
    assert all(len(split) for split in splits)


@pytest.mark.parametrize("workers", [0, 1])
def test_later_damage_is_named_when_the_record_is_read(directory, tiny_data, workers):
    split = open_split(directory, "train")
    flip(shard(directory))
    data = dataclasses.replace(tiny_data, num_workers=workers)
    batches = loader.eval_loader(split, data, local_batch_size=2, process=0, processes=1)
    with pytest.raises(ValueError, match=rf"{shard(directory).name}: record \d+ cannot be read"):
        list(batches)


def test_the_fingerprint_identifies_data_and_labels(directory, tmp_path):
    whole = source.fingerprint(directory)
    assert len(whole) == 16 and source.fingerprint(directory) == whole
    moved = shutil.copytree(directory, tmp_path / "elsewhere")
    assert source.fingerprint(epath.Path(moved)) == whole
    labels = tmp_path / "labels.csv"
    labels.write_text("clip_id,label\ntrain-0,sad\n")
    one = source.fingerprint(directory, str(labels))
    labels.write_text("clip_id,label\ntrain-0,fear\n")
    assert len({whole, one, source.fingerprint(directory, str(labels))}) == 3
    os.truncate(shard(directory), 99)
    assert source.fingerprint(directory) != whole
