"""What decisions promise of a list: the limit against exact sums, the list against a slow search."""

import math

import numpy as np
import pytest

from rdfer_jax.labels import promise
from rdfer_jax.labels.promise import Decided


def slow_limit(wrong, seen, total):
    """By binomial coefficients: the least number of wrong ones that makes the sample not too unlikely."""
    for number in range(wrong, total - seen + wrong + 1):
        ways = sum(
            math.comb(number, k) * math.comb(total - number, seen - k)
            for k in range(wrong, seen + 1)
        )
        if ways / math.comb(total, seen) > 0.1:
            return number
    raise AssertionError


def test_the_limit_is_exact():
    cases = [(w, m, n) for n in (1, 7, 40) for m in {1, n // 2, n} if m for w in range(m + 1)]
    found = promise.least_wrong(*np.array(cases).T)
    np.testing.assert_array_equal(found, [slow_limit(*case) for case in cases])
    assert promise.least_wrong(30, 40, 40) == 30  # nothing is left to chance if all are seen


def test_the_longest_part_that_keeps_the_promise_is_found():
    """Against a search over all parts that end before a decided clip, or with the list."""
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(60):
        total = int(rng.integers(30, 120))
        of_list = rng.permutation(1000)[:total]
        wrong = rng.random(total) < np.where(np.arange(total) < total / 2, 0.99, 0.8)
        drawn = rng.permutation(total)[: total // 2]
        found = promise.keep(of_list, Decided(of_list[drawn], wrong[drawn], total), 0.9)
        ends = [*np.sort(drawn)[1:].tolist(), total]
        best, low = 0, None
        for end in ends:
            inside = drawn[drawn < end]
            hits = int(wrong[inside].sum())
            left = end - (len(inside) - hits)
            if slow_limit(hits, len(inside), end) >= 0.9 * left > 0:
                best, low = end, slow_limit(hits, len(inside), end) / left
        assert (found.length, found.low) == (best, low)
        counts.append(best / total)
    assert {0.0, 1.0} < set(counts) and any(0.3 < count < 1 for count in counts)


def test_it_says_how_many_more_decisions_it_takes():
    """As many more of the same kind show it; where the list is not good enough, it says so."""
    places = np.arange(4000)
    wrong = np.arange(4000) % 25 > 0  # 96 % are wrong, evenly
    first = np.arange(0, 4000, 200) + 7
    found = promise.keep(places, Decided(first, wrong[first], 4000), 0.9)
    assert found.length == 0 and found.low is None and found.more > 0
    assert promise.keep(places, Decided(first, wrong[first], 4000), 0.85).length == 4000
    enough = np.linspace(3, 3999, 3 * (len(first) + found.more)).astype(int)
    assert promise.keep(places, Decided(enough, wrong[enough], 4000), 0.9).length == 4000
    half = np.arange(4000) % 2 > 0
    assert promise.keep(places, Decided(places[::40], half[::40], 4000), 0.9)[:2] == (0, None)
    seen = places[1::40]
    assert promise.keep(places, Decided(seen, np.zeros(100, bool), 4000), 0.9).more is None


def test_lists_keep_their_promise_as_often_as_they_say():
    """Many reviews of a list whose second half is bad: lists that break the promise are rare."""
    rng = np.random.default_rng(1)
    wrong = rng.random(1000) < np.where(np.arange(1000) < 500, 0.97, 0.5)
    broken = kept = 0
    for _ in range(150):
        drawn = np.sort(rng.permutation(1000)[:100])
        count = promise.keep(np.arange(1000), Decided(drawn, wrong[drawn], 1000), 0.9).length
        listed = np.setdiff1d(np.arange(count), drawn[~wrong[drawn]])
        kept += count > 0
        broken += count > 0 and wrong[listed].mean() < 0.9
    assert kept > 75 and broken < 0.1 * 150


def test_nothing_follows_without_a_list_and_other_predictions_are_refused():
    none = Decided(np.zeros(0, int), np.zeros(0, bool), 0)
    assert promise.keep([], none, 0.9) == (0, None, None)
    with pytest.raises(ValueError, match="clip 9 was on the list when the sample was drawn"):
        promise.keep([1, 2, 3], Decided(np.array([2, 9]), np.ones(2, bool), 3), 0.9)
