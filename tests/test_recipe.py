"""The recipe of transformers in the steps: accumulation, mixing, views; and parameters that are split."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rdfer_jax import augment, losses, mixing, models, sharding, steps
from rdfer_jax import config as config_lib
from rdfer_jax import state as state_lib
from rdfer_jax.losses import Evidence
from rdfer_jax.training.setup import ModelSetup
from rdfer_jax.types import Batch

pytestmark = pytest.mark.slow

B, N, ROWS = 8, 3, 20
LENGTHS = {"total_steps": 10, "steps_per_epoch": 5}
VIT = {"trunk": "videovit_narrow"}


def settings(**sections):
    sections.setdefault("model", VIT)
    return tiny.config(**sections)


def noise(config, size=B, pixels=None):
    rng = np.random.default_rng(0)
    pixels = pixels or config.data.image_size
    return Batch(
        frames=rng.integers(0, 256, (size, config.data.frames, pixels, pixels, 3), np.uint8),
        label=rng.integers(0, N, size).astype(np.int32),
        index=rng.permutation(ROWS)[:size].astype(np.int32),
        mask=np.ones(size, bool),
        votes=np.zeros((size, N), np.float32),
    )


@functools.cache
def first_state(config):
    network = models.create(config, N, "cpu")
    state = jax.jit(lambda: state_lib.create(config, network, num_classes=N, num_train=ROWS))()
    return network, jax.device_get(state)


def gradients(config, parts=1, batch=None):
    network, state = first_state(config)
    grad_fn = steps.make_grad_fn(config, network, **LENGTHS)
    if parts > 1:
        grad_fn = steps.accumulated(grad_fn, parts)
    return jax.device_get(jax.jit(grad_fn)(state, batch or noise(config)))


def test_gradients_of_the_parts_of_a_batch_are_those_of_the_batch():
    fixed = {"memory_decay": 0.5, "threshold_kind": "fixed"}  # nothing adapts within the batch
    config = settings(agreement=fixed, loss={"hard_scale": "agreement"})
    grads, aux = gradients(config)
    again, parts = gradients(config, 4)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5 * largest)
    assert largest > 1e-3
    jax.tree.map(close, again, grads)
    for name in ("outputs", "loss", "verdict", "partition", "memory"):
        jax.tree.map(functools.partial(close, atol=1e-5), parts[name], aux[name])


def test_a_step_in_parts_takes_the_gradients_of_all_of_them(monkeypatch):
    asked = []
    monkeypatch.setattr(steps, "accumulated", lambda fn, parts: asked.append(parts) or fn)
    config = settings(optim={"accumulate": 4})
    network, _ = first_state(settings())
    steps.make_train_step(config, network, None, **LENGTHS)
    assert asked == [4]
    with pytest.raises(ValueError, match=r"accumulate: expected a divisor of .* = 8, got 3"):
        settings(optim={"accumulate": 3})


def test_the_loss_of_a_mixed_video_is_that_of_both_labels(monkeypatch):
    sections = {"loss": {"method": "cross_entropy"}, "augment": {"mixup": 0.8, "erase": 0.5}}
    config = settings(**sections)
    # A quarter on average, and not the same everywhere, as in CutMix.
    weights_HW = jnp.zeros((16, 16)).at[:8].set(0.5)
    monkeypatch.setattr(mixing, "weights", lambda *_: weights_HW)
    _, aux = gradients(config)
    batch = noise(config)

    def of(order):
        evidence = Evidence(
            batch.label[::order], aux["verdict"], aux["partition"], jnp.ones(()), index=batch.index
        )
        return losses.per_video(aux["outputs"], evidence, config.loss)

    np.testing.assert_allclose(aux["loss"], 0.75 * of(1) + 0.25 * of(-1), rtol=1e-5)
    # The frames are mixed, and some are erased before: other predictions.
    _, plain = gradients(settings(loss=sections["loss"]))
    _, erased = gradients(settings(loss=sections["loss"], augment={"erase": 0.5}))
    for one, two in ((aux, plain), (aux, erased), (erased, plain)):
        assert np.abs(one["outputs"].clip_logits - two["outputs"].clip_logits).max() > 1e-4
    moved_B = np.abs(erased["outputs"].clip_logits - plain["outputs"].clip_logits).max((1, 2))
    same = moved_B < 1e-5
    assert 0 < same.sum() < B  # about half of the videos


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_methods_that_judge_labels_need_a_teacher_that_sees_the_videos_unmixed(name):
    with pytest.raises(ValueError, match=rf"config.augment.{name}: .*teacher_decay above 0"):
        settings(augment={name: 1.0})
    settings(augment={name: 1.0}, agreement={"teacher_decay": 0.9})
    for method in ("cross_entropy", "focal", "votes", "oracle"):
        settings(augment={name: 1.0}, loss={"method": method})
    with pytest.raises(ValueError, match=rf"config.augment.{name}: expected 0 for .* = 'ssr'"):
        settings(
            augment={name: 1.0},
            agreement={"teacher_decay": 0.9, "memory_decay": 0.5},
            loss={"method": "ssr"},
        )


@pytest.mark.torch
def test_the_five_crops_are_those_of_torchvision():
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms")
    for size, pixels in ((8, 13), (8, 12), (5, 8)):
        frames = np.random.default_rng(0).integers(0, 256, (2, 3, pixels, pixels + 1, 3), np.uint8)
        found = np.asarray(augment.five_crops(frames, size)).reshape(2, 5, 3, size, size, 3)
        crops = transforms.FiveCrop(size)(torch.tensor(frames).movedim(-1, 2))
        for place, crop in zip((0, 1, 2, 3, 4), crops, strict=True):
            np.testing.assert_array_equal(found[:, place], crop.movedim(2, -1))


def test_views_in_space_and_time_are_averaged():
    crops = {"augment": {"eval_crops": 5}, "data": {"image_size": 24}, "clips": {"eval_number": 2}}
    config = settings(**crops)
    network, state = first_state(config)
    batch = noise(config, 2)
    found = jax.jit(steps.make_predict_step(config, network))(state, batch)
    assert found.clip_logits.shape == (2, 2, N)
    whole = settings(clips=crops["clips"])
    predict = jax.jit(steps.make_predict_step(whole, network))
    pieces = np.asarray(augment.five_crops(batch.frames, 16)).reshape(
        2, 5, *batch.frames.shape[1:2], 16, 16, 3
    )
    each = [
        predict(state, dataclasses.replace(batch, frames=pieces[:, place])) for place in range(5)
    ]
    expected = np.mean([one.clip_logits for one in each], axis=0)
    np.testing.assert_allclose(found.clip_logits, expected, rtol=1e-4, atol=1e-5)
    expected = np.mean([one.instant_logits for one in each], axis=0)
    np.testing.assert_allclose(found.instant_logits, expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(found.logits).all() and found.key_instants.shape == (2, 2)
    with pytest.raises(ValueError, match="eval_crops: expected 1 or 5, got 3"):
        settings(augment={"eval_crops": 3})
    with pytest.raises(ValueError, match="eval_crops: expected 1, because"):
        settings(augment={"eval_crops": 5, "size": 32})


def losses_of(choice, monkeypatch, steps_=3):
    """The losses of a few steps on eight devices, and the state."""
    monkeypatch.setattr(sharding, "LEAST_SPLIT", 1024)
    config = settings(
        train={"shard_parameters": choice, "duration": "8 steps"}, agreement={"teacher_decay": 0.9}
    )
    setup = ModelSetup(config, sharding.make_mesh(), N, ROWS)
    state, step = setup.new_state(), setup.train_step()
    batch = jax.device_put(noise(config), sharding.split_batch(setup.mesh))
    found = []
    for _ in range(steps_):
        state, metrics = step(state, batch)
        found.append(float(metrics.compute()["loss"]))
    return np.array(found), state, setup


def test_split_parameters_give_the_same_losses(monkeypatch):
    whole, expected, _ = losses_of("never", monkeypatch)
    split, state, setup = losses_of("always", monkeypatch)
    assert whole[0] - whole[-1] > 1e-4
    np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        state.params,
        expected.params,
    )
    parts = {
        jax.tree_util.keystr(path): leaf.size // leaf.addressable_shards[0].data.size
        for path, leaf in jax.tree.leaves_with_path(state)
    }
    large = [name for name, part in parts.items() if part == 8]
    kernels = [name for name in large if "'block0']['fc1']['dense']['kernel']" in name]
    assert len(kernels) == 4  # the parameter, two moments, the teacher's
    assert set(parts.values()) == {1, 8}
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(expected))
    abstract = setup.abstract_state()
    jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail(str(b)), state, abstract)


@pytest.mark.parametrize("limit", [None, 10**6, 10**12])
def test_parameters_are_split_if_the_state_fills_the_memory(limit, monkeypatch):
    monkeypatch.setattr("rdfer_jax.training.memory_limit.of_device", lambda _: limit)
    setup = ModelSetup(settings(), sharding.make_mesh(), N, ROWS)
    is_whole = setup.layout == sharding.replicated(setup.mesh)
    assert is_whole == (limit != 10**6)


def test_a_small_or_odd_array_stays_whole():
    mesh = sharding.make_mesh()
    shapes = {"small": (8, 8), "odd": (129, 129), "wide": (64, 1024), "tall": (4096, 9)}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    found = {name: one.spec for name, one in sharding.split_parameters(mesh, tree).items()}
    assert found == {
        "small": jax.P(), "odd": jax.P(), "wide": jax.P(None, "data"), "tall": jax.P("data"),
    }  # fmt: skip
    assert config_lib.Train().shard_parameters == "auto"
