"""The schedule and what decays."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import traverse_util

from rdfer_jax import config as config_lib
from rdfer_jax import models, optim
from rdfer_jax.models import vit, vit_names


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


VIT = {"model": {"trunk": "vit_narrow"}}


def update(config, gradient=1.0):
    """The update of a first step, from gradients that are all the same, by name of the parameter."""
    network = models.create(config, 3, "cpu")
    shapes = jax.eval_shape(network.init, jax.random.key(0))["params"]
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    optimizer = optim.create(config.optim, lambda step: 0.1, config.model)
    grads = jax.tree.map(lambda leaf: gradient * leaf, params)
    state = optimizer.init(params)
    updates, _ = jax.jit(optimizer.update)(grads, state, params)
    return traverse_util.flatten_dict(updates, sep="/"), state


@pytest.mark.slow
def test_layers_further_from_the_head_learn_slower():
    found, _ = update(tiny.config(**VIT, optim={"layer_decay": 0.5, "clip_norm": 0.0}))
    same, _ = update(tiny.config(**VIT, optim={"clip_norm": 0.0}))
    # Two blocks: the norm after them learns like the streams and the head.
    factors = {"embedding": 0.125, "block0": 0.25, "block1": 0.5, "norm": 1.0}
    for name, leaf in found.items():
        trunk, part = name.split("/")[:2]
        expected = same[name] * (factors[part] if trunk == "trunk" else 1.0)
        np.testing.assert_allclose(leaf, expected, rtol=1e-6, err_msg=name)
    with pytest.raises(
        ValueError, match=r"config.optim.layer_decay: expected 1 for .*resnet8_narrow"
    ):
        tiny.config(optim={"layer_decay": 0.5})


@pytest.mark.torch
def test_the_factors_of_the_layers_are_those_of_timm():
    """But for the last norm: timm counts it to the last block; BEiT, VideoMAE and we to the head."""
    timm = pytest.importorskip("timm")
    timm_optim = pytest.importorskip("timm.optim")
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=32, embed_dim=32, depth=3, num_heads=2, num_classes=7
    )
    groups = timm_optim.param_groups_layer_decay(model, layer_decay=0.75)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    shapes = {name: np.zeros(value.shape) for name, value in model.state_dict().items()}
    compared = 0
    for name, found in vit_names.places(shapes).items():
        if not name.startswith(("norm.", "head.")):
            path = ["trunk", *found[0].name.split("/")]
            ours = 0.75 ** (3 + 1 - vit.depth_of(path, 3))
            assert ours == pytest.approx(scales[id(model.get_parameter(name))]), name
            compared += 1
    assert compared == 4 + 3 * 12
    assert scales[id(model.head.weight)] == 1 == 0.75 ** (4 - vit.depth_of(["head", "kernel"], 3))


@pytest.mark.slow
def test_a_frozen_trunk_has_neither_updates_nor_moments_but_its_low_rank_updates_have():
    frozen = {"trunk": "vit_narrow", "freeze": "trunk"}
    for lora in (0, 2):
        found, state = update(tiny.config(model=frozen | {"lora_rank": lora}))
        moved = {name for name, leaf in found.items() if np.abs(leaf).max() > 0}
        fixed = {name for name in found if name.startswith("trunk/") and "lora" not in name}
        assert moved == found.keys() - fixed
        assert any("lora" in name for name in moved) == bool(lora)
        moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
        assert moments == 2 * sum(found[name].size for name in moved)
    with pytest.raises(ValueError, match=r"config.model.lora_rank: expected 0 for .*'resnet18'"):
        config_lib.resolve({"model": {"lora_rank": 4}})
    with pytest.raises(ValueError, match=r"lora_layers: expected some of query\+.*got 'qkv'"):
        config_lib.resolve({"model": {"trunk": "vit_b16", "lora_layers": "qkv"}})
