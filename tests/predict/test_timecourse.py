"""Probabilities over time, against loops over frames, windows and instants."""

import numpy as np
import pytest

from rdfer_jax.predict.timecourse import TimeCourse

N = 3


def made(seed, weight):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.05, 0.3, 30))
    windows = []
    for start in (0, 4, 8, 20):
        places = np.arange(start, start + 8)
        instants = np.sort(rng.choice(places, 5))  # some twice
        windows.append((places, rng.dirichlet(np.ones(N)), instants, rng.dirichlet(np.ones(N), 5)))
    course = TimeCourse(times, N, weight)
    for places, probs, instants, instant_probs in windows:
        course.add_window(places, probs)
        if weight:
            course.add_instants(places, instants, instant_probs)
    return times, windows, course


def at(time, points):
    """Linear between (time, value) points, constant beyond them; points of one time are averaged."""
    same = [value for t, value in points if t == time]
    if same:
        return sum(same) / len(same)
    before = [t for t, _ in points if t < time]
    after = [t for t, _ in points if t > time]
    if not before or not after:
        return at(min(after) if after else max(before), points)
    low, high = max(before), min(after)
    share = (time - low) / (high - low)
    return (1 - share) * at(low, points) + share * at(high, points)


def slow(times, windows, weight, smooth):
    raw = np.full((len(times), N), np.nan)
    for a in range(len(times)):
        over = [w for w in windows if a in w[0]]
        if over:
            raw[a] = np.mean([w[1] for w in over], axis=0)
            if weight:
                curves = [
                    at(times[a], [(times[i], p) for i, p in zip(w[2], w[3], strict=True)])
                    for w in over
                ]
                raw[a] = (1 - weight) * raw[a] + weight * np.mean(curves, axis=0)
    result = raw.copy()
    for a in range(len(times)):
        near = [a]
        for step in (-1, 1):
            b = a + step
            while 0 <= b < len(times) and not np.isnan(raw[b, 0]):
                if abs(times[b] - times[a]) > smooth / 2:
                    break
                near.append(b)
                b += step
        result[a] = raw[near].mean(axis=0)
    return result


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("smooth", [0.0, 0.5, 3.0])
def test_equals_the_slow_reference(weight, smooth):
    for seed in range(5):
        times, windows, course = made(seed, weight)
        found = course.probs(smooth)
        np.testing.assert_allclose(found, slow(times, windows, weight, smooth), atol=1e-9)
        seen = ~np.isnan(found[:, 0])
        assert seen.sum() == 24
        np.testing.assert_allclose(found[seen].sum(axis=1), 1)


def test_a_change_within_a_window_shows():
    """The window is flat; the instants turn from one class to another."""
    times = np.arange(20) / 10
    course = TimeCourse(times, 2)
    course.add_window(np.arange(20), np.array([0.5, 0.5]))
    course.add_instants(np.arange(20), np.array([4, 15]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    probs = course.probs(0.3)
    assert probs[2].argmax() == 0 and probs[17].argmax() == 1
    assert (np.diff(probs[:, 1]) > -1e-9).all()
