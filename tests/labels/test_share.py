"""How many labels are wrong: what is known, what cannot be told, and what people's decisions say."""

import numpy as np
import pytest
from scipy import stats

from experiments.simulated import simulate
from rdfer_jax.labels import share as share_lib
from rdfer_jax.labels.noise_matrix import count_sure, fit_noise, noise_matrix


def _share(data):
    mean = data.probs.mean(axis=1)
    return share_lib.of_predictions(data.label, mean, fit_noise(data.label, mean).share)


def test_the_surest_are_counted_as_by_a_loop():
    data = simulate(300, "confusion", 0.3, seed=3)
    mean = data.probs.mean(axis=1)
    wrong = total = 0
    for c in range(7):
        members = [n for n in range(300) if mean[n].argmax() == c]
        members.sort(key=lambda n: -mean[n, c])
        sure = members[: int(np.ceil(0.2 * len(members)))]
        wrong, total = wrong + sum(data.label[n] != c for n in sure), total + len(sure)
    assert count_sure(data.label, mean) == (wrong, total)


@pytest.mark.parametrize("network", ["truth", "memorized", "overconfident", "underconfident"])
def test_share_is_found_and_its_interval_holds_it(network):
    data = simulate(4000, "confusion", 0.3, network, seed=4)
    found, true = _share(data), data.is_wrong.mean()
    assert found.told
    assert found.estimate == pytest.approx(true, abs=0.05)
    assert found.low <= true <= found.high
    assert found.sure <= true + 0.01
    assert f"an estimated {found.estimate:.1%} of the labels are wrong" in found.describe()
    assert found.describe().endswith("more if hard clips are mislabeled more often than easy ones")


def test_predictions_that_speak_of_the_given_labels_cannot_tell():
    """The likelihood says that less than it is, and the ends differ by more than a third."""
    data = simulate(4000, "confusion", 0.3, "given", seed=4)
    found = _share(data)
    assert not found.told and found.to_dict()["estimate"] is None
    assert found.low < data.is_wrong.mean() < found.high
    assert "cannot be told from these predictions" in found.describe()
    assert found.estimate == pytest.approx(data.is_wrong.mean(), abs=0.05)


def test_told_means_that_the_ends_differ_by_at_most_a_third():
    data = simulate(1000, "confusion", 0.3, seed=5)
    mean = data.probs.mean(axis=1)
    counted = noise_matrix(data.label, mean).share
    for fitted, told in ((counted * 0.67, True), (counted * 0.66, False), (counted * 1.49, True)):
        assert share_lib.of_predictions(data.label, mean, fitted).told == told


def test_a_few_videos_without_a_contradiction_leave_room_above():
    label = np.repeat([0, 1], 10)
    found = share_lib.of_predictions(label, np.eye(2)[label] * 0.98 + 0.01, 0.0)
    # Of the four surest videos none contradicts its label.
    above = stats.binomtest(0, 4).proportion_ci(method="wilson").high
    assert found[:3] == pytest.approx((0, 0, above)) and above > 0.4


@pytest.mark.parametrize("network", ["truth", "overconfident", "underconfident"])
def test_where_nothing_is_wrong_next_to_nothing_is_estimated(network):
    assert _share(simulate(4000, "symmetric", 0.0, network, seed=6)).estimate <= 0.01


def test_matrix_has_the_share_and_finds_the_confusions():
    data = simulate(4000, "confusion", 0.3, seed=7)
    mean = data.probs.mean(axis=1)
    planted = np.zeros((7, 7))
    np.add.at(planted, (data.true, data.label), 1)
    prior = planted.sum(axis=1) / 4000
    found = share_lib.matrix(data.label, mean, 0.3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    distance = np.abs(found - planted / planted.sum(axis=1, keepdims=True)).sum(axis=1) / 2
    assert prior @ distance < 0.05
    assert prior @ (1 - np.diag(found)) == pytest.approx(0.3, abs=0.02)
    np.testing.assert_allclose(share_lib.matrix(data.label, mean, 0.0), np.eye(7))


def test_votes_tell_unless_the_labels_were_made_from_them():
    votes = np.array([[3, 0], [0, 3], [2, 2], [1, 0], [0, 5], [4, 1]])
    found = share_lib.of_votes(
        [0, 0, 0, 1, 1, 0], votes
    )  # of those that count, one of four is wrong
    limits = stats.binomtest(1, 4).proportion_ci(method="wilson")
    assert found[:3] == pytest.approx((0.25, limits.low, limits.high))
    assert found.told and found.source == "votes"
    assert "by the annotators' votes" in found.describe() and "hard" not in found.describe()
    assert share_lib.of_votes([0, 1, 0, 1, 1, 0], votes) is None
    assert share_lib.of_votes([0, 1], np.zeros((2, 2))) is None


def test_intervals_of_strata_cover_the_truth():
    """95 % of them should; over draws of a list that is purer than the rest."""
    rng = np.random.default_rng(0)
    counts, rates = (400, 3600), (0.8, 0.06)
    true = (400 * 0.8 + 3600 * 0.06) / 4000
    found = [
        share_lib.of_strata(counts, [(int(rng.binomial(50, r)), 50) for r in rates])
        for _ in range(300)
    ]
    assert np.mean([s.low <= true <= s.high for s in found]) >= 0.92
    assert np.mean([s.estimate for s in found]) == pytest.approx(true, abs=0.01)
    assert np.mean([s.sure <= true for s in found]) >= 0.85
    one = share_lib.of_strata([10, 0], [(2, 10), (0, 0)])
    assert one[:3] == pytest.approx((0.2, *share_lib.limits(2, 10)))
