"""Checkpoints: atomic, bit-identical, and found by name."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tiny
from states import assert_equal, make_state, shapes

from rdfer_jax import sharding
from rdfer_jax.training.checkpoint import (
    BEST_METRICS,
    CheckpointNotFoundError,
    Checkpoints,
    OtherLayoutError,
    last_variables,
)
from rdfer_jax.training.setup import ModelSetup


def filled(workdir, scores, keep=2):
    """Checkpoints of steps 1, 2, ... with these metrics."""
    with Checkpoints(workdir, keep=keep) as checkpoints:
        for step, score in enumerate(scores, 1):
            metrics = None if score is None else dict.fromkeys(BEST_METRICS, score)
            checkpoints.save(step, make_state(step), metrics)
    return Checkpoints(workdir, keep=keep)


def test_a_state_is_restored_bit_for_bit(tmp_path):
    state = make_state(3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, None)
    with Checkpoints(tmp_path) as checkpoints:
        assert_equal(checkpoints.restore(3, shapes(state)), state)


def test_a_state_without_teacher_and_memory_is_restored(tmp_path):
    state = dataclasses.replace(make_state(1), teacher=None, memory=None)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None)
        found = checkpoints.restore(1, shapes(state))
    assert found.teacher is None and found.memory is None
    assert_equal(found, state)


def test_a_memory_of_another_layout_is_an_error_that_says_what_to_do(tmp_path):
    state = make_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, dataclasses.replace(state, memory=state.memory.probs), None)
        with pytest.raises(OtherLayoutError, match=r"got one array\. .* config.init_from"):
            checkpoints.restore(1, shapes(state))


def test_a_checkpoint_of_a_version_without_averages_is_restored(tmp_path):
    state = make_state(1)
    parts = {name: part for name, part in vars(state).items() if name != "average"}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, parts, None)
        assert_equal(checkpoints.restore(1, shapes(state)), state)


def test_the_last_variables_are_the_average_if_the_run_has_one(tmp_path):
    state = make_state(1)
    mean = jax.tree.map(lambda x: x + 1, state.variables)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, dataclasses.replace(state, average=mean), None)
        assert_equal(checkpoints.restore(1, shapes(state.replace(average=mean))).average, mean)
    assert_equal(last_variables(tmp_path)[1], mean)


def test_a_state_from_one_device_is_restored_to_eight(tmp_path):
    state, mesh = make_state(1), sharding.make_mesh()
    assert mesh.size == 8
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, None)
        found = checkpoints.restore(1, shapes(state, mesh))
    assert_equal(found, state)
    assert all(x.sharding == sharding.replicated(mesh) for x in jax.tree.leaves(found))


def test_the_newest_and_the_best_are_kept(tmp_path):
    with filled(tmp_path, [0.5, 0.9, 0.6, 0.7, None]) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.latest() == checkpoints.find("last") == 5
        assert checkpoints.best() == checkpoints.find("best") == 2
        assert checkpoints.find("4") == 4
        assert_equal(checkpoints.restore(2, shapes(make_state(2))), make_state(2))


def test_a_better_checkpoint_replaces_the_best(tmp_path):
    with filled(tmp_path, [0.5, 0.4, 0.6, None, None], keep=1) as checkpoints:
        assert checkpoints.steps() == [3, 5] and checkpoints.best() == 3


@pytest.mark.parametrize(("metric", "kept"), [("war", 1), ("uar", 2)])
def test_the_configured_score_chooses_the_best(tmp_path, metric, kept):
    scores = {1: (0.9, 0.4), 2: (0.7, 0.6), 3: (0.8, 0.5), 4: (0.6, 0.3)}
    with Checkpoints(tmp_path, best_metric=metric) as checkpoints:
        for step, pair in scores.items():
            checkpoints.save(step, make_state(step), dict(zip(BEST_METRICS, pair, strict=True)))
    with Checkpoints(tmp_path, best_metric=metric) as checkpoints:
        assert checkpoints.steps() == [kept, 4] and checkpoints.find("best") == kept


def test_a_step_is_saved_only_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), None)
        checkpoints.save(1, make_state(2), None)
        assert_equal(checkpoints.restore(1, shapes(make_state(1))), make_state(1))


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.latest() is None and checkpoints.best() is None
        for which in ("last", "best", "3"):
            with pytest.raises(CheckpointNotFoundError, match="holds no checkpoint: train first"):
                checkpoints.find(which)


def test_a_missing_checkpoint_is_named(tmp_path):
    with filled(tmp_path, [None, None]) as checkpoints:
        with pytest.raises(
            CheckpointNotFoundError, match=r"no checkpoint of step 7, only of \[1, 2\]"
        ):
            checkpoints.find("7")
        with pytest.raises(ValueError, match="'newest': expected last, best or a step"):
            checkpoints.find("newest")
        with pytest.raises(CheckpointNotFoundError, match=r"config.data.validation_percent"):
            checkpoints.find("best")


def test_test_scores_do_not_choose_the_best_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {"test_war": 0.9})
        assert checkpoints.best() is None
        with pytest.raises(CheckpointNotFoundError, match=r"config.data.validation_percent"):
            checkpoints.find("best")


def test_a_partly_written_checkpoint_is_ignored(tmp_path):
    filled(tmp_path, [None, None]).__exit__(None, None, None)
    folder = tmp_path / "checkpoints"
    (whole,) = [path for path in folder.iterdir() if path.name == "2"]
    unfinished = folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(whole, unfinished)
    next(path for path in unfinished.rglob("*") if path.is_file()).unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2] and checkpoints.find("last") == 2
        checkpoints.save(3, make_state(3), None)
        assert checkpoints.steps()[-1] == 3
        assert_equal(checkpoints.restore(3, shapes(make_state(3))), make_state(3))


def split_setup(choice, devices):
    """A small transformer whose parameters are split over the devices, or whole."""
    config = tiny.config(
        model={"trunk": "videovit_narrow"},
        train={"shard_parameters": choice},
        agreement={"teacher_decay": 0.9},
        data={"batch_size": 8},
    )
    return ModelSetup(config, sharding.make_mesh(devices), num_classes=3, num_train=20)


def test_a_state_split_over_devices_is_restored_split_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "LEAST_SPLIT", 1024)
    abstract = split_setup("always", jax.devices()).abstract_state()
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jax.device_put(
            rng.integers(0, 2**31, leaf.shape).astype(leaf.dtype), leaf.sharding
        ),
        abstract,
    )
    parts = {leaf.size // leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state)}
    assert parts == {1, 8}  # small arrays are whole
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state, None)
    whole = split_setup("never", jax.devices()).abstract_state()
    one = split_setup("always", jax.devices()[:1]).abstract_state()
    for wanted in (abstract, whole, one):
        with Checkpoints(tmp_path) as checkpoints:
            found = checkpoints.restore(5, wanted)
        assert_equal(found, state)
        layouts = jax.tree.map(lambda leaf, want: leaf.sharding == want.sharding, found, wanted)
        assert all(jax.tree.leaves(layouts))
