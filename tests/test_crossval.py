"""Cross-validation: who is tested where, what is gathered, and how it goes on."""

import dataclasses
import json

import numpy as np
import pytest
import raw_trees
import tiny

from rdfer_jax import config as config_lib
from rdfer_jax import crossval, train
from rdfer_jax.evaluate import Predictions
from rdfer_jax.pipeline import source


@pytest.mark.parametrize(("clips", "parts"), [(100, 5), (103, 4), (7, 7), (11, 2)])
def test_parts_are_equal_and_hold_equally_many_of_each_class(clips, parts):
    labels = np.random.default_rng(0).integers(0, 3, clips)
    found = source.part_of(labels, parts)
    assert set(found) == set(range(1, parts + 1))
    assert np.ptp(np.bincount(found)[1:]) <= 1
    for label in range(3):
        assert np.ptp(np.bincount(found[labels == label], minlength=parts + 1)[1:]) <= 1
    np.testing.assert_array_equal(found, source.part_of(labels, parts))
    # Dealt out in shuffled order: neighbours do not go to neighbouring parts in turn.
    alike = source.part_of(np.zeros(clips, int), parts)
    assert clips < 20 or (alike != np.arange(clips) % parts + 1).any()


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "1", "a/b", "1/5/2", "-1/5"])
def test_a_fold_that_is_none_is_refused(fold):
    with pytest.raises(ValueError, match=r"config.data.fold: .* is not a part"):
        tiny.config(data={"fold": fold})


def test_what_is_tested_on_is_not_trained_on(tmp_path):
    tiny.build(tmp_path)
    directory = source.find(tiny.data(tmp_path))
    tested = []
    for part in (1, 2, 3):
        data = tiny.data(tmp_path, fold=f"{part}/3")
        train_split, test_split = source.open_splits(directory, data)
        ids = [set(split.stored("clip_id")["clip_id"]) for split in (train_split, test_split)]
        assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == len(tiny.SPLITS["train"])
        tested += sorted(ids[1])
    assert len(tested) == len(set(tested)) == len(tiny.SPLITS["train"])
    whole, test_split = source.open_splits(directory, tiny.data(tmp_path))
    assert (len(whole), test_split.name) == (len(tiny.SPLITS["train"]), "test")
    with pytest.raises(ValueError, match=r"config.data.fold = '12/12': .* has only 11 clips"):
        source.open_splits(directory, tiny.data(tmp_path, fold="12/12"))


def test_a_set_that_is_stored_in_folds_is_tested_on_each_of_them(tmp_path):
    from data import build

    raw_trees.make_dfew(tmp_path / "raw")
    build.build("dfew", str(tmp_path / "tfds"), options={"source_dir": str(tmp_path / "raw")})
    config = tiny.config(data={"dir": str(tmp_path / "tfds"), "name": "dfew"})
    found = crossval.folds(config, 3)
    assert list(found) == [f"fold{i}" for i in range(1, 6)]
    assert found["fold2"].data.test_split == "fold2"
    assert found["fold2"].data.train_split == "fold1+fold3+fold4+fold5"
    assert not any(fold.data.fold for fold in found.values())


def test_another_set_is_cut_into_parts(tmp_path):
    tiny.build(tmp_path)
    config = tiny.config(data={"dir": str(tmp_path)})
    found = crossval.folds(config, 3)
    assert [fold.data.fold for fold in found.values()] == ["1/3", "2/3", "3/3"]
    assert all(fold.optim == config.optim for fold in found.values())
    with pytest.raises(ValueError, match="--folds=1: at least two"):
        crossval.folds(config, 1)
    one = dataclasses.replace(config, data=dataclasses.replace(config.data, fold="1/3"))
    with pytest.raises(ValueError, match="runs all of them"):
        crossval.folds(one, 3)


def fold_results(war, best=None):
    found = {"war": war, "uar": war - 0.1, "num_examples": 10}
    return found if best is None else found | {"best_on_validation": fold_results(best)}


def test_the_table_has_mean_and_standard_deviation_last_and_best_apart():
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


def test_a_clip_that_two_folds_predicted_is_an_error(tmp_path):
    for name in ("fold1", "fold2"):
        (tmp_path / name).mkdir()
        arrays = {"clip_id": np.array(["a", name]), "label": np.zeros(2, int)}
        Predictions("test", ("x",), arrays).save(tmp_path / name / "predictions.npz")
    with pytest.raises(ValueError, match="clip 'a' is in two folds"):
        crossval.gather(tmp_path, ["fold1", "fold2"])


@pytest.mark.slow
def test_an_interrupted_crossval_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    tiny.build(tmp_path)
    settings = {"duration": "1 steps", "tensorboard": False}
    config = tiny.config(data={"dir": str(tmp_path)}, train=settings)
    real, trained = train.train, []

    def stopped(fold_config, workdir):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(workdir.name)
        return real(fold_config, workdir)

    monkeypatch.setattr(train, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        crossval.crossval(config, tmp_path / "run", 2)
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.setattr(train, "train", real)
    before = (tmp_path / "run" / "fold1" / "results.json").stat().st_mtime_ns
    results = crossval.crossval(config, tmp_path / "run", 2)
    assert (tmp_path / "run" / "fold1" / "results.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results

    with np.load(tmp_path / "run" / "predictions.npz") as found:
        assert str(found["split"]) == crossval.OUT_OF_FOLD
        assert sorted(found["clip_id"]) == sorted(f"train-{i}" for i in range(11))
        for number in (1, 2):
            with np.load(tmp_path / "run" / f"fold{number}" / "predictions.npz") as fold:
                inside = found["fold"] == number
                np.testing.assert_array_equal(found["clip_id"][inside], fold["clip_id"])
                np.testing.assert_array_equal(found["clip_logits"][inside], fold["clip_logits"])
        right = (found["logits"].argmax(-1) == found["label"])[found["fold"] == 2]
    assert results["folds"]["fold2"]["war"] == pytest.approx(right.mean())

    # Finished, nothing is trained again; with other settings it is refused.
    def fails(*_):
        raise AssertionError

    monkeypatch.setattr(train, "train", fails)
    assert crossval.crossval(config, tmp_path / "run", 2) == results
    other = config_lib.resolve(config_lib.to_dict(config) | {"optim": {"learning_rate": 0.5}})
    with pytest.raises(ValueError, match=r"optim.learning_rate = 0.0005, now 0.5"):
        crossval.crossval(other, tmp_path / "run", 2)
