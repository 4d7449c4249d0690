"""M3DFEL against slow references, and what may depend on what.

Most tests use a trunk that is a single layer, so that they compile in no time.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import lstms
import numpy as np
import pytest
import tiny

from rdfer_jax import models
from rdfer_jax.models.m3dfel import DMIN, M3DFEL

B, K, T, F, N = 3, 2, 12, 14, 5
PER_INSTANCE, HIDDEN, HEADS = 4, 6, 3


class ToyTrunk(nn.Module):
    """The mean colour of each four frames, through one layer."""

    frames_per_feature: int = PER_INSTANCE

    @nn.compact
    def __call__(self, frames_NFHWC, train):
        x = frames_NFHWC.mean(axis=(2, 3))
        return nn.tanh(nn.Dense(8)(x.reshape(len(x), -1, 3 * PER_INSTANCE)))


def m3dfel(dtype=jnp.float32):
    return M3DFEL(N, ToyTrunk(), dtype, hidden=HIDDEN, heads=HEADS)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((B, F, 4, 4, 3)).astype(np.float32) * 3
    clips = np.sort(rng.integers(0, F, (B, K, T)), axis=-1)
    return frames, clips.astype(np.int32)


@functools.cache
def variables():
    """Random ones: a forgotten bias, scale or share must show."""
    frames, clips = inputs()
    module = m3dfel()
    shapes = jax.eval_shape(
        lambda rng: module.init(rng, frames, clips, models.consensus, False), jax.random.key(0)
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32) * 0.7, shapes)


@functools.partial(jax.jit, static_argnames=("module", "train"))
def forward(module, variables, frames, clips, train=False):
    return module.apply(variables, frames, clips, models.consensus, train)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def slow_dmin(params, x_IW):
    """One bag, channel by channel, in float64."""
    x_IW = np.float64(x_IW)
    instances, width = x_IW.shape
    mean_mix, var_mix = (
        softmax(np.float64(params["mean_mix"])),
        softmax(np.float64(params["var_mix"])),
    )
    means = [sum(x_IW[:, c]) / instances for c in range(width)]
    variances = [sum((x_IW[:, c] - means[c]) ** 2) / (instances - 1) for c in range(width)]
    mean_all = sum(means) / width
    # Mean of the second moments less the square of the mean, as in the authors' code.
    var_all = sum(variances[c] + means[c] ** 2 for c in range(width)) / width - mean_all**2
    out = np.zeros_like(x_IW)
    for c in range(width):
        mean = mean_mix[0] * means[c] + mean_mix[1] * mean_all
        var = var_mix[0] * variances[c] + var_mix[1] * var_all
        out[:, c] = (x_IW[:, c] - mean) / (var + 1e-5) ** 0.5 * params["scale"][c] + params["bias"][
            c
        ]
    return out


def dmin_params(width, seed=2):
    rng = np.random.default_rng(seed)
    shapes = {"mean_mix": 2, "var_mix": 2, "scale": width, "bias": width}
    return {name: rng.standard_normal(size).astype(np.float32) for name, size in shapes.items()}


@pytest.mark.parametrize("instances", [2, 4])
def test_dmin_equals_the_slow_reference(instances):
    rng = np.random.default_rng(0)
    # Channels of unlike mean and scale, so that the two kinds of statistics differ.
    x = rng.standard_normal((3, 2, instances, 7)) * rng.uniform(0.05, 3, 7) + rng.normal(0, 2, 7)
    x, params = x.astype(np.float32), dmin_params(7)
    found = jax.jit(lambda x: DMIN().apply({"params": params}, x))(x)
    expected = [[slow_dmin(params, bag) for bag in row] for row in x]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_dmin_with_all_weight_on_one_kind_of_statistics():
    x = np.random.default_rng(0).normal(3, 2, (4, 6)).astype(np.float32)
    x *= np.arange(1, 7, dtype=np.float32)
    params = {"scale": np.ones(6), "bias": np.zeros(6)}

    def normalised(mix):
        return np.asarray(DMIN().apply({"params": params | {"mean_mix": mix, "var_mix": mix}}, x))

    channels = normalised(np.array([50.0, -50.0]))
    np.testing.assert_allclose(channels.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(channels.var(axis=0, ddof=1), 1, atol=1e-3)
    whole = normalised(np.array([-50.0, 50.0]))
    assert abs(whole.mean()) < 1e-5
    assert np.abs(whole.mean(axis=0)).min() > 0.01
    # Linear over the whole bag: channels keep their order and proportions.
    np.testing.assert_allclose(
        (whole[1] - whole[0]) / (x[1] - x[0]), np.ptp(whole) / np.ptp(x), 1e-4
    )


def test_dmin_starts_with_equal_shares_and_as_a_plain_normalisation():
    params = DMIN().init(jax.random.key(0), np.zeros((4, 6)))["params"]
    x = np.random.default_rng(0).normal(3, 2, (4, 6))
    expected = slow_dmin(
        {"mean_mix": np.zeros(2), "var_mix": np.zeros(2), "scale": np.ones(6), "bias": np.zeros(6)},
        x,
    )
    np.testing.assert_allclose(DMIN().apply({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


def slow_logits(params, x_MID, lstm):
    """What follows the trunk, bag by bag and head by head, from the description of the network."""
    p = params["dliam"]
    layers = [[p[f"lstm{i}_{way}"] for way in ("forward", "backward")] for i in range(2)]
    size, logits = 2 * HIDDEN // HEADS, []
    for x_IW in np.float64(lstm(layers, x_MID)):
        instances = len(x_IW)
        attended = np.zeros_like(x_IW)
        for head in range(HEADS):
            q, k, v = (x_IW @ p["qkv"]["kernel"][:, part, head] for part in range(3))
            attended[:, head * size : (head + 1) * size] = softmax(q @ k.T / size**0.5) @ v
        gated = x_IW / (1 + np.exp(-slow_dmin(p["dmin"], attended)))
        padded = np.pad(gated, [(0, 0), (1, 1)])  # along the features
        pooled = np.full(2 * HIDDEN, p["pool"]["bias"][0], np.float64)
        for place in range(2 * HIDDEN):
            for i in range(instances):
                pooled[place] += padded[i, place : place + 3] @ p["pool"]["kernel"][:, i, 0]
        logits.append(pooled @ params["head"]["kernel"] + params["head"]["bias"])
    return np.stack(logits)


@pytest.mark.parametrize("lstm", [lstms.by_numpy, lstms.by_torch])
def test_equals_the_slow_reference(lstm):
    frames, clips = inputs()
    params = variables()["params"]
    pixels = np.stack([frames[b][clips[b, k]] for b in range(B) for k in range(K)])
    features = ToyTrunk().apply({"params": params["trunk"]}, pixels, False)
    assert features.shape == (B * K, T // PER_INSTANCE, 8)
    expected = slow_logits(params, np.asarray(features), lstm).reshape(B, K, N)
    assert np.abs(expected).max() > 0.1
    out = forward(m3dfel(), variables(), frames, clips)
    np.testing.assert_allclose(out.clip_logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.video_logits, expected.mean(axis=1), rtol=1e-4, atol=1e-4)


def test_one_pass_over_all_clips_equals_a_loop_over_them():
    frames, clips = inputs()
    whole = forward(m3dfel(), variables(), frames, clips)
    for k in range(K):
        one = forward(m3dfel(), variables(), frames, clips[:, [k]])
        np.testing.assert_allclose(one.clip_logits[:, 0], whole.clip_logits[:, k], 1e-4, 1e-5)
        np.testing.assert_array_equal(one.video_logits, one.clip_logits[:, 0])


def test_the_order_of_the_videos_only_reorders_their_logits():
    frames, clips = inputs()
    order = [2, 0, 1]
    one = forward(m3dfel(), variables(), frames, clips)
    two = forward(m3dfel(), variables(), frames[order], clips[order])
    for name in ("clip_logits", "video_logits"):
        expected = getattr(one, name)[np.array(order)]
        np.testing.assert_allclose(getattr(two, name), expected, rtol=1e-4, atol=1e-5)
    others = frames.copy()
    others[[0, 2]] = 0
    after = forward(m3dfel(), variables(), others, clips)
    np.testing.assert_array_equal(after.clip_logits[1], one.clip_logits[1])


def test_the_order_of_the_instances_matters():
    frames, clips = inputs()
    one = forward(m3dfel(), variables(), frames, clips)
    two = forward(m3dfel(), variables(), frames, np.roll(clips, PER_INSTANCE, axis=-1))
    assert np.abs(one.clip_logits - two.clip_logits).min() > 1e-4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_types(dtype):
    frames, clips = inputs()
    module = m3dfel(dtype)
    out = forward(module, variables(), frames, clips)
    found = {name: (x.shape, str(x.dtype)) for name, x in vars(out).items() if x is not None}
    assert found == {
        "video_logits": ((B, N), "float32"),
        "clip_logits": ((B, K, N), "float32"),
    }
    init = jax.eval_shape(
        lambda rng: module.init(rng, frames, clips, models.consensus, False), jax.random.key(0)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {jnp.dtype("float32")}


def test_bfloat16_computes_near_float32():
    frames, clips = inputs()
    exact = forward(m3dfel(), variables(), frames, clips).clip_logits
    low = forward(m3dfel(jnp.bfloat16), variables(), frames, clips).clip_logits
    assert 1e-5 < np.abs(low - exact).max() / np.abs(exact).max() < 0.1


def test_every_parameter_has_a_finite_gradient():
    frames, clips = inputs()

    def loss(params):
        out = m3dfel().apply({"params": params}, frames, clips, models.consensus, True)
        return jnp.mean(out.video_logits**2)

    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(variables()["params"])):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all() and np.any(leaf), name


def test_equal_instances_have_a_finite_gradient():
    frames = np.ones((B, F, 4, 4, 3), np.float32)

    def loss(params):
        out = m3dfel().apply({"params": params}, frames, inputs()[1], models.consensus, True)
        return jnp.mean(out.video_logits**2)

    found = jax.jit(jax.grad(loss))(variables()["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_the_configured_network_has_the_published_size():
    config = tiny.config(
        model={"name": "m3dfel", "trunk": "r3d_18"},
        data={"frames": 16},
        clips={"frames": 16, "number": 1},
    )
    network = models.create(config, 7, "cpu")
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    # torch's LSTM has a second bias in each gate, which adds nothing to the first.
    lstm = sum(2 * 4 * 512 * (inner + 512 + 1) for inner in (512, 1024))
    dliam = lstm + 1024 * 3 * 1024 + (2 * 1024 + 2 * 2) + (4 * 3 + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]["dliam"])) == dliam
    trunk = 33_371_472 - 512 * 400 - 400  # torchvision's r3d_18 without its last layer
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    assert total == trunk + dliam + 1024 * 7 + 7
    frames = jax.ShapeDtypeStruct((2, 16, 16, 16, 3), jnp.float32)
    clips = jax.ShapeDtypeStruct((2, 1, 16), jnp.int32)
    out, batch_stats = jax.eval_shape(
        lambda v, f, c: network.apply(v, f, c, models.consensus, True), shapes, frames, clips
    )
    assert out.video_logits.shape == (2, 7)
    assert jax.tree.structure(batch_stats) == jax.tree.structure(shapes["batch_stats"])
