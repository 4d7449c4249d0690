"""The schedule and what decays."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from rdfer_jax import config as config_lib
from rdfer_jax import models, optim


def test_the_schedule_rises_linearly_and_falls_as_a_cosine():
    settings = config_lib.Optim(learning_rate=1.0, final_learning_rate=0.1, warmup="2 epochs")
    rate = optim.schedule(settings, total_steps=100, steps_per_epoch=10)
    for step in range(101):
        fall = (1 + math.cos(math.pi * (step - 20) / 80)) / 2
        expected = step / 20 if step < 20 else 0.1 + 0.9 * fall
        np.testing.assert_allclose(rate(step), expected, atol=1e-6)
    np.testing.assert_allclose(rate(1000), 0.1, rtol=1e-5)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", ["0 %", "5 %", "100 %", "50 epochs"])
def test_the_shortest_runs_have_a_schedule(total, warmup):
    settings = config_lib.Optim(warmup=warmup)
    rate = optim.schedule(settings, total_steps=total, steps_per_epoch=1)
    values = np.array([rate(step) for step in range(total + 1)])
    assert np.isfinite(values).all() and values.max() <= settings.learning_rate * (1 + 1e-6)
    assert values[:total].max() > 0
    if warmup == "0 %":
        np.testing.assert_allclose(values[0], settings.learning_rate, rtol=1e-6)


def test_only_matrices_and_kernels_of_the_network_decay():
    network = models.create(tiny.config(), 3, "cpu")
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    settings = config_lib.Optim(weight_decay=0.5, clip_norm=0.0)
    optimizer = optim.create(settings, lambda step: 0.1)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p))(zero, params)
    wrong = {}
    for path, update in jax.tree.leaves_with_path(updates):
        decays = path[-1].key == "kernel"
        if not np.allclose(update, -0.05 if decays else 0.0, atol=1e-7):
            wrong[jax.tree_util.keystr(path)] = update.shape
    assert not wrong


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_a_step_is_that_of_adamw_with_the_gradient_clipped(clip_norm):
    settings = config_lib.Optim(weight_decay=0.1, clip_norm=clip_norm, beta2=0.95)
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    grads = {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.array([12.0])}
    optimizer = optim.create(settings, lambda step: 0.01)
    state, expected = optimizer.init(params), {k: np.array(v) for k, v in params.items()}
    moments = {key: (0.0, 0.0) for key in params}
    for step, size in ((1, 1.0), (2, 0.01)):
        now = {key: gradient * size for key, gradient in grads.items()}
        updates, state = optimizer.update(now, state, params)
        params = optax.apply_updates(params, updates)
        norm = 13.0 * size
        scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
        for key, value in expected.items():
            gradient = np.array(now[key]) * scale
            first, second = moments[key]
            first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
            moments[key] = first, second
            move = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.95**step)) + 1e-8)
            decay = 0.1 * value if key == "kernel" else 0
            expected[key] = value - 0.01 * (move + decay)
    for key, value in expected.items():
        np.testing.assert_allclose(params[key], value, rtol=1e-5)
