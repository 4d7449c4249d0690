"""M3DFEL against slow references; what it shares with another network is in test_baselines."""

import functools

import jax
import jax.numpy as jnp
import lstms
import numpy as np
import pytest
import tiny
from baselines import (
    HEADS,
    HIDDEN,
    PER_INSTANCE,
    B,
    F,
    equals_slow_reference,
    forward,
    inputs,
    m3dfel,
    variables,
)

from rdfer_jax import models
from rdfer_jax.models.m3dfel import DMIN

pytestmark = pytest.mark.slow


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

    def normalized(mix):
        return np.asarray(DMIN().apply({"params": params | {"mean_mix": mix, "var_mix": mix}}, x))

    channels = normalized(np.array([50.0, -50.0]))
    np.testing.assert_allclose(channels.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(channels.var(axis=0, ddof=1), 1, atol=1e-3)
    whole = normalized(np.array([-50.0, 50.0]))
    assert abs(whole.mean()) < 1e-5
    assert np.abs(whole.mean(axis=0)).min() > 0.01
    # Linear over the whole bag: channels keep their order and proportions.
    np.testing.assert_allclose(
        (whole[1] - whole[0]) / (x[1] - x[0]), np.ptp(whole) / np.ptp(x), 1e-4
    )


def test_dmin_starts_with_equal_shares_and_as_a_plain_normalization():
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


@pytest.mark.parametrize(
    "lstm", [lstms.by_numpy, pytest.param(lstms.by_torch, marks=pytest.mark.torch)]
)
def test_equals_the_slow_reference(lstm):
    equals_slow_reference(m3dfel, functools.partial(slow_logits, lstm=lstm))


def test_the_order_of_the_instances_matters():
    frames, clips = inputs()
    one = forward(m3dfel(), variables(m3dfel), frames, clips)
    two = forward(m3dfel(), variables(m3dfel), frames, np.roll(clips, PER_INSTANCE, axis=-1))
    assert np.abs(one.clip_logits - two.clip_logits).min() > 1e-4


def test_equal_instances_have_a_finite_gradient():
    frames = np.ones((B, F, 4, 4, 3), np.float32)

    def loss(params):
        out, _ = m3dfel().apply({"params": params}, frames, inputs()[1], True)
        return jnp.mean(out.video_logits**2)

    found = jax.jit(jax.grad(loss))(variables(m3dfel)["params"])
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
    out = jax.eval_shape(lambda v, f, c: network.read_clips(v, f, c, True), shapes, frames, clips)
    assert out.outputs.video_logits.shape == (2, 7)
    assert jax.tree.structure(out.batch_stats) == jax.tree.structure(shapes["batch_stats"])
    assert network.read_key_clips is None
