"""Files of a built data set that are missing, cut short or damaged."""

import dataclasses
import os
import shutil

import pytest
from etils import epath

from rdfer_jax.pipeline import loader, source
from rdfer_jax.pipeline.records import RecordError
from rdfer_jax.pipeline.source import open_split


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


HURTS = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().length // 2),
}


@pytest.mark.parametrize("hurt", HURTS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_hurt_file_is_named_before_any_work(directory, tiny_data, split, hurt):
    path = shard(directory, split)
    HURTS[hurt](path)
    with pytest.raises(
        RecordError, match=rf"{path.name}: record 0 cannot be read: .*build it again"
    ):
        source.open_splits(directory, dataclasses.replace(tiny_data, fold=""))


def test_a_whole_data_set_opens(directory, tiny_data):
    train, test = source.open_splits(directory, tiny_data)
    assert len(train) and len(test)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_hurt_later_is_named_when_it_is_read(directory, tiny_data, workers):
    split = open_split(directory, "train")
    flip(shard(directory))
    data = dataclasses.replace(tiny_data, num_workers=workers)
    batches = loader.eval_loader(split, data, local_batch_size=2, process=0, processes=1)
    with pytest.raises(ValueError, match=rf"{shard(directory).name}: record \d+ cannot be read"):
        list(batches)


def test_the_fingerprint_tells_data_from_other_data(directory, tmp_path):
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
