"""Evaluation of a network with a fixed rule, and scores of made-up predictions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
import tiny

from rdfer_jax import models, sharding
from rdfer_jax import state as state_lib
from rdfer_jax.pipeline import loader, sampling, source
from rdfer_jax.training import evaluate
from rdfer_jax.training.predictions import Predictions
from rdfer_jax.types import Outputs

N = len(tiny.CLASSES)


def stub(clips, with_key):
    """A network whose clips predict the class of the mean color."""

    def read_clips(variables, frames, clips_BKT, train, rng=None, clip_frames=None):
        color_BN = frames.mean(axis=(1, 2, 3)).astype(jnp.float32)
        logits = jnp.broadcast_to(color_BN[:, None], (len(frames), clips, N))
        return models.Forward(Outputs(video_logits=color_BN, clip_logits=logits), {})

    def read_key_clips(variables, forward, key_class, train, rng=None):
        key = jnp.tile(jnp.array([1, 3], jnp.int32), (len(key_class), 1))
        return models.Forward(dataclasses.replace(forward.outputs, key_instants=key), {})

    return models.Network(
        lambda rng: {"params": {}},
        read_clips,
        read_key_clips if with_key else None,
        jnp.dtype("float32"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("with_key", "snippet"), [(True, 1), (True, 2), (False, 1)])
def test_networks_with_and_without_key_instants_are_evaluated(tiny_data, with_key, snippet):
    config = tiny.config(
        data={"dir": tiny_data.dir, "eval_batch_size": 4, "snippet": snippet},
        augment={"size": 16, "crop_area": (1, 1)},
    )
    network = stub(config.clips.number, with_key)
    state = state_lib.create(config, network, optax.sgd(0.1), num_classes=N, num_train=5)
    mesh = sharding.make_mesh(jax.devices()[:1])
    split = source.open_split(source.find(tiny_data), "test")
    found = evaluate.Evaluator(config, network, mesh)(state, split)
    assert found["clip_id"].tolist() == [split[i]["clip_id"].decode() for i in range(len(split))]
    assert found["logits"].shape == (len(split), N)
    for name in ("key_instants", "key_frames"):
        assert (name in found) == with_key
    if with_key:
        for i in range(len(split)):
            frames = sampling.frame_indices(len(split[i]["frames"]), 6, snippet=snippet)
            np.testing.assert_array_equal(found["key_frames"][i], frames[[1, 3]])
    summary = evaluate.summary(found)
    votes, probs = found["votes"], scipy.special.softmax(found["logits"].astype(float), axis=1)
    assert summary["clips_with_votes"] == len(split)
    assert summary["kl_votes"] == pytest.approx(scipy.stats.entropy(votes, probs, axis=1).mean())
    assert f"KL(votes || prediction) {summary['kl_votes']:.4f} nats, mean of the 5 clips" in (
        evaluate.describe(summary | {"checkpoint": "last", "step": 1})
    )
    assert ("key_frames_inside" in summary) == with_key
    assert {"war", "war_easy", "war_hard"} <= set(summary)


@pytest.fixture
def evaluator_of_a_split(tiny_data):
    """An evaluator, a state, and the evaluator's eval_split, whose last batch is not full."""
    config = tiny.config(
        data={"dir": tiny_data.dir, "eval_batch_size": 4}, augment={"size": 16, "crop_area": (1, 1)}
    )
    network = stub(config.clips.number, with_key=False)
    state = state_lib.create(config, network, optax.sgd(0.1), num_classes=N, num_train=5)
    split = source.open_split(source.find(tiny_data), "test")
    assert len(split) % 4
    mesh = sharding.make_mesh(jax.devices()[:1])
    with evaluate.Evaluator(config, network, mesh, eval_split=split) as evaluator:
        yield evaluator, state, split


@pytest.mark.slow
def test_the_eval_split_is_read_by_a_single_endless_loader(evaluator_of_a_split, monkeypatch):
    evaluator, state, split = evaluator_of_a_split
    started, eval_loader = [], loader.eval_loader
    monkeypatch.setattr(
        loader, "eval_loader", lambda *a, **k: started.append(k["rounds"]) or eval_loader(*a, **k)
    )
    once = evaluator(state, split.select(np.arange(len(split))))
    assert started == [1]
    for _ in range(3):
        again = evaluator(state, split)
        for name, array in once.arrays.items():
            np.testing.assert_array_equal(again[name], array, err_msg=name)
    assert started == [1, None]


@pytest.mark.slow
def test_an_evaluation_after_a_failed_one_is_complete(evaluator_of_a_split, monkeypatch):
    evaluator, state, split = evaluator_of_a_split
    whole = evaluator(state, split)
    predict, calls = evaluator._predict, iter(range(9))

    def fails(state, batch):
        if next(calls) == 0:
            raise ValueError("once")
        return predict(state, batch)

    monkeypatch.setattr(evaluator, "_predict", fails)
    with pytest.raises(ValueError, match="once"):
        evaluator(state, split)
    np.testing.assert_array_equal(evaluator(state, split)["clip_id"], whole["clip_id"])


def predictions(**known):
    """Predictions of five clips; the third is flipped."""
    arrays = {
        "logits": np.log([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.7, 0.3]]),
        "label": np.zeros(5, int),
        "agreement": np.array([0.9, 0.5, 0.1, 0.4, 0.8]),
        "noise_score": np.array([0.1, 0.4, 0.7, 0.2, 0.9]),
        "is_flipped": np.array([False, False, True, False, False]),
    }
    return Predictions("train", ("a", "b"), arrays | known)


def test_hard_clips_are_detected_by_disagreement_among_clips_with_true_labels():
    hard = np.array([False, True, True, False, True])
    found = evaluate.noise_detection(predictions(is_hard=hard))
    # Hard are 0.5 and 0.8 of agreement, easy 0.9 and 0.4: two of four pairs are in order.
    assert found["hard_auroc_agreement"] == pytest.approx(0.5)
    # By the score four of four pairs but one: 0.9 is above 0.7. The loss knows better.
    assert found["noise_auroc_agreement"] == pytest.approx(0.75)
    assert found["noise_auroc_loss"] == 1.0
    assert found["noise_auroc_agreement_among_hard"] == pytest.approx(0.5)
    # The agreement of the flipped clip has no part in it.
    other = predictions(is_hard=hard, agreement=np.array([0.9, 0.5, 1.0, 0.4, 0.8]))
    assert evaluate.noise_detection(other)["hard_auroc_agreement"] == pytest.approx(0.5)
    assert "hard_auroc_agreement" not in evaluate.noise_detection(predictions())
    nobody = evaluate.noise_detection(predictions(is_hard=np.zeros(5, bool)))
    assert nobody["hard_auroc_agreement"] is None


def test_key_frames_count_where_they_lie_in_the_segment_of_an_expression():
    label = np.array([0, 1, 1])
    arrays = {
        "label": label,
        "logits": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]),
        "is_hard": np.array([False, False, True]),
        "num_frames": np.array([10, 8, 16]),
        "key_start": np.array([0, 2, 4]),
        "key_end": np.array([10, 6, 8]),
        "key_frames": np.array([[0, 5], [2, 6], [7, 8]]),
    }
    found = evaluate.summary(Predictions("test", ("neutral", "happy"), arrays))
    # Of the happy clips, 2 and 7 lie inside, 6 and 8 just behind; the segments are 4 of 8 and of 16 frames.
    assert found["key_frames_inside"] == 0.5
    assert found["key_frames_inside_by_chance"] == (4 / 8 + 4 / 16) / 2
    assert (found["war_easy"], found["war_hard"]) == (1.0, 0.0)
    only = Predictions(
        "test", ("neutral",), {n: a[:1] for n, a in arrays.items()} | {"logits": np.ones((1, 1))}
    )
    assert evaluate.summary(only)["key_frames_inside"] is None


def test_clips_without_votes_do_not_count_in_the_divergence_from_them():
    votes = np.array([[3, 1], [0, 0], [2, 2], [0, 0], [4, 0]])
    found = evaluate.summary(predictions(votes=votes))
    probs = np.exp(predictions()["logits"])
    expected = [scipy.stats.entropy(votes[i], probs[i]) for i in (0, 2, 4)]
    assert (found["clips_with_votes"], found["kl_votes"]) == (3, pytest.approx(np.mean(expected)))
    for nobody in ({}, {"votes": np.zeros((5, 2))}):
        assert "kl_votes" not in evaluate.summary(predictions(**nobody))


@pytest.mark.slow
def test_clips_shorter_than_a_snippet_are_counted(evaluator_of_a_split, tiny_data, caplog):
    evaluator, state, split = evaluator_of_a_split  # of 4, 6, 11, 1 and 6 frames
    evaluator(state, split)
    assert "fewer than" not in caplog.text
    data = {"dir": tiny_data.dir, "eval_batch_size": 4, "snippet": 2, "stride": 5}
    config = tiny.config(
        data=data, augment={"size": 16, "crop_area": (1, 1)}, key={"enabled": False}
    )
    network = stub(config.clips.number, with_key=False)
    evaluate.Evaluator(config, network, sharding.make_mesh(jax.devices()[:1]))(state, split)
    assert "2 of 5 videos of split test have fewer than the 6 frames over which" in caplog.text


def wilson(share, number, z=1.959964):
    """The Wilson interval in closed form."""
    middle = (share + z * z / 2 / number) / (1 + z * z / number)
    half = z / (1 + z * z / number) * np.sqrt(share * (1 - share) / number + (z / 2 / number) ** 2)
    return f"{middle - half:.2f} to {middle + half:.2f}"


@pytest.mark.parametrize("clips", [4, 400])
@pytest.mark.parametrize("chosen_on", [2, 40])
def test_accuracies_have_intervals_and_few_clips_are_said_to_mean_little(clips, chosen_on):
    half = clips // 2
    results = {
        "checkpoint": "best", "step": 9, "split": "test", "war": 0.75, "uar": 0.75,
        "num_examples": clips, "recall_per_class": {"a": 1.0, "b": 0.5},
        "confusion_matrix": [[half, 0], [half // 2, half // 2]],
        "chosen_on": chosen_on, "chosen_war": 0.5,
    }  # fmt: skip
    said = evaluate.describe(results)
    assert f"WAR {wilson(0.75, clips)}, UAR" in said
    assert ("only 2 clips of the rarest class" in said) == (clips == 4)
    assert f"chosen on {chosen_on} clips, by WAR 0.50 ({wilson(0.5, chosen_on)})" in said
    assert ("so few mean little, and the last checkpoint is the safer one" in said) == (
        chosen_on == 2
    )
