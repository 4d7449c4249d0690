"""The mixture of two normal distributions against a slow reference and known cases."""

import jax
import normals
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfer_jax import mixture

FIT, ABOVE = jax.jit(mixture.fit), jax.jit(mixture.above)


def drawn(seed, count=40, share=0.3, low=(0.2, 0.1), high=(0.7, 0.15)):
    """Values of two normal distributions, and which are of the higher one."""
    rng = np.random.default_rng(seed)
    is_high = rng.random(count) < share
    values = np.where(is_high, rng.normal(*high, count), rng.normal(*low, count))
    return np.float32(values), is_high


@given(st.integers(0, 10**6))
def test_the_fit_and_the_probability_are_those_of_expectation_maximization(seed):
    values, _ = drawn(seed)
    chosen = np.random.default_rng(seed).random(40) < 0.8
    found, expected = FIT(values, chosen), normals.fit(values[chosen])
    for name, column in (("weight", 0), ("mean", 1), ("variance", 2)):
        np.testing.assert_allclose(
            getattr(found, name), [c[column] for c in expected], rtol=2e-3, atol=2e-4, err_msg=name
        )
    at = np.linspace(-0.5, 1.5, 40).astype(np.float32)
    np.testing.assert_allclose(ABOVE(found, at), normals.above(values[chosen], at), atol=5e-3)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.01, 1.0]))
def test_the_probability_never_falls_and_is_finite_for_any_values(seed, spread):
    rng = np.random.default_rng(seed)
    values = np.float32(0.5 + spread * rng.standard_normal(40))
    found = FIT(values, np.ones(40, bool))
    assert all(np.isfinite(part).all() for part in found)
    probability = np.asarray(ABOVE(found, np.linspace(-2, 3, 40).astype(np.float32)))
    assert np.isfinite(probability).all() and np.diff(probability).min() > -1e-6


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_two_clear_groups_are_told_apart(share):
    values, is_high = drawn(0, count=2000, share=share)
    found = FIT(values, np.ones(2000, bool))
    np.testing.assert_allclose(found.mean, [0.2, 0.7], atol=0.06)
    np.testing.assert_allclose(found.weight[1], share, atol=0.04)
    assert np.mean((np.asarray(ABOVE(found, values)) > 0.5) == is_high) > 0.95
