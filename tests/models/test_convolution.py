"""The convolution over three axes against SciPy, and its two ways against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from rdfer_jax.models import convolution

pytestmark = pytest.mark.slow


CASES = [
    # frames, side, kernel, strides, pads
    (4, 9, (3, 7, 7), (1, 2, 2), ((1, 1), (3, 3), (3, 3))),
    (4, 6, (3, 3, 3), (1, 1, 1), ((1, 1), (1, 1), (1, 1))),
    (5, 7, (3, 3, 3), (2, 2, 2), ((1, 1), (1, 1), (1, 1))),
    (1, 5, (3, 3, 3), (2, 2, 2), ((1, 1), (1, 1), (1, 1))),
    (4, 6, (3, 1, 1), (2, 1, 1), ((1, 1), (0, 0), (0, 0))),
    (4, 6, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1))),
    (4, 6, (1, 1, 1), (2, 2, 2), ((0, 0), (0, 0), (0, 0))),
]


def drawn(frames, side, kernel):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, frames, side, side + 1, 3)).astype(np.float32)
    return x, rng.standard_normal((*kernel, 3, 4)).astype(np.float32)


def by_scipy(x, kernel, strides, pads):
    padded = np.pad(x, ((0, 0), *pads, (0, 0))).astype(np.float64)
    out = [
        sum(
            signal.correlate(video[..., i], kernel[..., i, o], mode="valid")
            for i in range(x.shape[-1])
        )
        for video in padded
        for o in range(kernel.shape[-1])
    ]
    stacked = np.stack(out).reshape(len(x), kernel.shape[-1], *out[0].shape)
    strided = stacked[:, :, :: strides[0], :: strides[1], :: strides[2]]
    return np.moveaxis(strided, 1, -1)


@pytest.mark.parametrize(("frames", "side", "kernel", "strides", "pads"), CASES)
def test_both_ways_are_the_convolution(frames, side, kernel, strides, pads):
    x, weights = drawn(frames, side, kernel)
    expected = by_scipy(x, weights, strides, pads)
    for way in (convolution.plain, convolution.frames_as_channels):
        np.testing.assert_allclose(way(x, weights, strides, pads), expected, rtol=1e-4, atol=1e-4)
    found = jax.jit(lambda x, k: convolution.conv3d(x, k, strides, pads))(x, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("frames", "side", "kernel", "strides", "pads"), CASES)
def test_the_gradient_is_that_of_the_plain_one(frames, side, kernel, strides, pads):
    x, weights = drawn(frames, side, kernel)

    def loss(convolve):
        return lambda x, k: jnp.sum(jnp.sin(convolve(x, k, strides, pads)))

    expected = jax.grad(loss(convolution.plain), argnums=(0, 1))(x, weights)
    found = jax.jit(jax.grad(loss(convolution.conv3d), argnums=(0, 1)))(x, weights)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def convolutions(platform):
    """The ranks of the convolutions in a step lowered for a platform."""
    x, weights = drawn(4, 6, (3, 3, 3))

    def loss(x, k):
        return jnp.sum(convolution.conv3d(x, k, (1, 1, 1), ((1, 1),) * 3) ** 2)

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    text = step.trace(x, weights).lower(lowering_platforms=(platform,)).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.convolution(" in line]
    return [line.split("-> tensor<")[-1].count("x") for line in lines]


def test_only_a_cpu_lays_frames_side_by_side():
    # Dimensions are followed by an x each: four of a convolution over two axes, five over three.
    assert set(convolutions("cpu")) == {4}
    assert set(convolutions("tpu")) == set(convolutions("cuda")) == {5}
