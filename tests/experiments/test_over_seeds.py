"""Confidence intervals over seeds, against SciPy's t-tests."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from experiments.over_seeds import mean_interval

quick = hypothesis.settings(max_examples=60, deadline=None)


@quick
@hypothesis.given(
    hnp.arrays(np.float64, st.integers(2, 12), elements=st.floats(-1, 1), unique=True),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_intervals_agree_with_scipy(values, confidence):
    hypothesis.assume(values.std() > 1e-6)
    reference = scipy.stats.ttest_1samp(values, 0).confidence_interval(confidence)
    mean, low, high = mean_interval(values, confidence)
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_the_interval_of_differences_agrees_with_scipy():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 5)) + rng.normal(size=5) * 10
    reference = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    mean, low, high = mean_interval(ours - theirs)
    assert mean == pytest.approx(ours.mean() - theirs.mean())
    assert (low, high) == pytest.approx((reference.low, reference.high))


def test_intervals_of_one_value_of_equal_values_and_of_none():
    mean, low, high = mean_interval([0.7])
    assert mean == 0.7
    assert math.isnan(low)
    assert math.isnan(high)
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="expected a vector with at least one value"):
        mean_interval([])
    with pytest.raises(ValueError, match="expected a vector"):
        mean_interval([[0.5]])
    with pytest.raises(ValueError, match=r"expected a value in \(0, 1\), got 95"):
        mean_interval([0.5, 0.6], 95)
