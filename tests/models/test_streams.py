"""The two streams: what each part of their output may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdfer_jax.models.streams import Instants, LongTerm, ShortTerm, time_positions

pytestmark = pytest.mark.slow


S, D, W, N = 9, 5, 16, 4


def rand(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def short(layers=1, kernel=3, dtype=jnp.float32):
    return ShortTerm(width=W, layers=layers, kernel=kernel, dtype=dtype)


def long(dtype=jnp.float32):
    return LongTerm(num_classes=N, width=W, layers=1, heads=2, dtype=dtype)


def variables(module, *inputs):
    """Random ones: a forgotten bias or scale must show."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: (0.5 * rng.standard_normal(s.shape)).astype(s.dtype), shapes)


def run(module, found, *inputs):
    return jax.jit(module.apply)(found, *inputs)


def before_pooling(module, found, x):
    """What the short-term stream pools, [..., S, W]."""
    _, kept = jax.jit(
        lambda v, x: module.apply(
            v, x, None, capture_intermediates=lambda m, _: m.name == "norm_out", mutable=True
        )
    )(found, x)
    return np.asarray(kept["intermediates"]["norm_out"]["__call__"][0])


@pytest.mark.parametrize(("layers", "kernel"), [(1, 1), (1, 3), (2, 3), (1, 5)])
def test_the_short_term_stream_sees_neighbors_only(layers, kernel):
    module, x = short(layers, kernel), rand(S, D)
    found = variables(module, x, None)
    reach = layers * (kernel // 2)
    before = before_pooling(module, found, x)
    for frame in (0, 4, S - 1):
        other = x.copy()
        other[frame] += 1
        changed = np.any(before_pooling(module, found, other) != before, axis=-1)
        # One more to the right: the difference between a frame and the one before it.
        inside = [frame - reach <= s <= frame + 1 + reach for s in range(S)]
        np.testing.assert_array_equal(changed, inside)


def test_the_short_term_stream_reads_each_snippet_by_itself():
    x = rand(2, S, D)
    module = ShortTerm(width=W, layers=2, kernel=3, dtype=jnp.float32, snippet=3)
    found = variables(short(2), x[0], None)
    snippets = before_pooling(module, found, x)
    for video in range(2):
        for g in range(3):
            alone = before_pooling(short(2), found, x[video, 3 * g : 3 * g + 3])
            np.testing.assert_allclose(snippets[video, g], alone, rtol=1e-4, atol=1e-5)
    # The order of the snippets does not count, that of the frames in them does.
    gate = np.abs(rand(2, W, seed=3))
    pooled = run(module, found, x, gate)
    swapped = x.reshape(2, 3, 3, D)[:, [2, 0, 1]].reshape(x.shape)
    backward = x.reshape(2, 3, 3, D)[:, :, ::-1].reshape(x.shape)
    np.testing.assert_allclose(run(module, found, swapped, gate), pooled, rtol=1e-4, atol=1e-5)
    assert np.abs(run(module, found, backward, gate) - pooled).max() > 0.1


def test_the_short_term_stream_pools_with_learned_attention_over_gated_features():
    module, x, gate = short(), rand(2, S, D), np.abs(rand(2, W, seed=3))
    found = variables(module, x, gate)
    h = before_pooling(module, found, x) * gate[:, None]
    params = found["params"]
    hidden = np.tanh(h @ params["attend_hidden"]["kernel"] + params["attend_hidden"]["bias"])
    score = (hidden @ params["attend"]["kernel"] + params["attend"]["bias"])[..., 0]
    share = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
    expected = (h * share[..., None]).sum(-2)
    np.testing.assert_allclose(run(module, found, x, gate), expected, rtol=1e-4, atol=1e-5)


def test_a_gate_of_ones_is_no_gate_and_of_zeros_silence():
    module, x = short(), rand(2, S, D)
    found = variables(module, x, None)
    np.testing.assert_allclose(
        run(module, found, x, np.ones((2, W), np.float32)), run(module, found, x, None), rtol=1e-5
    )
    assert not np.any(run(module, found, x, np.zeros((2, W), np.float32)))


def test_movement_is_told_from_the_differences_of_neighbors():
    module, x = short(), rand(S, D)
    found = variables(module, x, None)

    @jax.jit
    def movement(x):
        def total(kernel):
            params = found["params"] | {"move": {"kernel": kernel}}
            return jnp.sum(module.apply({"params": params}, x, None) ** 2)

        return jax.grad(total)(found["params"]["move"]["kernel"])

    still = np.broadcast_to(x[:1], x.shape)
    assert not np.any(movement(still)) and np.all(movement(x) != 0)


def test_short_term_clips_are_read_each_alone():
    module, x, gate = short(2), rand(2, 3, S, D), rand(2, 3, W, seed=2)
    found = variables(module, x, gate)
    whole = run(module, found, x, gate)
    assert whole.shape == (2, 3, W)
    for b, k in np.ndindex(2, 3):
        np.testing.assert_allclose(
            run(module, found, x[b, k], gate[b, k]), whole[b, k], rtol=1e-4, atol=1e-5
        )


def test_long_term_shapes_and_ranges():
    module, x = long(jnp.bfloat16), rand(2, 3, 6, D)
    found = variables(module, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}
    logits, state, gate = run(module, found, x)
    assert logits.shape == (2, 3, N) and logits.dtype == jnp.float32
    assert state.shape == gate.shape == (2, 3, W)
    assert (gate > 0).all() and (gate < 1).all()


def test_the_logits_of_an_instant_depend_on_that_instant_alone():
    module, x = Instants(num_classes=N, width=W, dtype=jnp.bfloat16), rand(2, 6, D)
    found = variables(module, x)
    whole = run(module, found, x)
    assert whole.shape == (2, 6, N) and whole.dtype == jnp.float32
    for b, i in np.ndindex(2, 6):
        np.testing.assert_allclose(run(module, found, x[b, i]), whole[b, i], rtol=1e-2, atol=1e-2)
    other = x.copy()
    other[:, 3] += 1
    changed = np.any(run(module, found, other) != whole, axis=(0, 2))
    np.testing.assert_array_equal(changed, np.arange(6) == 3)


def test_the_long_term_stream_sees_all_instants():
    module, x = long(), rand(6, D)
    found = variables(module, x)
    before = run(module, found, x)
    for instant in range(6):
        other = x.copy()
        other[instant] += 1
        for one, two in zip(run(module, found, other), before, strict=True):
            assert np.any(one != two)


def test_the_long_term_stream_knows_the_order_of_time():
    module, x = long(), rand(6, D)
    found = variables(module, x)
    one, two = run(module, found, x), run(module, found, x[::-1])
    for before, after in zip(one, two, strict=True):
        assert np.abs(before - after).max() > 1e-3


def test_long_term_clips_are_read_each_alone():
    module, x = long(), rand(2, 2, 6, D)
    found = variables(module, x)
    whole = run(module, found, x)
    for b, k in np.ndindex(2, 2):
        for part, all_parts in zip(run(module, found, x[b, k]), whole, strict=True):
            np.testing.assert_allclose(part, all_parts[b, k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "width"), [(1, 8), (2, 8), (16, 64), (5, 256)])
def test_time_positions_are_sines_and_cosines_that_tell_times_apart(length, width):
    found = time_positions(length, width)
    assert found.shape == (length, width) and found.dtype == np.float32
    half = width // 2
    np.testing.assert_allclose(found[:, :half] ** 2 + found[:, half:] ** 2, 1, atol=1e-5)
    distance = np.abs(found[:, None] - found).max(-1)[~np.eye(length, dtype=bool)]
    assert (distance > 0.1).all()
    # The slowest turns once in two clips.
    expected = np.sin(np.pi * (np.arange(length) + 0.5) / length)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
