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


def slow_snippets(n, buffer, snippet, u, stride=1):
    """The formula, in exact arithmetic."""
    parts, last = buffer // snippet, (snippet - 1) * stride
    starts = []
    for g in range(parts):
        start = math.floor((g + Fraction(u[g])) * n / parts - Fraction(u[g]) * last)
        starts.append(min(max(start, 0), max(n - last - 1, 0)))
    return [[min(start + j * stride, n - 1) for j in range(snippet)] for start in sorted(starts)]


def test_evaluation_takes_the_snippet_in_the_middle_of_each_part():
    for n in range(1, 70):
        for buffer, snippet in ((4, 2), (12, 3), (32, 4), (4, 4), (6, 6)):
            expected = slow_snippets(n, buffer, snippet, [Fraction(1, 2)] * (buffer // snippet))
            found = frame_indices(n, buffer, snippet=snippet)
            assert found.reshape(-1, snippet).tolist() == expected
            if n >= buffer:  # in its own part, as far from one border as from the other
                for g, frames in enumerate(expected):
                    low, high = (
                        Fraction(g * n * snippet, buffer),
                        Fraction((g + 1) * n * snippet, buffer),
                    )
                    assert abs((frames[0] - low) - (high - frames[-1] - 1)) <= 1


@given(st.integers(1, 200), st.integers(1, 12), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_training_draws_one_snippet_of_each_part(n, parts, snippet, seed):
    buffer = parts * snippet
    found = frame_indices(n, buffer, np.random.default_rng(seed), snippet).reshape(parts, snippet)
    u = np.random.default_rng(seed).random(parts)
    np.testing.assert_array_equal(found, slow_snippets(n, buffer, snippet, u))
    assert found.min() >= 0 and found.max() < n and (np.diff(found[:, 0]) >= 0).all()
    if n >= snippet:
        assert (np.diff(found, axis=1) == 1).all()  # neighbors of the video, at its own rate
    if n >= buffer:
        assert (found[:, 0] >= np.floor(np.arange(parts) * n / parts)).all()
        assert (found[:, -1] < np.ceil((np.arange(parts) + 1) * n / parts)).all()


@given(st.integers(1, 300), st.integers(1, 5), st.integers(2, 16), st.integers(2, 4), st.booleans())
def test_frames_of_a_snippet_lie_a_stride_apart(n, parts, snippet, stride, draws):
    buffer = parts * snippet
    rng = np.random.default_rng(3) if draws else None
    found = frame_indices(n, buffer, rng, snippet, stride).reshape(parts, snippet)
    u = np.random.default_rng(3).random(parts) if draws else [Fraction(1, 2)] * parts
    np.testing.assert_array_equal(found, slow_snippets(n, buffer, snippet, u, stride))
    if n > (snippet - 1) * stride:
        assert (np.diff(found, axis=1) == stride).all()


def test_one_snippet_starts_anywhere_with_equal_chances():
    """VideoMAE's training clip: 16 frames, 4 apart, from a random start."""
    rng, extent = np.random.default_rng(0), 61
    starts = [frame_indices(70, 16, rng, 16, 4)[0] for _ in range(3000)]
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 70 - extent + 1 and abs(counts / 3000 - 0.1).max() < 0.02
    # At test, several are spread evenly; DFEW's videos of 16 frames show their last one from the fifth on.
    assert frame_indices(244, 64, None, 16, 4)[::16].tolist() == [0, 61, 122, 183]
    assert frame_indices(16, 16, None, 16, 4).tolist() == [0, 4, 8, 12] + [15] * 12


def test_every_snippet_of_a_part_is_drawn():
    rng = np.random.default_rng(0)
    starts = {int(frame_indices(20, 6, rng, 3)[3]) for _ in range(300)}
    assert starts == set(range(10, 18))


def test_a_video_shorter_than_a_snippet_repeats_its_last_frame():
    assert frame_indices(2, 8, snippet=4).tolist() == [0, 1, 1, 1] * 2
    assert frame_indices(5, 8, snippet=4).tolist() == [0, 1, 2, 3, 1, 2, 3, 4]


def test_a_buffer_that_does_not_hold_whole_snippets_is_an_error():
    with pytest.raises(ValueError, match="expected a multiple of snippet = 4 frames, got 6"):
        frame_indices(9, 6, snippet=4)


def test_a_video_without_frames_is_an_error():
    with pytest.raises(ValueError, match="expected at least one frame, got 0"):
        frame_indices(0, 4)
