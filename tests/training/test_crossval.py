"""Cross-validation: folds, collected predictions, the table, and resuming."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest
import raw_trees
import tiny
from jax.experimental.compilation_cache import compilation_cache

from rdfer_jax import config as config_lib
from rdfer_jax import sharding
from rdfer_jax.pipeline import source
from rdfer_jax.training import crossval, train
from rdfer_jax.training.checkpoint import Checkpoints
from rdfer_jax.training.predictions import OUT_OF_FOLD, Predictions

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("clips", "parts"), [(100, 5), (103, 4), (7, 7), (11, 2)])
def test_folds_are_equal_in_size_and_stratified(clips, parts):
    labels = np.random.default_rng(0).integers(0, 3, clips)
    found = source.assign_folds(labels, parts)
    assert set(found) == set(range(1, parts + 1))
    assert np.ptp(np.bincount(found)[1:]) <= 1
    for label in range(3):
        assert np.ptp(np.bincount(found[labels == label], minlength=parts + 1)[1:]) <= 1
    np.testing.assert_array_equal(found, source.assign_folds(labels, parts))
    # Dealt out in shuffled order: neighbors do not go to neighboring parts in turn.
    alike = source.assign_folds(np.zeros(clips, int), parts)
    assert clips < 20 or (alike != np.arange(clips) % parts + 1).any()


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "1", "a/b", "1/5/2", "-1/5"])
def test_an_invalid_fold_is_rejected(fold):
    with pytest.raises(ValueError, match=r"config.data.fold: expected a fold such as"):
        tiny.config(data={"fold": fold})


def test_test_clips_are_not_trained_on(tmp_path):
    tiny.build(tmp_path)
    directory = source.find(tiny.data(tmp_path))
    tested = []
    for part in (1, 2, 3):
        data = tiny.data(tmp_path, fold=f"{part}/3")
        train_split, test_split = source.open_splits(directory, data)
        ids = [set(split.columns("clip_id")["clip_id"]) for split in (train_split, test_split)]
        assert (test_split.name, test_split.title) == ("train", f"train, part {part} of 3")
        assert train_split.title == f"train without part {part} of 3"
        assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == len(tiny.SPLITS["train"])
        tested += sorted(ids[1])
    assert len(tested) == len(set(tested)) == len(tiny.SPLITS["train"])
    whole, test_split = source.open_splits(directory, tiny.data(tmp_path))
    assert (len(whole), test_split.name) == (len(tiny.SPLITS["train"]), "test")
    with pytest.raises(ValueError, match=r"config.data.fold = '12/12': .* has only 11 clips"):
        source.open_splits(directory, tiny.data(tmp_path, fold="12/12"))


def test_stored_folds_are_tested_in_turn(tmp_path):
    from data import builder

    raw_trees.make_dfew(tmp_path / "raw")
    builder.build("dfew", str(tmp_path / "tfds"), options={"source_dir": str(tmp_path / "raw")})
    config = tiny.config(data={"dir": str(tmp_path / "tfds"), "name": "dfew"})
    found = crossval.folds(config, 3)
    assert list(found) == [f"fold{i}" for i in range(1, 6)]
    assert found["fold2"].data.test_split == "fold2"
    assert found["fold2"].data.train_split == "fold1+fold3+fold4+fold5"
    assert not any(fold.data.fold for fold in found.values())


def test_a_data_set_without_folds_is_divided(tmp_path):
    tiny.build(tmp_path)
    config = tiny.config(data={"dir": str(tmp_path)})
    found = crossval.folds(config, 3)
    assert [fold.data.fold for fold in found.values()] == ["1/3", "2/3", "3/3"]
    assert all(fold.optim == config.optim for fold in found.values())
    with pytest.raises(ValueError, match="--folds=1: expected at least two"):
        crossval.folds(config, 1)
    one = dataclasses.replace(config, data=dataclasses.replace(config.data, fold="1/3"))
    with pytest.raises(ValueError, match="runs all of them"):
        crossval.folds(one, 3)


def fold_results(war, best=None):
    found = {"war": war, "uar": war - 0.1, "num_examples": 10}
    return found if best is None else found | {"best_on_validation": fold_results(best)}


def test_the_table_has_mean_and_standard_deviation_for_last_and_best():
    found = {"fold1": fold_results(0.6, 0.7), "fold2": fold_results(0.8, 0.7)}
    results = crossval.summary(found)
    assert results["last"]["war"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.02**0.5)}
    assert results["best_on_validation"]["uar"]["std"] == pytest.approx(0)
    rows = crossval.table(results).splitlines()
    assert rows[0].count("|") == 7 and "WAR, best on validation" in rows[0]
    assert rows[2] == "| fold1 | 10 | 60.00 | 50.00 | 70.00 | 60.00 |"
    assert rows[-1].startswith("| mean ± standard deviation | 20 | 70.00 ± 14.14 | 60.00 ± 14.14 |")
    alone = crossval.summary({"fold1": fold_results(0.6)})
    assert alone["last"]["war"]["std"] is None and "best_on_validation" not in alone
    assert "| 60.00 | 50.00 |" in crossval.table(alone)


def test_a_clip_predicted_by_two_folds_is_an_error(tmp_path):
    for name in ("fold1", "fold2"):
        (tmp_path / name).mkdir()
        arrays = {"clip_id": np.array(["a", name]), "label": np.zeros(2, int)}
        arrays |= {"logits": np.zeros((2, 1)), "clip_logits": np.zeros((2, 3, 1))}
        Predictions("test", ("x",), arrays).save(tmp_path / name / "predictions.npz")
    with pytest.raises(ValueError, match="clip 'a' is in two folds"):
        crossval.gather(tmp_path, ["fold1", "fold2"])


@pytest.fixture
def no_programs():
    """Compiled programs are not kept anywhere, as for a user who asks for nothing."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("no_programs")
def test_an_unfinished_fold_is_resumed(tmp_path, monkeypatch):
    tiny.build(tmp_path)
    config, asked = tiny.config(data={"dir": str(tmp_path)}), []

    def training(fold_config, folder):
        assert jax.config.jax_compilation_cache_dir  # folds share their programs
        asked.append((folder.name, fold_config.data.fold))
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", training)
    # The last checkpoint was tested, the best one was not yet.
    (tmp_path / "run" / "fold1").mkdir(parents=True)
    (tmp_path / "run" / "fold1" / "predictions.npz").touch()
    with pytest.raises(KeyboardInterrupt):
        crossval.crossval(config, tmp_path / "run", 3)
    assert asked == [("fold1", "1/3")]


@pytest.fixture
def fast(tmp_path, monkeypatch):
    """One device, and each program is compiled once for all folds and runs."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda: mesh)
    changes = {
        "jax_compilation_cache_dir": str(tmp_path / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in changes}
    for settings in (changes, before):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # JAX reads where the cache is only once
        if settings is changes:
            yield


def test_an_interrupted_cross_validation_resumes_with_the_same_results(
    tmp_path, monkeypatch, caplog, fast
):
    # Twelve clips: three folds of equal size, so that they share their programs. Of unknown truth, so that
    # only the tested part is predicted.
    clips = [tiny.record("train", i, 1 + i) for i in range(12)]
    clips = [{key: clip[key] for key in ("clip_id", "frames", "label", "votes")} for clip in clips]
    tiny.build(tmp_path, {"train": clips})
    config = tiny.config(
        data={"dir": str(tmp_path)},
        model={"name": "resnet_lstm"},
        train={
            "duration": "2 steps", "save_every": "1 steps", "eval_every": "2 steps", "tensorboard": False,
        },
    )  # fmt: skip
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    expected = crossval.crossval(config, whole, 3)

    real = Checkpoints.save

    def save(self, step, *args):
        real(self, step, *args)
        if self.directory.parent.name == "fold3":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(KeyboardInterrupt):
            crossval.crossval(config, parted, 3)
    assert not (parted / "results.json").exists()
    finished = {n: (parted / n / "results.json").stat().st_mtime_ns for n in ("fold1", "fold2")}
    with caplog.at_level(logging.INFO, logger="rdfer_jax"):
        results = crossval.crossval(config, parted, 3)
    (resumed,) = [r.getMessage() for r in caplog.records if "resuming" in r.getMessage()]
    assert resumed.startswith("resuming from step 1 of ") and "fold3" in resumed
    for name, time in finished.items():
        assert (parted / name / "results.json").stat().st_mtime_ns == time

    assert results == expected == json.loads((parted / "results.json").read_text())
    assert (parted / "crossval.md").read_text() == (whole / "crossval.md").read_text()
    with np.load(whole / "predictions.npz") as a, np.load(parted / "predictions.npz") as b:
        one, two = dict(a), dict(b)
    assert one.keys() == two.keys() >= {"clip_logits", "agreement", "fold"}
    for name, array in one.items():
        assert array.dtype == two[name].dtype
        np.testing.assert_array_equal(two[name], array, err_msg=name)

    # Every clip once, as its own fold predicted it.
    assert str(one["split"]) == OUT_OF_FOLD
    assert sorted(one["clip_id"]) == sorted(clip["clip_id"] for clip in clips)
    for number in (1, 2, 3):
        inside = one["fold"] == number
        with np.load(whole / f"fold{number}" / "predictions.npz") as fold:
            np.testing.assert_array_equal(one["clip_id"][inside], fold["clip_id"])
            np.testing.assert_array_equal(one["clip_logits"][inside], fold["clip_logits"])
        right = (one["logits"].argmax(-1) == one["label"])[inside]
        assert results["folds"][f"fold{number}"]["war"] == pytest.approx(right.mean())

    # Finished, nothing is trained again; with other settings it is refused.
    def fails(*_):
        raise AssertionError

    monkeypatch.setattr(train, "train", fails)
    assert crossval.crossval(config, parted, 3) == results
    other = config_lib.resolve(config_lib.to_dict(config) | {"optim": {"learning_rate": 0.5}})
    with pytest.raises(ValueError, match=r"optim.learning_rate = 0.0005, now 0.5"):
        crossval.crossval(other, parted, 3)
