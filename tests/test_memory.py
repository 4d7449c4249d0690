"""The memory of each training video against a slow reference, visit by visit."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rdfer_jax import memory as memory_lib

M, N = 8, 3


@jax.jit
def update(memory, index, label, probs, agreement, decay, agreement_decay, threshold_decay=0.8):
    return memory_lib.update(
        memory,
        index,
        label,
        probs,
        agreement,
        decay=decay,
        agreement_decay=agreement_decay,
        threshold_decay=threshold_decay,
    )


REMEMBERED = jax.jit(memory_lib.remembered)
AGREED = jax.jit(memory_lib.remembered_agreement)


def slow_average(old, index, new, decay):
    old = np.array(old)
    for row in set(index.tolist()):
        old[row] = decay * old[row] + (1 - decay) * new[index == row].mean(axis=0)
    return old


@given(
    st.lists(st.integers(0, M - 1), min_size=5, max_size=5),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([0.0, 0.95]),
)
def test_a_visit_blends_old_and_new_and_counts_duplicates_once(
    index, seed, decay, agreement_decay, threshold_decay
):
    rng = np.random.default_rng(seed)
    index, labels = np.array(index), rng.integers(0, N, M)
    memory = memory_lib.Memory(
        probs=rng.dirichlet(np.ones(N), M).astype(np.float32),
        label=np.where(np.arange(M) % 2, labels, -1).astype(np.int32),
        agreement=rng.random(M).astype(np.float32),
        threshold=rng.random(M).astype(np.float32),
        visits=np.where(np.arange(M) % 2, rng.integers(1, 9, M), 0).astype(np.int32),
    )
    memory.probs[::2] = memory.agreement[::2] = 0  # never visited
    probs = rng.dirichlet(np.ones(N), 5).astype(np.float32)
    values = rng.random(5).astype(np.float32)
    decays = decay, agreement_decay, threshold_decay
    found = update(memory, index, labels[index], probs, values, *decays)
    expected = {
        "probs": slow_average(memory.probs, index, probs, decay),
        "agreement": slow_average(memory.agreement, index, values, agreement_decay),
        "threshold": slow_average(memory.threshold, index, probs.max(axis=1), threshold_decay),
        "label": np.where(np.isin(np.arange(M), index), labels, memory.label),
        "visits": memory.visits + np.isin(np.arange(M), index),
    }
    others = np.setdiff1d(np.arange(M), index)
    for name, value in expected.items():
        after = np.asarray(getattr(found, name))
        np.testing.assert_allclose(after, value, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(after[others], getattr(memory, name)[others])


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.7]))
def test_what_is_remembered_is_the_weighted_mean_of_all_visits(seed, decay, agreement_decay):
    rng = np.random.default_rng(seed)
    visits = rng.dirichlet(np.ones(N), (4, 2)).astype(np.float32)
    values = rng.random((4, 2)).astype(np.float32)
    memory = memory_lib.create(M, N)
    assert not memory.visits.any() and np.all(memory.threshold == np.float32(1 / N))
    for count, (probs, value) in enumerate(zip(visits, values, strict=True), 1):
        memory = update(
            memory, np.array([2, 0]), np.array([1, 2]), probs, value, decay, agreement_decay
        )
        believed, agreed = REMEMBERED(memory), AGREED(memory, agreement_decay)
        np.testing.assert_allclose(np.sum(memory.probs[2]), 1 - decay**count, rtol=1e-5)
        weights = [decay ** (count - 1 - visit) for visit in range(count)]
        for row, video in ((2, 0), (0, 1)):
            expected = np.average(visits[:count, video], axis=0, weights=weights)
            np.testing.assert_allclose(believed[row], expected, rtol=1e-4, atol=1e-6)
            weights_of_agreement = [
                agreement_decay ** (count - 1 - visit) for visit in range(count)
            ]
            expected = np.average(values[:count, video], weights=weights_of_agreement)
            np.testing.assert_allclose(agreed[row], expected, rtol=1e-4, atol=1e-6)
        assert not np.any(believed[1]) and agreed[1] == 0  # never visited


def test_features_are_those_of_the_last_visit_with_length_one():
    rng = np.random.default_rng(0)
    memory = memory_lib.create(M, N, num_features=4)
    assert memory.features.shape == (M, 4) and memory_lib.create(M, N).features is None
    for _ in range(2):
        features = 5 * rng.standard_normal((3, 4)).astype(np.float32)
        memory = memory_lib.update_features(memory, np.array([5, 0, 5]), features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    both = (unit[0] + unit[2]) / np.linalg.norm(unit[0] + unit[2])
    np.testing.assert_allclose(memory.features[5], both, rtol=1e-5)
    np.testing.assert_allclose(memory.features[0], unit[1], rtol=1e-5)
    assert not np.any(np.delete(memory.features, [0, 5], axis=0))
    after = update(
        memory, np.array([1]), np.array([2]), np.ones((1, N)) / N, np.ones(1), 0.5, 0.0, 0.9
    )
    np.testing.assert_array_equal(after.features, memory.features)


def test_the_rows_of_a_batch():
    memory = memory_lib.create(M, N)
    memory = update(
        memory, np.array([5]), np.array([2]), np.eye(N, dtype=np.float32)[[1]], np.ones(1), 0.5, 0.0
    )
    found = memory_lib.rows(memory, np.array([5, 0, 5]))
    assert found.label.tolist() == [2, -1, 2] and found.probs.shape == (3, N)


@given(st.lists(st.integers(0, M - 1), min_size=5, max_size=5), st.integers(0, 10**6))
def test_clips_by_themselves_are_remembered_as_their_mean_is(index, seed):
    rng = np.random.default_rng(seed)
    index, labels = np.array(index), np.zeros(5, np.int32)
    memory, clips = memory_lib.create(M, N), np.zeros((M, 4, N), np.float32)
    for _ in range(3):
        probs = rng.dirichlet(np.ones(N), (5, 4)).astype(np.float32)
        expected = slow_average(clips, index, probs, 0.6)
        clips = np.asarray(memory_lib.update_clips(clips, index, probs, 0.6))
        np.testing.assert_allclose(clips, expected, atol=1e-6)
        memory = update(memory, index, labels, probs.mean(axis=1), labels * 1.0, 0.6, 0.0)
    np.testing.assert_allclose(clips.mean(axis=1), memory.probs, atol=1e-6)
