"""Confident learning in graph against that in NumPy, and Bayes' rule video by video."""

import jax
import numpy as np
import pytest

from rdfer_jax import confident
from rdfer_jax.labels import noise_matrix as reference

N = 4
MATRIX = jax.jit(confident.noise_matrix, static_argnums=2)


def planted(seed, size=60, classes=N):
    """Labels of which some are wrong, and predictions that speak of the true class."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, size)
    wrong = rng.random(size) < 0.3
    label = np.where(wrong, (true + 1) % classes, true).astype(np.int32)
    probs = rng.dirichlet(np.ones(classes), size) * 0.4 + 0.6 * np.eye(classes)[true]
    return label, probs.astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [3, 20, 60])
def test_the_matrix_is_that_of_the_audit(seed, size):
    label, probs = planted(seed, size)
    expected = reference.noise_matrix(label, probs)
    np.testing.assert_allclose(MATRIX(label, probs, 0.0), expected.given, atol=1e-5)
    counts = confident.joint_counts(np.eye(N, dtype=np.float32)[label], probs)
    np.testing.assert_allclose(counts / size, expected.joint, atol=1e-5)


def test_the_matrix_finds_planted_noise():
    label, probs = planted(0, 4000)
    found = np.asarray(MATRIX(label, probs, 0.0))
    expected = 0.7 * np.eye(N) + 0.3 * np.roll(np.eye(N), 1, axis=1)
    np.testing.assert_allclose(found, expected, atol=0.06)


def test_videos_without_a_label_do_not_count():
    label, probs = planted(1)
    before = MATRIX(label, probs, 0.0)
    more = np.concatenate([label, np.full(20, -1, np.int32)])
    none = np.concatenate([probs, np.zeros((20, N), np.float32)])
    np.testing.assert_allclose(MATRIX(more, none, 0.0), before, atol=1e-6)
    # Before the first visit of any video, all labels count as right.
    np.testing.assert_array_equal(MATRIX(more[-20:], none[-20:], 0.0), np.eye(N))


@pytest.mark.parametrize("prior", [1.0, 25.0])
def test_a_prior_adds_videos_with_right_labels(prior):
    label, probs = planted(2, 15)
    counts = reference.noise_matrix(label, probs).joint.T * len(label) + prior * np.eye(N)
    expected = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(MATRIX(label, probs, prior), expected, atol=1e-5)


def test_distributions_as_labels_give_the_expected_counts():
    """Against the mean over drawn labels, with the thresholds of many videos, which hardly vary."""
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(N), 3000).astype(np.float32)
    found = np.asarray(confident.joint_counts(probs, probs))
    drawn = np.zeros((N, N))
    for _ in range(20):
        label = (rng.random((3000, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=N - 1)
        drawn += reference.noise_matrix(label, probs / probs.sum(1, keepdims=True)).joint * 3000
    np.testing.assert_allclose(found, drawn / 20, atol=25)


def test_the_share_of_wrong_labels_is_that_of_the_audit():
    for seed in range(4):
        label, probs = planted(seed)
        expected = reference.noise_matrix(label, probs).share
        np.testing.assert_allclose(confident.wrong_share(label, probs), expected, atol=1e-5)
    assert confident.wrong_share(np.full(9, -1), np.zeros((9, N), np.float32)) == 0


def slow_share_of_sure(label, probs):
    wrong = total = 0
    for c in range(N):
        videos = [i for i in range(len(label)) if label[i] >= 0 and probs[i].argmax() == c]
        peaks = [probs[i, c] for i in videos]
        sure = [i for i in videos if probs[i, c] >= np.median(peaks)]
        wrong += sum(label[i] != c for i in sure)
        total += len(sure)
    return wrong / total


def test_the_share_among_the_surest_is_that_of_the_formula():
    for seed in range(4):
        label, probs = planted(seed)
        label[:5] = -1
        found = confident.wrong_share_of_sure(label, probs)
        np.testing.assert_allclose(found, slow_share_of_sure(label, probs), rtol=1e-6)
    probs[:, 1] = 0  # a class that is never predicted
    found = confident.wrong_share_of_sure(label, probs)
    np.testing.assert_allclose(found, slow_share_of_sure(label, probs), rtol=1e-6)
    assert confident.wrong_share_of_sure(np.full(9, -1), np.zeros((9, N), np.float32)) == 0


def test_mistakes_in_hard_videos_are_no_wrong_labels_among_the_surest():
    """The network errs in half of the hard videos, a third of all, whose predictions are less sure."""
    rng = np.random.default_rng(5)
    true = rng.integers(0, N, 3000)
    hard = rng.random(3000) < 1 / 3
    errs = hard & (rng.random(3000) < 0.5)
    predicted = np.where(errs, (true + 1) % N, true)
    peak = np.where(hard, 0.5, 0.9)[:, None] + 0.05 * rng.random((3000, 1))
    probs = ((1 - peak) / N + peak * np.eye(N)[predicted]).astype(np.float32)
    for rate in (0.0, 0.3):
        wrong = rng.random(3000) < rate
        label = np.where(wrong, (true + 2) % N, true)
        found = float(confident.wrong_share_of_sure(label, probs))
        assert abs(found - rate) < 0.03
    assert (predicted != label).mean() > rate + 0.05


def test_the_posterior_is_bayes_rule():
    rng = np.random.default_rng(4)
    noise = rng.dirichlet(np.ones(N), N).astype(np.float32)
    probs = rng.dirichlet(np.ones(N), 6).astype(np.float32)
    label = np.array([0, 1, 2, 3, 1, 1], np.int32)
    found = confident.posterior(probs, label, noise)
    for video in range(6):
        joint = [float(probs[video, c]) * float(noise[c, label[video]]) for c in range(N)]
        np.testing.assert_allclose(found[video], np.array(joint) / sum(joint), rtol=1e-5)


def test_a_label_that_the_prediction_excludes_is_believed_if_labels_are_right():
    probs = np.eye(N, dtype=np.float32)[[2]]
    label = np.array([1], np.int32)
    np.testing.assert_array_equal(confident.posterior(probs, label, np.eye(N)), np.eye(N)[[1]])
