"""Reliability, ECE and excess AURC, against slow references and scikit-learn."""

import math

import hypothesis
import numpy as np
import pytest
import sklearn.calibration
from hypothesis import strategies as st
from scipy import special

from rdfer_jax import calibration, metrics

quick = hypothesis.settings(max_examples=60, deadline=None)


def _slow_ece(confidence, correct, bins):
    total = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        inside = [
            (c, r)
            for c, r in zip(confidence, correct, strict=True)
            if low < c <= high or (index == 0 and c == 0)
        ]
        if inside:
            gap = np.mean([r for _, r in inside]) - np.mean([c for c, _ in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


@quick
@hypothesis.given(
    # Also 0, 1 and borders of bins.
    st.lists(
        st.tuples(
            st.floats(0, 1) | st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.6, 1.0]), st.booleans()
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([1, 4, 5, 15]),
)
def test_ece_agrees_with_a_loop(pairs, bins):
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    expected = _slow_ece(confidence, correct, bins)
    assert calibration.ece(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)


def test_reliability_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 500)
    correct = rng.uniform(size=500) < confidence**2
    curve = calibration.reliability(confidence, correct)
    accuracy, mean_confidence = sklearn.calibration.calibration_curve(
        correct, confidence, n_bins=15
    )
    filled = curve.size > 0
    np.testing.assert_allclose(curve.accuracy[filled], accuracy, atol=1e-12)
    np.testing.assert_allclose(curve.confidence[filled], mean_confidence, atol=1e-12)
    assert curve.size.sum() == 500
    assert not filled[:4].any()
    assert np.isnan(curve.accuracy[:4]).all()
    assert np.isnan(curve.confidence[:4]).all()
    np.testing.assert_allclose(curve.center, np.arange(15) / 15 + 1 / 30)


def test_ece_of_known_cases():
    # In four bins: one of confidence 0.9 on average and accuracy 0.5, one that is right.
    assert calibration.ece([0.8, 1.0, 0.5, 0.5], [1, 0, 0, 1], 4) == pytest.approx(0.5 * 0.4)
    assert calibration.ece([1.0, 1.0], [1, 1]) == 0
    assert calibration.ece([1.0000001, -1e-9], [1, 0]) == pytest.approx(0, abs=1e-6)
    assert math.isnan(calibration.ece([], []))


def test_excess_aurc_is_the_distance_to_the_best_order():
    rng = np.random.default_rng(0)
    confidence, correct = rng.integers(5, size=200), rng.integers(2, size=200)
    assert calibration.excess_aurc(correct, correct) == 0
    worst, excess = (calibration.excess_aurc(x, correct) for x in (-correct, confidence))
    assert worst > excess > 0
    best = metrics.aurc(correct, correct)
    assert excess == pytest.approx(metrics.aurc(confidence, correct) - best)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([0.5, 1.5], [0, 1], r"confidence: expected values in \[0, 1\]"),
        ([0.5], [0, 1], "expected two vectors of one length"),
        ([0.5, np.nan], [0, 1], "1 of 2 scores are NaN"),
    ],
)
def test_ece_refuses(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        calibration.ece(confidence, correct)
    with pytest.raises(ValueError, match="bins: expected a positive number, got 0"):
        calibration.ece([0.5], [1], 0)


def test_the_temperature_has_the_lowest_loss_of_a_grid():
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((2000, 7))
    probs = special.softmax(logits, axis=-1)
    label = np.array([rng.choice(7, p=p) for p in probs])
    found = calibration.temperature(3 * logits, label)

    def loss(scale):
        return -np.log(special.softmax(3 * logits / scale, axis=-1)[range(2000), label]).mean()

    assert loss(found) <= min(loss(scale) for scale in np.linspace(0.5, 7, 300)) + 1e-6
    assert found == pytest.approx(3, rel=0.1)


def test_halves_are_calibrated_by_each_other():
    rng = np.random.default_rng(1)
    logits = 2 * rng.standard_normal((4000, 7))
    label = np.array([rng.choice(7, p=p) for p in special.softmax(logits, axis=-1)])
    found = calibration.calibrated(3 * logits, label)
    assert found["temperature"] == calibration.temperature(3 * logits, label)
    assert found["ece"] > 0.1 > 0.03 > found["ece_calibrated"]
    # The temperature of a half does not come from it: with random labels in one, only the other suffers.
    label[::2] = rng.permutation(label[::2])
    probs = np.empty_like(logits)
    for half in (0, 1):
        scale = calibration.temperature(3 * logits[1 - half :: 2], label[1 - half :: 2])
        probs[half::2] = special.softmax(3 * logits[half::2] / scale, axis=-1)
    expected = _slow_ece(probs.max(-1), probs.argmax(-1) == label, 15)
    found = calibration.calibrated(3 * logits, label)["ece_calibrated"]
    assert found == pytest.approx(expected, abs=1e-9)


def test_few_examples_give_no_temperature():
    logits = np.eye(3)[np.arange(calibration.LEAST - 1) % 3]
    found = calibration.calibrated(logits, np.arange(len(logits)) % 3)
    assert found["temperature"] is None and "ece_calibrated" not in found and found["ece"] > 0
