"""Where clips, instants and key clips lie, against slow references."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfer_jax import config as config_lib
from rdfer_jax.models import resampling

F = 32
VIEWS = config_lib.Clips(kind="views", number=6, frames=8, min_span=0.5)
WINDOWS = config_lib.Clips(kind="windows", number=3, frames=8)


def keys(*index):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.array(index))


def train(settings, buffer=F, index=range(64)):
    draw = jax.jit(lambda keys: resampling.train_clips(keys, settings, buffer))
    return np.asarray(draw(keys(*index)))


@pytest.mark.parametrize("kind", ["views", "windows"])
@pytest.mark.parametrize("number", range(1, 13))
def test_evaluation_clips_lie_in_the_buffer_and_rise(kind, number):
    for buffer, frames in ((8, 8), (9, 4), (64, 16), (5, 1)):
        settings = config_lib.Clips(kind=kind, number=number, frames=frames)
        clips = resampling.eval_clips(settings, buffer)
        assert clips.shape == (number, frames) and clips.dtype == np.int32
        assert clips.min() >= 0 and clips.max() < buffer
        assert (np.diff(clips) >= 0).all()


@pytest.mark.parametrize("min_span", [0.05, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("number", [1, 6, 12])
def test_evaluation_views_are_long_enough_and_the_first_is_the_whole_video(number, min_span):
    frames = 64
    settings = config_lib.Clips(number=number, frames=frames, min_span=min_span)
    clips = resampling.eval_clips(settings, 64)
    np.testing.assert_array_equal(clips[0], np.arange(64))
    assert ((clips[:, -1] - clips[:, 0]) >= min_span * 64 - 2).all()
    if min_span <= 0.5:
        expected = [(0, 64), (0, 32), (32, 64), (16, 48), (0, 48), (16, 64)][:number]
        found = [(clip[0], clip[-1] + 1) for clip in clips[:6].tolist()]
        assert found == expected
        further = clips[6:].tolist()
        assert len({tuple(clip) for clip in further}) == len(further)


def test_evaluation_views_take_the_middle_of_equal_parts():
    clips = resampling.eval_clips(dataclasses.replace(VIEWS, frames=4), F)
    np.testing.assert_array_equal(clips[0], [4, 12, 20, 28])
    np.testing.assert_array_equal(clips[2], [18, 22, 26, 30])


@pytest.mark.parametrize("number", range(1, 13))
def test_evaluation_windows_are_neighboring_frames_spread_over_the_video(number):
    clips = resampling.eval_clips(dataclasses.replace(WINDOWS, number=number), F)
    np.testing.assert_array_equal(np.diff(clips), 1)
    center = clips.mean(axis=1)
    np.testing.assert_allclose(center, F - 1 - center[::-1], atol=1)  # symmetric in time
    np.testing.assert_allclose(np.diff(center), (F - 8) / number, atol=1)


def test_training_views():
    clips = train(VIEWS)
    assert clips.shape == (64, 6, 8) and clips.dtype == np.int32
    assert clips.min() >= 0 and clips.max() < F
    assert (np.diff(clips) >= 0).all()
    part = np.arange(8) * 4
    assert ((clips[:, 0] >= part) & (clips[:, 0] < part + 4)).all()  # the whole video
    # Eight parts of a view of at least 16 frames; the outer two can each lose a part of it.
    length = clips[..., -1] - clips[..., 0]
    assert (length >= 0.5 * F * 6 / 8 - 1).all()
    assert len({tuple(clip) for clip in clips[:, 1].tolist()}) > 60
    assert clips[:, 1:].min() == 0 and clips[:, 1:].max() == F - 1
    assert (clips[:, 1:, -1] < 18).any() and (clips[:, 1:, 0] > 13).any()


@pytest.mark.parametrize("frames", [1, 8, F])
def test_training_windows(frames):
    clips = train(dataclasses.replace(WINDOWS, frames=frames))
    assert clips.min() >= 0 and clips.max() < F
    np.testing.assert_array_equal(np.diff(clips), 1)
    starts, room = clips[..., 0], F - frames
    for k in range(3):
        low, high = np.floor(k / 3 * room + 0.5), np.floor((k + 1) / 3 * room + 0.5)
        assert ((starts[:, k] >= low) & (starts[:, k] <= high)).all()
        if room:
            assert len(set(starts[:, k].tolist())) >= 6


def test_a_view_that_must_span_all_does():
    clips = train(dataclasses.replace(VIEWS, min_span=1.0, frames=F))
    np.testing.assert_array_equal(clips, np.broadcast_to(np.arange(F), clips.shape))


@pytest.mark.parametrize("settings", [VIEWS, WINDOWS])
def test_a_videos_clips_do_not_depend_on_its_place_in_the_batch(settings):
    one, two = train(settings, index=[5, 6, 7, 8]), train(settings, index=[9, 8, 7, 6])
    np.testing.assert_array_equal(one[[1, 2, 3]], two[[3, 2, 1]])
    assert not np.array_equal(one[0], two[0])


def test_each_clip_is_a_snippet_of_its_own_part():
    settings = config_lib.Clips(kind="snippets", number=2, eval_number=4, frames=4)
    evaluated = resampling.eval_clips(settings, 16, 4)
    np.testing.assert_array_equal(evaluated, np.arange(16).reshape(4, 4))
    found = np.asarray(resampling.train_clips(keys(*range(64)), settings, 16, 4))
    assert found.shape == (64, 2, 4) and found.dtype == np.int32
    np.testing.assert_array_equal(
        found - found[..., :1], np.broadcast_to(np.arange(4), found.shape)
    )
    for k, starts in enumerate(({0, 4}, {8, 12})):
        assert set(found[:, k, 0].tolist()) == starts
    both = dataclasses.replace(settings, number=4)  # as many clips as snippets: each of them once
    found = np.asarray(resampling.train_clips(keys(1, 2), both, 16, 4))
    np.testing.assert_array_equal(found, np.broadcast_to(evaluated, found.shape))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["views", "windows"])
@pytest.mark.parametrize("snippet", [2, 4])
def test_clips_are_made_of_whole_snippets(kind, snippet):
    """They are those of a buffer in which each snippet is one frame."""
    settings = dataclasses.replace(VIEWS if kind == "views" else WINDOWS, min_span=0.75)
    fewer = dataclasses.replace(settings, frames=settings.frames // snippet)
    found = (
        resampling.eval_clips(settings, F, snippet),
        np.asarray(resampling.train_clips(keys(*range(8)), settings, F, snippet)),
    )
    coarse = resampling.eval_clips(fewer, F // snippet), train(fewer, F // snippet, range(8))
    for positions, places in zip(found, coarse, strict=True):
        assert positions.dtype == np.int32 and positions.shape[-1] == settings.frames
        expected = [[s * snippet + j for j in range(snippet)] for s in places.reshape(-1).tolist()]
        assert positions.reshape(-1, snippet).tolist() == expected


def test_key_clips_are_the_snippet_of_the_instant_and_its_neighbors():
    centers = np.arange(12)[None]
    clips = np.asarray(resampling.key_clips(centers, 3, 12, 3))[0]
    assert clips.tolist() == [[c // 3 * 3 + j for j in range(3)] for c in range(12)]
    clips = np.asarray(resampling.key_clips(centers, 6, 12, 3))[0]
    assert [clip[0] for clip in clips.tolist()] == [0] * 6 + [3] * 3 + [6] * 3
    assert clips.dtype == np.int32
    np.testing.assert_array_equal(np.diff(clips), 1)


def test_pick_is_fancy_indexing():
    rng = np.random.default_rng(0)
    features = (1e3 * rng.standard_normal((3, 7, 2, 5))).astype(np.float32)
    positions = rng.integers(0, 7, (3, 4, 6))
    found = resampling.pick(features, positions)
    expected = np.stack([video[places] for video, places in zip(features, positions, strict=True)])
    np.testing.assert_array_equal(found, expected)


def test_pick_is_exact_in_bfloat16():
    features = jax.random.normal(jax.random.key(0), (2, 7, 5)).astype(jnp.bfloat16)
    positions = np.array([[6, 0, 3], [1, 1, 2]])
    found = resampling.pick(features, positions)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, features[np.arange(2)[:, None], positions])


def test_the_gradient_of_pick_adds_up_what_was_picked():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((2, 5, 3)).astype(np.float32)
    positions = rng.integers(0, 5, (2, 3, 4))
    flow = rng.standard_normal((2, 3, 4, 3)).astype(np.float32)
    found = jax.grad(lambda x: jnp.sum(resampling.pick(x, positions) * flow))(features)
    expected = np.zeros_like(features)
    for video in range(2):
        np.add.at(expected[video], positions[video], flow[video])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("number", "length"), [(1, 1), (4, 16), (16, 16), (20, 16), (3, 8), (5, 7)]
)
def test_spread_is_even(number, length):
    found = resampling.spread(number, length)
    number = min(number, length)
    expected = [int((i + 0.5) * length / number) for i in range(number)]
    assert found.tolist() == expected and len(set(expected)) == number


def slow_key_instants(scores, instants, number, min_gap):
    """Greedy, with sets; returns which instants were picked."""
    picked, used = [], set()
    for _ in range(number):
        if len(used) == len(scores):
            break  # which come again is not promised
        free = [i for i in range(len(scores)) if i not in used]
        far = [i for i in free if all(abs(instants[i] - instants[j]) >= min_gap for j in picked)]
        best = max(far or free, key=lambda i: (scores[i], -i))
        picked.append(best)
        used.add(best)
    return picked


GREEDY = jax.jit(resampling.key_instants, static_argnums=2)


@given(
    st.lists(st.integers(0, 64), min_size=6, max_size=6),
    st.lists(st.integers(0, 20), min_size=6, max_size=6, unique=True),
    st.sampled_from([1, 3, 9]),
    st.sampled_from([0.0, 1.0, 2.5, 6.0, 30.0]),
)
def test_key_instants_are_the_greedy_choice(scores, instants, number, min_gap):
    scores = np.array(scores, np.float32) / 64
    instants = np.array(sorted(instants), np.int32)
    found = np.asarray(GREEDY(scores[None], instants[None], number, min_gap))[0]
    assert found.shape == (number,) and found.dtype == np.int32
    expected = instants[slow_key_instants(scores, instants, number, min_gap)]
    np.testing.assert_array_equal(found[: len(expected)], expected)
    assert set(found.tolist()) <= set(instants.tolist())
    assert len(set(found.tolist())) == min(number, 6)


def test_key_instants_are_picked_for_each_video_alone():
    rng = np.random.default_rng(0)
    scores = rng.random((5, 8)).astype(np.float32)
    instants = np.sort(rng.permuted(np.tile(np.arange(30), (5, 1)), axis=1)[:, :8])
    whole = np.asarray(resampling.key_instants(scores, instants, 3, 4.0))
    for video in range(5):
        one = resampling.key_instants(scores[[video]], instants[[video]], 3, 4.0)
        np.testing.assert_array_equal(one[0], whole[video])


@pytest.mark.parametrize("min_gap", [3.0, 100.0])
def test_the_order_of_tiny_probabilities_counts(min_gap):
    scores = np.array([[1e-9, 3e-9, 2e-9, 0.0]], np.float32)
    found = resampling.key_instants(scores, np.array([[0, 10, 20, 30]]), 4, min_gap)
    assert found[0].tolist() == [10, 20, 0, 30]


def test_no_gradient_flows_through_the_choice():
    def total(scores):
        return jnp.sum(resampling.key_instants(scores, jnp.arange(4)[None], 2, 1.0) * 1.0)

    assert not np.any(jax.grad(total)(jnp.array([[0.1, 0.5, 0.2, 0.4]])))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 8])
def test_key_clips_are_neighbors_around_the_center_shifted_inward(frames):
    centers = np.arange(8)[None]
    clips = np.asarray(resampling.key_clips(centers, frames, 8))
    assert clips.shape == (1, 8, frames) and clips.dtype == np.int32
    for center in range(8):
        start = min(max(center - frames // 2, 0), 8 - frames)
        assert clips[0, center].tolist() == list(range(start, start + frames))
        assert center in clips[0, center]
