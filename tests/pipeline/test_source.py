"""Finding a data set, opening its splits, and holding out a validation part."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import tiny

from data import schema
from rdfer_jax.pipeline import source
from rdfer_jax.pipeline.source import DatasetNotFoundError, open_split


def names(split):
    return [split[i]["clip_id"].decode() for i in range(len(split))]


@pytest.fixture(scope="module")
def directory(tiny_data):
    return source.find(tiny_data)


def test_the_truth_has_the_keys_of_the_schema():
    every, some = (schema.features(tiny.CLASSES, with_truth=known) for known in (True, False))
    assert set(every) - set(some) == set(source.TRUTH_KEYS)


def test_a_split_gives_its_records_by_position(directory):
    split = open_split(directory, "train")
    assert len(split) == len(tiny.SPLITS["train"]) == 11
    assert split.classes == tiny.CLASSES and split.has_truth and split.name == "train"
    assert sorted(names(split)) == sorted(f"train-{i}" for i in range(11))
    expected = {record["clip_id"]: record for record in tiny.records()["train"]}
    for i in range(11):
        record = split[i]
        wanted = expected[record["clip_id"].decode()]
        assert [bytes(jpeg) for jpeg in record["frames"]] == wanted["frames"]
        assert {k: record[k] for k in source.TRUTH_KEYS} == {
            k: wanted[k] for k in source.TRUTH_KEYS
        }
        assert record["label"] == wanted["label"]
        np.testing.assert_array_equal(record["votes"], wanted["votes"])
    with pytest.raises(IndexError):
        split[11]


def test_joined_splits_come_one_after_the_other(directory):
    train, test = (names(open_split(directory, name)) for name in ("train", "test"))
    assert names(open_split(directory, "train+test")) == train + test
    assert names(open_split(directory, "test + train")) == test + train


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tets", r"no split 'tets'. Did you mean 'test'\? Known: test, train"),
        ("train+tran", r"no split 'tran'. Did you mean 'train'\?"),
        ("zzz", "no split 'zzz'. Known: test, train"),
        ("", "no split ''"),
    ],
)
def test_an_unknown_split_is_an_error_that_names_the_right_one(directory, name, message):
    with pytest.raises(ValueError, match=message):
        open_split(directory, name)


def test_a_part_of_a_part(directory):
    split = open_split(directory, "train")
    part = split.select(np.array([8, 3, 5])).select(np.array([2, 0]))
    assert names(part) == [names(split)[5], names(split)[8]]
    with pytest.raises(ValueError, match="is empty"):
        split.select(np.array([], int))


@pytest.mark.parametrize(("percent", "count"), [(1.0, 1), (20.0, 2), (50.0, 6)])
def test_the_held_out_part_is_disjoint_complete_and_always_the_same(directory, percent, count):
    split = open_split(directory, "train")
    rest, held = source.hold_out(split, percent)
    assert len(held) == count
    assert sorted(names(rest) + names(held)) == sorted(names(split))
    again = source.hold_out(open_split(directory, "train"), percent)
    assert (names(again[0]), names(again[1])) == (names(rest), names(held))


@pytest.mark.parametrize("percent", [1.0, 10.0, 33.0, 50.0])
def test_each_class_is_held_out_in_its_share(directory, percent):
    """With DFEW's shares, of 2,000 clips."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(7), (418, 324, 456, 372, 251, 25, 154)))
    split = open_split(directory, "train")
    split = dataclasses.replace(split, positions=np.arange(len(labels)))
    with mock.patch.object(source.Split, "columns", lambda self, _: {"label": labels}):
        rest, held = source.hold_out(split, percent)
    assert len(held) == round(len(labels) * percent / 100)
    assert sorted([*rest.positions, *held.positions]) == list(range(len(labels)))
    for label in range(7):
        share = np.sum(labels == label) * len(held) / len(labels)
        assert abs(np.sum(labels[held.positions] == label) - share) < 1
    # Not the first of each class, but any of them.
    assert 0.4 < np.mean(held.positions) / len(labels) < 0.6


def test_given_labels_do_not_change_what_is_held_out(directory):
    split = open_split(directory, "train")
    other = split.with_labels(np.zeros(len(split), int))
    for one, two in zip(source.hold_out(split, 30.0), source.hold_out(other, 30.0), strict=True):
        assert names(one) == names(two)


def test_given_labels_are_those_of_the_file_or_else_the_stored_ones(directory):
    split = open_split(directory, "train").select(np.array([4, 1, 7]))
    assert split.given_labels.tolist() == [r["label"] for r in split] == [1, 1, 1]
    other = open_split(directory, "train").with_labels(np.arange(11) % 2)
    assert other.select(np.array([4, 1, 7])).given_labels.tolist() == [0, 1, 1]


def test_nothing_is_held_out_at_zero_percent(directory):
    split = open_split(directory, "train")
    rest, held = source.hold_out(split, 0.0)
    assert rest is split and held is None


def test_find_takes_the_newest_finished_version(tmp_path):
    data = tiny.data(tmp_path)
    root = tmp_path / "tiny_faces/default"
    for version in ("1.0.0", "1.9.0", "1.10.0", "notes"):
        (root / version).mkdir(parents=True)
        (root / version / "dataset_info.json").write_text("{}")
    (root / "2.0.0.incompleteABC").mkdir()
    (root / "2.0.0.incompleteABC/dataset_info.json").write_text("{}")
    (root / "3.0.0").mkdir()  # not finished
    assert source.find(data).name == "1.10.0"


def test_find_says_how_to_build_what_is_missing(tiny_data, tmp_path):
    (tmp_path / "tiny_faces/default/1.0.0").mkdir(parents=True)
    for data in (
        tiny.data(tmp_path),
        tiny.data(tmp_path / "nowhere"),
        dataclasses.replace(tiny_data, variant="other"),
        dataclasses.replace(tiny_data, name="other"),
    ):
        with pytest.raises(DatasetNotFoundError, match=r"Build it with rdfer build"):
            source.find(data)
