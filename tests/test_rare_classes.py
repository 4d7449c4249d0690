"""Rare classes: class priors, logit adjustment, corrected odds and protected labels, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_losses as tools
import tiny
from hypothesis import given
from hypothesis import strategies as st

from rdfer_jax import agreement, losses, models, priors, steps
from rdfer_jax import config as config_lib
from rdfer_jax import memory as memory_lib
from rdfer_jax import state as state_lib
from rdfer_jax.agreement import Verdict
from rdfer_jax.losses import criteria
from rdfer_jax.training.setup import Setup
from rdfer_jax.types import Batch, Outputs

N = tools.N
PRIOR = np.array([0.4, 0.3, 0.2, 0.08, 0.02], np.float32)
#: Methods that read the logits otherwise than through the criteria.
READS_LOGITS = ("agreement", "elr", "scn")


def slow_divided(probs, prior, strength):
    rows = []
    for row in probs:
        ratio = [float(p) / float(q) ** strength for p, q in zip(row, prior, strict=True)]
        rows.append([r / sum(ratio) for r in ratio])
    return np.array(rows)


def slow_odds(probs, label):
    found = []
    for row, own in zip(probs, label, strict=True):
        other = max(p for n, p in enumerate(row) if n != own)
        found.append(other / (other + row[own]))
    return np.array(found)


def test_shares_are_counts_over_their_sum_and_never_zero():
    labels = np.array([0, 0, 0, 2, 2, 4])
    np.testing.assert_allclose(priors.shares(labels, 5), np.array([3, 1, 2, 1, 1]) / 8)
    assert priors.shares(labels, 5).dtype == np.float32


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_divided_probabilities_are_the_formula(seed, strength):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(N), 4).astype(np.float32)
    found = priors.divided(probs, PRIOR, strength)
    np.testing.assert_allclose(found, slow_divided(probs, PRIOR, strength), rtol=1e-4, atol=1e-6)


def test_the_class_mean_is_that_of_visited_videos():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(N), 6).astype(np.float32)
    visited = np.array([1, 0, 1, 1, 0, 0], bool)
    np.testing.assert_allclose(
        priors.class_mean(probs, visited), probs[visited].mean(axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(priors.class_mean(probs, visited & False), np.full(N, 1 / N))


def adjusted(method, tau, outputs=None, **changes):
    outputs = tools.make_outputs() if outputs is None else outputs
    evidence = tools.make_evidence(prior=PRIOR, **changes)
    return tools.per_video(outputs, evidence, tools.of(method, logit_adjustment=tau))


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_adjusted_loss_is_the_formula_on_all_heads(tau):
    """Cross-entropy of softmax(logits + tau log prior), Menon et al. (2021), video by video."""
    outputs = tools.make_outputs()
    found = adjusted("cross_entropy", tau)
    shift = tau * np.log(PRIOR.astype(np.float64))
    for video in range(tools.B):
        targets = np.array(tools.slow_targets(tools.LABEL[video], tools.SETTINGS.label_smoothing))
        expected = tools.slow_hierarchical(
            outputs,
            targets,
            tools.SETTINGS,
            video,
            lambda logits, t: tools.slow_cross_entropy(logits + shift, t),
        )
        np.testing.assert_allclose(found[video], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", losses.METHODS)
def test_a_method_takes_the_adjusted_logits(method):
    if method not in READS_LOGITS:
        outputs = tools.make_outputs()
        shift = np.log(PRIOR)
        moved = {name: getattr(outputs, name) + shift for name in tools.HEADS}
        expected = adjusted(method, 0.0, dataclasses.replace(outputs, **moved))
        np.testing.assert_allclose(adjusted(method, 1.0), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(adjusted(method, 1.0) - adjusted(method, 0.0)).max() > 0.01


@pytest.mark.parametrize("method", losses.METHODS)
def test_without_adjustment_the_prior_changes_no_bit(method):
    plain = tools.per_video(tools.make_outputs(), tools.make_evidence(), tools.of(method))
    np.testing.assert_array_equal(adjusted(method, 0.0), plain)


def test_the_penalty_of_elr_and_the_choice_of_scn_read_the_logits_themselves():
    outputs, shift = tools.make_outputs(), np.log(PRIOR)
    moved = {name: getattr(outputs, name) + shift for name in tools.HEADS}
    moved = dataclasses.replace(outputs, **moved)
    found = adjusted("elr", 1.0) - adjusted("elr", 0.0, moved)
    penalty = adjusted("elr", 0.0) - adjusted("cross_entropy", 0.0)
    moved_penalty = adjusted("elr", 0.0, moved) - adjusted("cross_entropy", 0.0, moved)
    np.testing.assert_allclose(found, penalty - moved_penalty, rtol=1e-3, atol=1e-4)
    # Here SCN takes all predictions as labels: those of the logits themselves.
    with_all = {"scn_margin": 0.0, "scn_share": 1.0, "label_smoothing": 0.0}
    settings = tools.of("scn", logit_adjustment=1.0, **with_all)
    new_labels = np.asarray(outputs.video_logits).argmax(axis=-1)
    expected = criteria.supervised(moved, new_labels, settings)
    evidence = tools.make_evidence(prior=PRIOR)
    np.testing.assert_allclose(tools.per_video(outputs, evidence, settings), expected, rtol=1e-4)


def test_a_blended_target_is_a_prediction_of_the_adjusted_logits():
    """A noisy video whose prediction is remembered exactly has nothing to learn."""
    outputs = tools.make_outputs()
    probs = jax.nn.softmax(outputs.video_logits)
    verdict = dataclasses.replace(tools.make_verdict(), probs=probs)
    partition = tools.make_partition(["noisy"] * tools.B)
    evidence = tools.make_evidence(prior=PRIOR, verdict=verdict, partition=partition)
    settings = tools.of("agreement", noisy_target=1.0, logit_adjustment=1.0)
    found = tools.gradient(outputs, evidence, settings)
    np.testing.assert_allclose(found["video_logits"], 0, atol=1e-6)


def test_an_adjustment_without_a_prior_is_an_error():
    with pytest.raises(ValueError, match="needs the class prior"):
        losses.per_video(
            tools.make_outputs(), tools.make_evidence(), tools.of("gce", logit_adjustment=1.0)
        )


def make_memory(seed=0, videos=12):
    """Head classes 0 and 1 are predicted most; a third of the videos was never visited."""
    rng = np.random.default_rng(seed)
    memory = memory_lib.create(videos, N)
    probs = rng.dirichlet(20 * PRIOR, videos).astype(np.float32)
    label = rng.integers(0, N, videos).astype(np.int32)
    seen = np.arange(videos) % 3 > 0
    return dataclasses.replace(
        memory,
        probs=np.where(seen[:, None], 0.5 * probs, 0),
        label=np.where(seen, label, -1),
        visits=seen.astype(np.int32),
    ), probs[seen]


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_corrected_odds_are_those_of_the_memory_over_its_class_mean(strength):
    memory, seen = make_memory()
    verdict = tools.make_verdict()
    found = agreement.correct_for_prior(verdict, tools.LABEL, memory, strength)
    corrected = slow_divided(verdict.probs, seen.mean(axis=0), strength)
    np.testing.assert_allclose(found.noise_score, slow_odds(corrected, tools.LABEL), rtol=1e-4)
    for name in ("agreement", "consensus", "probs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(verdict, name))


def test_corrected_odds_spare_a_rare_class():
    """Remembered as class 0 (40 % of the data) at 0.6 and as its label 4 (2 %) at 0.3: 0.67, then 0.09."""
    probs = np.array([[0.6, 0.05, 0.05, 0.0, 0.3]], np.float32)
    label = np.array([4])
    memory = dataclasses.replace(
        memory_lib.create(1, N), probs=PRIOR[None], visits=np.array([1], np.int32)
    )
    verdict = Verdict(
        agreement=np.ones(1, np.float32),
        consensus=np.array([0]),
        probs=probs,
        noise_score=np.asarray(agreement.odds_against(probs, label)),
    )
    assert verdict.noise_score[0] == pytest.approx(2 / 3)
    found = agreement.correct_for_prior(verdict, label, memory, 1.0)
    assert found.noise_score[0] == pytest.approx(1.5 / 16.5, rel=1e-3)


def test_labels_of_rare_classes_are_kept_on_weak_evidence():
    settings = config_lib.Agreement(protect_below=0.1, protect_threshold=0.9)
    label = np.array([4, 4, 3, 0, 4, 2])
    score = np.array([0.8, 0.95, 0.9, 0.8, 0.5, 0.85], np.float32)
    verdict = dataclasses.replace(tools.make_verdict(), noise_score=score)
    partition = tools.make_partition(["noisy", "noisy", "noisy", "noisy", "clean", "noisy"])
    found, parts = agreement.protect(verdict, partition, label, PRIOR, settings)
    kinds = ["hard", "noisy", "hard", "noisy", "clean", "noisy"]
    expected = tools.make_partition(kinds)
    for name in tools.KINDS:
        np.testing.assert_array_equal(getattr(parts, name), getattr(expected, name))
    kept = np.array([PRIOR[n] < 0.1 and s <= 0.9 for n, s in zip(label, score, strict=True)])
    np.testing.assert_array_equal(found.noise_score, np.where(kept, 0, score))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": {"logit_adjustment": 1.0}, "data": {"sampling": "balanced"}},
            "logit_adjustment: expected 0 .* got 1.0",
        ),
        (
            {"agreement": {"prior_correction": 1.0, "memory_decay": 0.0}},
            "prior_correction: expected 0 without a memory",
        ),
        ({"agreement": {"prior_correction": 1.0, "score": "support"}}, "other than 'odds'"),
        (
            {"agreement": {"protect_below": 0.1, "protect_threshold": 0.4}},
            "protect_threshold: expected at least .* = 0.5, got 0.4",
        ),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(**changes)


@pytest.mark.parametrize("changes", [{}, {"validation_percent": 20.0}, {"fold": "2/3"}])
def test_the_prior_is_that_of_the_labels_trained_on(tiny_data, tmp_path, changes):
    path = tmp_path / "labels.csv"
    path.write_text("clip_id,label\ntrain-0,fear\ntrain-3,fear\ntrain-6,fear\ntrain-5,sad\n")
    data = {"dir": tiny_data.dir, "name": tiny_data.name, "labels": str(path)} | changes
    setup = Setup.create(tiny.config(data=data, loss={"logit_adjustment": 1.0}))
    counts = np.bincount([record["label"] for record in setup.train], minlength=3)
    np.testing.assert_allclose(setup.class_prior, counts / counts.sum(), rtol=1e-6)
    plain = Setup.create(tiny.config(data=data))
    assert plain.class_prior is None


ROWS, BATCH = 16, 8


@pytest.mark.slow
def test_a_step_uses_all_of_it():
    config = tiny.config(
        agreement={
            "prior_correction": 1.0,
            "protect_below": 0.2,
            "protect_threshold": 0.9,
            "noise_threshold": 0.5,
            "memory_decay": 0.5,
        },
        loss={"robust_from": "0 %", "logit_adjustment": 1.0},
        data={"batch_size": BATCH},
    )
    network = models.create(config, 3, "cpu")
    grad_fn = steps.make_grad_fn(config, network, total_steps=9, steps_per_epoch=3)
    rng = np.random.default_rng(0)
    batch = Batch(
        frames=rng.integers(0, 256, (BATCH, config.data.frames, 16, 16, 3), np.uint8),
        label=(np.arange(BATCH) % 3).astype(np.int32),
        index=np.arange(BATCH, dtype=np.int32),
        mask=np.ones(BATCH, bool),
    )
    # All were believed to be of class 0, as frequent classes are.
    believed = jnp.asarray(rng.dirichlet([30, 2, 1], ROWS), jnp.float32)

    def step(prior):
        state = state_lib.create(config, network, num_classes=3, num_train=ROWS, class_prior=prior)
        ones = jnp.ones(ROWS, jnp.int32)
        memory = dataclasses.replace(
            state.memory, probs=0.5 * believed, label=0 * ones, visits=ones
        )
        return grad_fn(dataclasses.replace(state, memory=memory), batch)[1]

    step = jax.jit(step)
    prior = np.array([0.7, 0.2, 0.1], np.float32)
    found, other = step(prior), step(prior[::-1])
    memory = found["memory"]
    probs = np.asarray(memory_lib.remembered(memory))
    corrected = slow_divided(probs[:BATCH], probs.mean(axis=0), 1.0)
    odds = slow_odds(corrected, batch.label)
    rare = batch.label == 2
    expected = np.where(rare & (odds <= 0.9), 0, odds)
    assert rare.any() and (expected[rare] == 0).any()
    np.testing.assert_allclose(found["verdict"].noise_score, expected, rtol=1e-3, atol=1e-5)
    for aux, used in ((found, prior), (other, prior[::-1])):
        evidence = losses.Evidence(
            label=batch.label, verdict=aux["verdict"], partition=aux["partition"],
            progress=jnp.ones(()), prior=used,
        )  # fmt: skip
        again = losses.per_video(aux["outputs"], evidence, config.loss)
        np.testing.assert_allclose(aux["loss"], again, rtol=1e-4)
    assert np.abs(found["loss"] - other["loss"]).max() > 0.1


@pytest.mark.slow
def test_a_mixture_of_thresholds_is_fitted_to_corrected_odds():
    """Odds of the batch and of the memory are on one scale: who is noisy is what corrected odds say."""
    memory, _ = make_memory(seed=1, videos=90)
    memory = dataclasses.replace(memory, label=np.arange(90, dtype=np.int32) % N)
    seen = np.flatnonzero(memory.visits)
    rows = memory_lib.rows(memory, seen)
    verdict = Verdict(
        agreement=np.linspace(0.5, 1, len(seen), dtype=np.float32),
        consensus=np.asarray(rows.probs).argmax(axis=-1),
        probs=memory_lib.remembered(rows),
        noise_score=agreement.odds_against(memory_lib.remembered(rows), rows.label),
    )
    verdict = agreement.correct_for_prior(verdict, rows.label, memory, 1.0)
    settings = config_lib.Agreement(threshold_kind="mixture", threshold=0.0, prior_correction=1.0)
    parts = agreement.partition(verdict, rows.label, settings, memory)
    other = dataclasses.replace(settings, prior_correction=0.0)
    assert np.any(parts.noisy != agreement.partition(verdict, rows.label, other, memory).noisy)
    mean = np.asarray(memory_lib.remembered(rows)).mean(axis=0)
    score = slow_odds(slow_divided(verdict.probs, mean, 1.0), rows.label)
    # One threshold on the corrected odds parts those whose consensus is another class.
    on_other = verdict.consensus != rows.label
    noisy = np.asarray(parts.noisy)
    assert noisy.any() and not noisy[~on_other].any()
    assert score[noisy].min() > score[on_other & ~noisy].max()


def test_adjusted_training_finds_the_rare_class():
    """A linear network on DFEW's shares: per-class recall with and without the adjustment."""
    shares = np.array([0.6, 0.38, 0.02])
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])

    def sample(counts):
        label = np.repeat(np.arange(3), counts)
        points = centers[label] + rng.standard_normal((len(label), 2))
        return np.c_[points, np.ones(len(label))].astype(np.float32), label

    points, label = sample((1000 * shares).astype(int))
    verdict = Verdict(
        agreement=np.ones(len(label)), consensus=label, probs=np.eye(3)[label],
        noise_score=np.zeros(len(label)),
    )  # fmt: skip
    evidence = losses.Evidence(
        label=label, verdict=verdict, partition=agreement.all_clean(len(label)),
        progress=jnp.ones(()), prior=priors.shares(label, 3),
    )  # fmt: skip

    def recalls(tau):
        settings = config_lib.Loss(
            method="cross_entropy", label_smoothing=0.0, clips=0.0, logit_adjustment=tau
        )

        def loss(weights):
            logits = points @ weights
            outputs = Outputs(video_logits=logits, clip_logits=logits[:, None])
            return losses.per_video(outputs, evidence, settings).mean()

        step = jax.jit(lambda weights: weights - jax.grad(loss)(weights))
        weights = jnp.zeros((3, 3))
        for _ in range(400):
            weights = step(weights)
        test_points, test_label = sample([2000] * 3)
        right = np.argmax(test_points @ weights, axis=-1) == test_label
        return np.array([right[test_label == c].mean() for c in range(3)])

    plain, adjusted_ = recalls(0.0), recalls(1.0)
    assert plain[2] < 0.3 and adjusted_[2] > 0.6
    assert adjusted_.mean() > plain.mean() + 0.1
