"""ResNet and LSTM against slow references, and what may depend on what."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import lstms
import numpy as np
import pytest
import tiny

from rdfer_jax import models
from rdfer_jax.models import trunks
from rdfer_jax.models.resnet_lstm import ResNetLSTM

B, K, T, F, N, W = 3, 2, 6, 9, 5, 8


class ToyTrunk(nn.Module):
    """The mean colour of each frame through one layer."""

    frames_per_feature: int = 1

    @nn.compact
    def __call__(self, frames_NFHWC, train):
        return nn.tanh(nn.Dense(7)(frames_NFHWC.mean(axis=(2, 3))))


def resnet_lstm(dtype=jnp.float32):
    return ResNetLSTM(N, ToyTrunk(), W, 0.5, dtype)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((B, F, 4, 4, 3)).astype(np.float32) * 3
    clips = np.sort(rng.integers(0, F, (B, K, T)), axis=-1)
    return frames, clips.astype(np.int32)


@functools.cache
def variables():
    """Random ones: a forgotten bias must show."""
    frames, clips = inputs()
    module = resnet_lstm()
    shapes = jax.eval_shape(
        lambda rng: module.init(rng, frames, clips, models.consensus, False), jax.random.key(0)
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32) * 0.7, shapes)


@functools.partial(jax.jit, static_argnames=("module", "train"))
def forward(module, variables, frames, clips, train=False, rng=None):
    rngs = None if rng is None else {"dropout": rng}
    return module.apply(variables, frames, clips, models.consensus, train, rngs=rngs)


@pytest.mark.parametrize("lstm", [lstms.by_numpy, lstms.by_torch])
def test_equals_the_slow_reference(lstm):
    frames, clips = inputs()
    params = variables()["params"]
    pixels = np.stack([frames[b][clips[b, k]] for b in range(B) for k in range(K)])
    features = np.asarray(ToyTrunk().apply({"params": params["trunk"]}, pixels, False))
    last = lstm([[params["lstm"]]], features)[:, -1]
    expected = last @ params["head"]["kernel"] + params["head"]["bias"]
    expected = expected.reshape(B, K, N)
    out = forward(resnet_lstm(), variables(), frames, clips)
    np.testing.assert_allclose(out.clip_logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.video_logits, expected.mean(axis=1), rtol=1e-4, atol=1e-4)


def test_one_pass_over_all_clips_equals_a_loop_over_them():
    frames, clips = inputs()
    whole = forward(resnet_lstm(), variables(), frames, clips)
    for k in range(K):
        one = forward(resnet_lstm(), variables(), frames, clips[:, [k]])
        np.testing.assert_allclose(one.clip_logits[:, 0], whole.clip_logits[:, k], 1e-4, 1e-5)


def test_the_order_of_the_videos_only_reorders_their_logits():
    frames, clips = inputs()
    order = [2, 0, 1]
    one = forward(resnet_lstm(), variables(), frames, clips)
    two = forward(resnet_lstm(), variables(), frames[order], clips[order])
    for name in ("clip_logits", "video_logits"):
        expected = getattr(one, name)[np.array(order)]
        np.testing.assert_allclose(getattr(two, name), expected, rtol=1e-4, atol=1e-5)
    others = frames.copy()
    others[[0, 2]] = 0
    after = forward(resnet_lstm(), variables(), others, clips)
    np.testing.assert_array_equal(after.clip_logits[1], one.clip_logits[1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_types(dtype):
    frames, clips = inputs()
    module = resnet_lstm(dtype)
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
    exact = forward(resnet_lstm(), variables(), frames, clips).clip_logits
    low = forward(resnet_lstm(jnp.bfloat16), variables(), frames, clips).clip_logits
    assert 1e-5 < np.abs(low - exact).max() / np.abs(exact).max() < 0.05


def test_every_parameter_has_a_finite_gradient():
    frames, clips = inputs()

    def loss(params):
        out = resnet_lstm().apply({"params": params}, frames, clips, models.consensus, False)
        return jnp.mean(out.video_logits**2)

    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(variables()["params"])):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all() and np.any(leaf), name


def test_dropout_acts_in_training_only():
    frames, clips = inputs()

    def logits(train, seed):
        rng = jax.random.key(seed)
        return forward(resnet_lstm(), variables(), frames, clips, train, rng).clip_logits

    np.testing.assert_array_equal(logits(False, 0), logits(False, 1))
    assert np.any(logits(True, 0) != logits(True, 1))


@pytest.mark.parametrize("block", [trunks.BasicBlock, trunks.Bottleneck])
@pytest.mark.parametrize("shift", [False, True])
def test_without_shift_a_trunk_reads_each_frame_on_its_own(block, shift):
    trunk = trunks.ResNet((1,), (8,), jnp.float32, block, (3, 3), max_pool=False, shift=shift)
    frames = np.random.default_rng(0).standard_normal((1, 5, 8, 8, 3)).astype(np.float32)
    touched = frames.copy()
    touched[:, 2] += np.random.default_rng(1).standard_normal((8, 8, 3))
    found = jax.jit(lambda x: trunk.init(jax.random.key(0), x, False))(frames)
    apply = jax.jit(lambda x: trunk.apply(found, x, False))
    moved_F = np.abs(apply(touched) - apply(frames)).max(axis=(0, 2)) > 0
    assert moved_F.tolist() == [False, shift, True, shift, False]


def test_the_configured_network_trains_and_mixes_no_frames_before_the_lstm():
    config = tiny.config(model={"name": "resnet_lstm", "dropout": 0.5}, clips={"number": 2})
    network = models.create(config, N, "cpu")
    found = jax.jit(network.init)(jax.random.key(0))
    assert found["params"]["lstm"]["hi"]["kernel"].shape == (16, 16)
    frames = np.random.default_rng(0).standard_normal((2, 6, 16, 16, 3)).astype(np.float32)
    clips = np.broadcast_to(np.array([[0, 1, 2, 2], [4, 4, 5, 5]], np.int32), (2, 2, 4))

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables, frames, train):
        rng = jax.random.key(1)
        return network.apply(variables, frames, clips, models.consensus, train, rng)

    before, kept = apply(found, frames, False)
    jax.tree.map(np.testing.assert_array_equal, kept, found["batch_stats"])
    _, updated = apply(found, frames, True)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), updated, found["batch_stats"])
    assert all(jax.tree.leaves(moved))
    # Frame 3 lies beside both clips, in neither.
    touched = frames.copy()
    touched[:, 3] += 1
    after, _ = apply(found, touched, False)
    np.testing.assert_array_equal(after.clip_logits, before.clip_logits)
    touched[:, 5] += 1
    after, _ = apply(found, touched, False)
    assert np.any(after.clip_logits[:, 1] != before.clip_logits[:, 1])
    np.testing.assert_array_equal(after.clip_logits[:, 0], before.clip_logits[:, 0])
