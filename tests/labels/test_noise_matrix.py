"""The noise matrix against loops from the formulas, and where the noise was planted."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rdfer_jax.labels import noise_matrix
from rdfer_jax.labels.noise_matrix import fit_noise

quick = hypothesis.settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def _random(seed, classes, videos=25):
    """Labels and distributions of any kind."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.5), videos)
    return rng.integers(classes, size=videos), probs


# ---- references: one video after the other, from the formulas


def _slow_confident_learning(labels, probs):
    """Given and true class of each video that counts -> P(given | true) and the joint."""
    videos, classes = probs.shape
    thresholds = {}
    for j in range(classes):
        values = [probs[n, j] for n in range(videos) if labels[n] == j]
        if values:
            thresholds[j] = sum(values) / len(values)
    counts = np.zeros((classes, classes))
    for n in range(videos):
        above = [j for j, threshold in thresholds.items() if probs[n, j] >= threshold - 1e-6]
        if above:
            counts[labels[n], max(above, key=lambda j: probs[n, j])] += 1
    joint = np.zeros((classes, classes))
    for i in range(classes):
        given = sum(int(label == i) for label in labels)
        if given and not counts[i].sum():
            counts[i, i] = 1
        for j in range(classes):
            joint[i, j] = given and counts[i, j] / counts[i].sum() * given / videos
    noise = np.eye(classes)
    for true in range(classes):
        if joint[:, true].sum() > 0:
            noise[true] = joint[:, true] / joint[:, true].sum()
    return noise, joint


def _slow_smoothed(counts):
    classes = len(counts)
    wrong = [counts[i].sum() - counts[i, i] for i in range(classes)]
    share = sum(wrong) / counts.sum()
    noise = np.zeros((classes, classes))
    for i in range(classes):
        rate = (wrong[i] + 10 * share) / (counts[i].sum() + 10)
        for j in range(classes):
            spread = (counts[i, j] + 1) / (wrong[i] + classes - 1)
            noise[i, j] = rate * spread if i != j else 1 - rate
    return noise


def _slow_fit(labels, probs, rounds):
    videos, classes = probs.shape
    noise = _slow_smoothed(_slow_confident_learning(labels, probs)[1].T * videos)
    sharpness = 1.0
    for step in range(rounds + 1):
        belief, truth = probs**sharpness, np.zeros_like(probs)
        counts, slope, curvature = np.zeros((classes, classes)), 0.0, 0.0
        for n in range(videos):
            belief[n] /= belief[n].sum()
            for c in range(classes):
                truth[n, c] = belief[n, c] * noise[c, labels[n]]
            truth[n] /= truth[n].sum()
            logs = np.log(probs[n])
            counts[:, labels[n]] += truth[n]
            slope += sum((truth[n] - belief[n]) * logs)
            curvature += sum(belief[n] * logs**2) - sum(belief[n] * logs) ** 2
        if step < rounds:
            noise = _slow_smoothed(counts)
            sharpness = min(5.0, max(0.2, sharpness + slope / curvature))
    wrong = sum(1 - truth[n, labels[n]] for n in range(videos)) / videos
    return noise, wrong, sharpness, belief


@quick
@hypothesis.given(seeds, st.integers(2, 5))
def test_noise_matrix_agrees_with_a_loop(seed, classes):
    labels, probs = _random(seed, classes)
    labels = np.minimum(labels, classes - 2)  # the last class is never given
    found = noise_matrix.noise_matrix(labels, probs)
    noise, joint = _slow_confident_learning(labels, probs)
    np.testing.assert_allclose(found.given, noise, atol=1e-12)
    np.testing.assert_allclose(found.joint, joint, atol=1e-12)
    assert found.share == pytest.approx(1 - np.trace(joint), abs=1e-12)
    assert found.absent == tuple(np.flatnonzero(joint.sum(axis=0) == 0))
    assert classes - 1 in found.absent


@quick
@hypothesis.given(seeds, st.integers(2, 5))
def test_fit_agrees_with_a_loop(seed, classes):
    labels, probs = _random(seed, classes)
    probs = (probs + 0.02) / (1 + 0.02 * classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise_matrix, "ROUNDS", 3)
        found = fit_noise(labels, probs)
    noise, share, sharpness, belief = _slow_fit(labels, probs, rounds=3)
    np.testing.assert_allclose(found.given, noise, atol=1e-9)
    np.testing.assert_allclose(found.belief, belief, atol=1e-9)
    assert found.share == pytest.approx(share, abs=1e-9)
    assert found.sharpness == pytest.approx(sharpness, abs=1e-9)


def test_noise_matrix_of_a_perfect_model_is_what_was_planted():
    rng = np.random.default_rng(0)
    true = rng.integers(3, size=200)
    given = np.where(rng.random(200) < 0.3, (true + 1) % 3, true)
    found = noise_matrix.noise_matrix(given, np.eye(3)[true])
    counts = np.zeros((3, 3))
    np.add.at(counts, (true, given), 1)
    np.testing.assert_allclose(found.given, counts / counts.sum(axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(found.joint, counts.T / 200, atol=1e-12)
    assert found.share == pytest.approx((true != given).mean())
    assert found.absent == ()


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_fit_finds_the_planted_noise_where_confident_learning_takes_mistakes_for_it(rate):
    rng = np.random.default_rng(1)
    sharp = rng.dirichlet(np.full(4, 0.25), 4000) + 1e-3
    sharp /= sharp.sum(axis=1, keepdims=True)
    true = (sharp.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
    given = np.where(rng.random(4000) < rate, true ^ 1, true)
    flat = sharp**0.5 / (sharp**0.5).sum(axis=1, keepdims=True)
    found = fit_noise(given, flat)
    planted = np.eye(4) * (1 - rate) + np.eye(4)[[1, 0, 3, 2]] * rate
    assert found.share == pytest.approx((given != true).mean(), abs=0.02)
    assert found.sharpness == pytest.approx(2, rel=0.1)
    np.testing.assert_allclose(found.given, planted, atol=0.04)
    np.testing.assert_allclose(found.given.sum(axis=1), 1)
    assert noise_matrix.noise_matrix(given, flat).share > rate + 0.05


def test_a_class_that_is_never_given_is_absent_and_gives_no_nan():
    probs = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    found = noise_matrix.noise_matrix([0, 1, 0], probs)
    assert found.absent == (2,)
    np.testing.assert_array_equal(found.given[2], [0, 0, 1])
    assert np.isfinite(found.given).all() and np.isfinite(found.joint).all()


@quick
@hypothesis.given(seeds)
def test_the_order_of_the_classes_changes_nothing(seed):
    labels, probs = _random(seed, 4)
    order = np.random.default_rng(seed).permutation(4)
    for function in (noise_matrix.noise_matrix, fit_noise):
        before, after = (
            function(labels, probs),
            function(np.argsort(order)[labels], probs[:, order]),
        )
        np.testing.assert_allclose(after.given, before.given[np.ix_(order, order)], atol=1e-9)


GOOD = np.full((2, 2), 0.5)


@pytest.mark.parametrize("function", [noise_matrix.noise_matrix, fit_noise])
@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        ([0, 1], GOOD[:, None], r"probs: expected shape \[N, C\], got \(2, 1, 2\)"),
        ([0, 5], GOOD, r"labels must lie in \[0, 2\)"),
        ([0.5, 1], GOOD, "labels: expected integers"),
        ([0, 1], GOOD * 2, "probs of video 0 sum to 2 "),
    ],
)
def test_noise_estimates_refuse_bad_input(function, labels, probs, message):
    with pytest.raises(ValueError, match=message):
        function(labels, probs)
