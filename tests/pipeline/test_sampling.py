"""Which frames fill the buffer, against the formula by brute force."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfer_jax.pipeline.sampling import frame_indices


def test_evaluation_takes_the_middle_of_each_part():
    for n in range(1, 70):
        for buffer in range(1, 40):
            expected = [math.floor((i + Fraction(1, 2)) * n / buffer) for i in range(buffer)]
            assert frame_indices(n, buffer).tolist() == expected


@given(st.integers(1, 500), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_training_draws_one_frame_of_each_part(n, buffer, seed):
    found = frame_indices(n, buffer, np.random.default_rng(seed))
    assert found.shape == (buffer,)
    assert (np.diff(found) >= 0).all()
    for i, frame in enumerate(found.tolist()):
        assert (
            math.floor(Fraction(i * n, buffer)) <= frame < math.ceil(Fraction((i + 1) * n, buffer))
        )
    u = np.random.default_rng(seed).random(buffer)
    expected = [math.floor((i + u[i]) * n / buffer) for i in range(buffer)]
    np.testing.assert_array_equal(found, np.minimum(expected, n - 1))


@given(st.integers(1, 20), st.integers(0, 20), st.booleans())
def test_a_short_video_repeats_all_of_its_frames(n, more, draws):
    found = frame_indices(n, n + more, np.random.default_rng(0) if draws else None)
    # Parts are no longer than a frame, so two neighbors are at most one frame apart in the middle of
    # their parts, and at most two where they are drawn.
    assert np.diff(found).max(initial=0) <= (2 if draws else 1)
    if not draws:
        assert sorted(set(found.tolist())) == list(range(n))


def test_one_frame_fills_the_whole_buffer():
    assert frame_indices(1, 5).tolist() == [0] * 5
    assert frame_indices(1, 5, np.random.default_rng(0)).tolist() == [0] * 5


def test_the_largest_draw_stays_inside_the_video():
    class Largest:
        def random(self, size):
            return np.full(size, np.nextafter(1.0, 0.0))

    for n in (1, 7, 64, 10**6):
        assert frame_indices(n, 64, Largest()).max() == n - 1


def test_a_video_without_frames_is_an_error():
    with pytest.raises(ValueError, match="expected at least one frame, got 0"):
        frame_indices(0, 4)
