"""ResNet and LSTM against a slow reference; what it shares with another network is in test_baselines."""

import functools

import jax
import jax.numpy as jnp
import lstms
import numpy as np
import pytest
import tiny
from baselines import N, equals_slow_reference, forward, inputs, resnet_lstm, variables

from rdfer_jax import models
from rdfer_jax.models import trunks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "lstm", [lstms.by_numpy, pytest.param(lstms.by_torch, marks=pytest.mark.torch)]
)
def test_equals_the_slow_reference(lstm):
    def slow_logits(params, features):
        last = lstm([[params["lstm"]]], features)[:, -1]
        return last @ params["head"]["kernel"] + params["head"]["bias"]

    equals_slow_reference(resnet_lstm, slow_logits)


def test_dropout_acts_in_training_only():
    frames, clips = inputs()

    def logits(train, seed):
        rng = jax.random.key(seed)
        return forward(resnet_lstm(), variables(resnet_lstm), frames, clips, train, rng).clip_logits

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
    assert network.read_key_clips is None
    found = jax.jit(network.init)(jax.random.key(0))
    assert found["params"]["lstm"]["hi"]["kernel"].shape == (16, 16)
    frames = np.random.default_rng(0).standard_normal((2, 6, 16, 16, 3)).astype(np.float32)
    clips = np.broadcast_to(np.array([[0, 1, 2, 2], [4, 4, 5, 5]], np.int32), (2, 2, 4))

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables, frames, train):
        rng = jax.random.key(1)
        outputs, batch_stats, context = network.read_clips(variables, frames, clips, train, rng)
        assert context is None
        return outputs, batch_stats

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
