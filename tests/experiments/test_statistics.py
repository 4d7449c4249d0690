"""Intervals over seeds and clips, AUROC with its covariance, and Holm's correction."""

import numpy as np
import pytest

from experiments import statistics
from experiments.statistics import (
    bootstrap,
    bootstrap_auroc,
    bootstrap_shared,
    estimate,
    holm,
    pair_groups,
)


def slow_groups(label, first, second, classes):
    table = np.zeros((classes, 2, 2), int)
    for y, a, b in zip(label, first, second, strict=True):
        table[y, int(a == y), int(b == y)] += 1
    return table.ravel()


def predictions(seed, clips=60, classes=3):
    rng = np.random.default_rng(seed)
    label = rng.integers(classes, size=clips)
    noisy = [
        np.where(rng.random(clips) < p, rng.integers(classes, size=clips), label)
        for p in (0.3, 0.5)
    ]
    return label, *noisy


def test_groups_war_and_uar_are_those_of_a_loop_over_clips():
    for seed in range(5):
        label, first, second = predictions(seed)
        groups = pair_groups(label, first, second, 4)  # the last class does not occur
        np.testing.assert_array_equal(groups, slow_groups(label, first, second, 4))
        for method, predicted in enumerate((first, second)):
            right = predicted == label
            assert statistics.war(groups * 1.0, method) == pytest.approx(right.mean())
            recalls = [right[label == c].mean() for c in range(3)]
            assert statistics.uar(groups * 1.0, method) == pytest.approx(np.mean(recalls))


def test_the_bootstrap_is_that_of_a_loop_over_seeds_and_clips():
    """A loop that draws seeds, then each one's clips, gives the same distribution."""
    runs = [predictions(seed) for seed in range(4)]
    counts = np.stack([pair_groups(*run, 3) for run in runs])
    rng = np.random.default_rng(1)
    slow = []
    for _ in range(3000):
        values = []
        for s in rng.integers(4, size=4):
            label, first, second = runs[s]
            drawn = rng.integers(len(label), size=len(label))
            right = [(p[drawn] == label[drawn]).mean() for p in (first, second)]
            values.append(right[0] - right[1])
        slow.append(np.mean(values))
    found = bootstrap(counts, lambda g: statistics.war(g, 0) - statistics.war(g, 1), draws=3000)
    expected = estimate(slow, 0.0)
    observed = np.mean([(a == y).mean() - (b == y).mean() for y, a, b in runs])
    assert found.mean == pytest.approx(observed)
    spread = np.std(slow)
    assert found.low == pytest.approx(expected.low, abs=0.15 * spread)
    assert found.high == pytest.approx(expected.high, abs=0.15 * spread)


@pytest.mark.parametrize(("spread", "least", "most"), [(0.0, 0.95, 1.0), (0.01, 0.91, 0.99)])
def test_the_interval_covers_the_truth(spread, least, most):
    """Five seeds of 2,000 clips, whose difference has a clip error of 0.01, and a spread over seeds."""
    rng = np.random.default_rng(0)
    truth, covered, repeats = 0.02, 0, 200
    for _ in range(repeats):
        apart = truth + spread * rng.standard_normal(5)
        probabilities = np.stack([[0.2, 0.1 - d / 2, 0.1 + d / 2, 0.6] for d in apart])
        counts = rng.multinomial(2000, probabilities)
        found = bootstrap(
            counts, lambda g: statistics.war(g, 0) - statistics.war(g, 1),
            draws=1000, seed=int(rng.integers(2**31)),
        )  # fmt: skip
        covered += found.low <= truth <= found.high
    assert least <= covered / repeats <= most


def test_undefined_values_are_left_out():
    counts = np.array([[0, 0, 30], [10, 10, 10]])
    found = bootstrap(counts, lambda g: statistics.share(g, [0], [0, 1]), draws=500)
    assert found.mean == 0.5 and 0 < found.low < 0.5 < found.high < 1
    nothing = bootstrap(counts[:1], lambda g: statistics.share(g, [0], [0, 1]), draws=50)
    assert np.isnan(nothing).all()


def test_p_values_count_draws_on_both_sides_of_zero():
    assert estimate([1, 2, 3, 4, -1, 5, 6, 7, 8], 3.0).p == pytest.approx(2 * 2 / 10)
    assert estimate(np.zeros(9), 0.0).p == 1
    assert estimate(np.arange(1, 100), 50.0).p == pytest.approx(0.02)
    low, high = estimate(np.arange(101), 50.0)[1:3]
    assert (low, high) == pytest.approx((2.5, 97.5))


def slow_delong(scores, positive):
    """Structural components by two loops."""
    pos, neg = scores[:, positive], scores[:, ~positive]
    psi = (pos[:, :, None] > neg[:, None]) + 0.5 * (pos[:, :, None] == neg[:, None])
    v10, v01 = psi.mean(2), psi.mean(1)
    return psi.mean((1, 2)), np.cov(v10) / pos.shape[1] + np.cov(v01) / neg.shape[1]


def test_auroc_and_its_covariance_are_delongs():
    rng = np.random.default_rng(0)
    positive = rng.random(80) < 0.3
    scores = rng.standard_normal((3, 80)) + positive * np.array([[0.5], [1.0], [2.0]])
    scores[1] = scores[1].round(1)  # ties
    auroc, covariance = statistics.auroc_covariance(scores, positive)
    expected, expected_covariance = slow_delong(scores, positive)
    np.testing.assert_allclose(auroc, expected)
    np.testing.assert_allclose(covariance, expected_covariance)
    assert np.isnan(statistics.auroc_covariance(scores, np.ones(80, bool))[0]).all()


def test_the_interval_of_an_auroc_is_that_of_drawing_clips():
    rng = np.random.default_rng(0)
    positive = rng.random(600) < 0.4
    scores = rng.standard_normal((2, 600)) + positive * np.array([[1.0], [1.2]])
    auroc, covariance = statistics.auroc_covariance(scores, positive)
    drawn = []
    for _ in range(400):
        pick = rng.integers(600, size=600)
        drawn.append(np.subtract(*statistics.auroc_covariance(scores[:, pick], positive[pick])[0]))
    found = bootstrap_auroc([auroc], [covariance], [1, -1])
    assert found.mean == pytest.approx(auroc[0] - auroc[1])
    assert (found.high - found.low) / 3.92 == pytest.approx(np.std(drawn), rel=0.15)
    # Seeds that differ widen it.
    wider = bootstrap_auroc([auroc, auroc - [0.1, 0]], [covariance] * 2, [1, -1])
    assert wider.high - wider.low > found.high - found.low
    # Of seeds with the same clips, the errors do not average out.
    four = [[auroc] * 4, [covariance] * 4, [1, -1]]
    assert np.ptp(bootstrap_auroc(*four)[1:3]) == pytest.approx(np.ptp(found[1:3]) / 2, rel=0.1)
    assert np.ptp(bootstrap_auroc(*four, shared=True)[1:3]) == pytest.approx(
        np.ptp(found[1:3]), rel=0.1
    )


@pytest.mark.parametrize("balanced", [False, True])
def test_seeds_with_the_same_clips_are_drawn_with_one_draw_of_clips(balanced):
    """As a loop that draws the clips once, and then the seeds."""
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=90)
    label[label == 2] = np.where(rng.random((label == 2).sum()) < 0.5, 2, 0)  # a rare class
    right, other = (rng.random((4, 90)) < 0.3 + 0.4 * (rng.random(90) < p) for p in (0.8, 0.5))

    def accuracy(right_B, drawn):
        groups = (
            [drawn[label[drawn] == c] for c in np.unique(label[drawn])] if balanced else [drawn]
        )
        return np.mean([right_B[group].mean() for group in groups])

    slow = []
    for _ in range(2000):
        drawn, seeds = rng.integers(90, size=90), rng.integers(4, size=4)
        slow.append(np.mean([accuracy(right[s], drawn) - accuracy(other[s], drawn) for s in seeds]))
    found = bootstrap_shared(label, right, other, balanced=balanced, draws=2000)
    everything = np.arange(90)
    observed = [accuracy(right[s], everything) - accuracy(other[s], everything) for s in range(4)]
    assert found.mean == pytest.approx(np.mean(observed))
    expected = estimate(slow, 0.0)
    assert found.low == pytest.approx(expected.low, abs=0.2 * np.std(slow))
    assert found.high == pytest.approx(expected.high, abs=0.2 * np.std(slow))
    alone = bootstrap_shared(label, right, balanced=balanced, draws=50)
    assert alone.mean == pytest.approx(np.mean([accuracy(r, everything) for r in right]))


def test_holm_is_the_formula_of_statsmodels():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.random(7) ** 3
        order = np.argsort(p)
        expected = np.empty(7)
        running = 0.0
        for rank, place in enumerate(order):
            running = max(running, (7 - rank) * p[place])
            expected[place] = min(running, 1)
        np.testing.assert_allclose(holm(p), expected)
    assert holm([]).size == 0


@pytest.mark.parametrize("counts", [[[0.5, 1]], [1, 2], [[-1, 2]], [[0, 0]], np.zeros((0, 2), int)])
def test_what_is_no_table_of_counts_is_refused(counts):
    with pytest.raises(ValueError, match="expected"):
        bootstrap(counts, lambda g: statistics.share(g, [0], [0, 1]))
    with pytest.raises(ValueError, match="confidence"):
        estimate([1.0], 1.0, 95)
