"""The networks that judge each clip on its own, M3DFEL and ResNet with LSTM, with a trunk of one layer.

So they compile in no time. `NETWORKS` are functions from a type to a module. Sizes: B videos of K clips of
T frames from a buffer of F, N classes, features of width D.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax.models.m3dfel import M3DFEL
from rdfer_jax.models.resnet_lstm import ResNetLSTM

B, K, T, F, N, D = 3, 2, 12, 14, 5, 8
#: Of M3DFEL: frames of an instance, units of its LSTM, heads of its attention.
PER_INSTANCE, HIDDEN, HEADS = 4, 6, 3


class ToyTrunk(nn.Module):
    """The mean color of each few frames, through one layer."""

    frames_per_feature: int

    @nn.compact
    def __call__(self, frames_NFHWC, train):
        x = frames_NFHWC.mean(axis=(2, 3))
        return nn.tanh(nn.Dense(D)(x.reshape(len(x), -1, 3 * self.frames_per_feature)))


def m3dfel(dtype=jnp.float32):
    return M3DFEL(N, ToyTrunk(PER_INSTANCE), dtype, hidden=HIDDEN, heads=HEADS)


def resnet_lstm(dtype=jnp.float32):
    return ResNetLSTM(N, ToyTrunk(1), 8, 0.5, dtype)


NETWORKS = (m3dfel, resnet_lstm)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((B, F, 4, 4, 3)).astype(np.float32) * 3
    clips = np.sort(rng.integers(0, F, (B, K, T)), axis=-1)
    return frames, clips.astype(np.int32)


def shapes(module):
    """Shapes and types of a network's variables."""
    return jax.eval_shape(lambda rng: module.init(rng, *inputs(), False), jax.random.key(0))


@functools.cache
def variables(network):
    """Random ones: a forgotten bias, scale or share must show."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda s: rng.standard_normal(s.shape).astype(np.float32) * 0.7, shapes(network())
    )


@functools.partial(jax.jit, static_argnames=("module", "train"))
def forward(module, variables, frames, clips, train=False, rng=None):
    rngs = None if rng is None else {"dropout": rng}
    outputs, context = module.apply(variables, frames, clips, train, rngs=rngs)
    assert context is None
    return outputs


def equals_slow_reference(network, slow_logits):
    """Compares a network with what follows its trunk, slow_logits(params, features [B K, I, D])."""
    frames, clips = inputs()
    params = variables(network)["params"]
    pixels = np.stack([frames[b][clips[b, k]] for b in range(B) for k in range(K)])
    features = network().trunk.apply({"params": params["trunk"]}, pixels, False)
    expected = slow_logits(params, np.asarray(features)).reshape(B, K, N)
    assert np.abs(expected).max() > 0.1
    out = forward(network(), variables(network), frames, clips)
    np.testing.assert_allclose(out.clip_logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.video_logits, expected.mean(axis=1), rtol=1e-4, atol=1e-4)
