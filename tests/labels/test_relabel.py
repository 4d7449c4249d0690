"""Labels for a second training: which are replaced, by what, and the file that a run writes."""

import jax
import numpy as np
import pytest
import tiny

from rdfer_jax import commands, confident, config
from rdfer_jax import state as state_lib
from rdfer_jax.cli import parse
from rdfer_jax.labels import noise_matrix, relabel, skill
from rdfer_jax.memory import Memory
from rdfer_jax.pipeline import label_files
from rdfer_jax.training import run_dir
from rdfer_jax.training.checkpoint import Checkpoints
from rdfer_jax.training.setup import Setup

C = 4


def planted(seed=0, size=200):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, C, size)
    label = np.where(rng.random(size) < 0.3, (true + 1) % C, true)
    return label, rng.dirichlet(np.ones(C), size) * 0.6 + 0.4 * np.eye(C)[true]


def test_odds_above_the_threshold_replace_a_label_by_the_most_likely_class():
    label, probs = planted()
    for threshold in (0.0, 0.5, 0.6, 0.9):
        found = relabel.new_labels(label, probs, "odds", threshold)
        for video, y in enumerate(label):
            other = max(probs[video, c] for c in range(C) if c != y)
            replaced = other / (other + probs[video, y]) > threshold
            assert found[video] == (probs[video].argmax() if replaced else y)
    np.testing.assert_array_equal(
        relabel.new_labels(label, probs), relabel.new_labels(label, probs, "odds", 0.6)
    )


def test_the_posterior_is_that_of_training():
    label, probs = planted()
    noise = confident.noise_matrix(label.astype(np.int32), probs.astype(np.float32))
    expected = np.asarray(confident.posterior(probs.astype(np.float32), label, noise))
    found = noise_matrix.posterior(label, probs)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for threshold in (0.3, 0.5, 0.8):
        new = relabel.new_labels(label, probs, "posterior", threshold)
        for video, y in enumerate(label):
            replaced = 1 - found[video, y] > threshold
            assert new[video] == (found[video].argmax() if replaced else y)
    assert (new != label).any()


def test_certain_predictions_and_right_labels_leave_every_label():
    label = np.arange(8) % C
    for score in relabel.THRESHOLDS:
        np.testing.assert_array_equal(relabel.new_labels(label, np.eye(C)[label], score), label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "loss"}, "score: expected one of odds, posterior, got 'loss'"),
        ({"threshold": 1.5}, r"threshold: expected a number in \[0, 1\], got 1.5"),
        ({"labels_N": np.zeros(3, int)}, "probs: expected 3 rows"),
    ],
)
def test_a_wrong_argument_is_an_error(change, message):
    label, probs = planted()
    with pytest.raises(ValueError, match=message):
        relabel.new_labels(**({"labels_N": label, "probs_NC": probs} | change))


def saved_run(workdir, tiny_data, memory_decay=0.5, visited=True):
    """The folder of a run whose memory believes that every label but the first is one class higher."""
    settings = tiny.config(agreement={"memory_decay": memory_decay})
    settings = config.resolve(config.to_dict(settings) | {"data": vars(tiny_data)})
    setup = Setup.create(settings)
    label = setup.train.columns("label")["label"].astype(np.int32)
    believed = (label + (np.arange(len(label)) > 0)) % 3
    state = jax.eval_shape(
        lambda: state_lib.create(settings, setup.network, num_classes=3, num_train=len(label))
    )
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    if memory_decay:
        probs = 0.7 * (0.9 * np.eye(3, dtype=np.float32)[believed] + np.float32(0.1 / 3))
        memory = {"probs": probs, "label": label if visited else np.full_like(label, -1)}
        assert memory.keys() <= Memory.__dataclass_fields__.keys()
        state = state.replace(memory=state.memory.replace(**memory))
    workdir.mkdir(exist_ok=True)
    run_dir.write_config(workdir, settings)
    run_dir.write_data(workdir, setup.data_set, setup.classes, len(label))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(4, jax.device_put(state), None)
    return setup.train.columns("clip_id")["clip_id"], label, believed


def test_the_command_writes_what_the_run_remembers(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(skill, "LEVEL", 2.0)  # this run contradicts nearly every label
    clips, label, believed = saved_run(tmp_path / "run", tiny_data)
    output = tmp_path / "labels.csv"
    for more, expected, count in (([], believed, len(label) - 1), (["--threshold=0.99"], label, 0)):
        call = parse(["relabel", f"--workdir={tmp_path / 'run'}", f"--output={output}", *more])
        commands.COMMANDS["relabel"](call.flags)
        assert f"{count} of {len(label)} labels replaced" in capsys.readouterr().out
        assert label_files.read(output, tiny.CLASSES) == dict(zip(clips, expected, strict=True))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"memory_decay": 0.0}, "expected a run with config.agreement.memory_decay above 0, got 0"),
        (
            {},
            "no better than always naming the most frequent class: 9.1% of 11 labels are predicted",
        ),
        ({"visited": False}, "after 4 steps 11 of 11 training videos were not visited"),
    ],
)
def test_a_run_without_useful_predictions_is_an_error(how, message, tiny_data, tmp_path):
    saved_run(tmp_path / "run", tiny_data, **how)
    with pytest.raises(ValueError, match=message):
        relabel.write(tmp_path / "run", tmp_path / "labels.csv")
    assert not (tmp_path / "labels.csv").exists()
