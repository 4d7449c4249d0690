"""The networks, as pure functions: create(config) -> init and apply."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdfer_jax.config import Config
from rdfer_jax.models import trunks
from rdfer_jax.models.m3dfel import M3DFEL
from rdfer_jax.models.rdfer import RDFER
from rdfer_jax.models.resnet_lstm import ResNetLSTM
from rdfer_jax.types import Outputs

Variables = Mapping[str, Any]


class Network(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: rng -> variables, a dict with "params" and "batch_stats".
      apply: (variables, frames_BFHWC, clips_BKT, choose_key, train, rng) -> (outputs, batch_stats).
      dtype: of the computation.
    """

    init: Callable[[jax.Array], Variables]
    apply: Callable[..., tuple[Outputs, Variables]]
    dtype: jnp.dtype


def compute_dtype(config: Config, platform: str) -> jnp.dtype:
    """Returns the type of the computation: as configured, or what suits the platform."""
    if config.model.dtype == "auto":
        return jnp.dtype(jnp.float32 if platform == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.model.dtype)


def create(config: Config, num_classes: int, platform: str) -> Network:
    """Returns the configured network for N = num_classes classes on "cpu", "gpu" or "tpu"."""
    dtype = compute_dtype(config, platform)
    module = _module(config, num_classes, dtype)

    def init(rng: jax.Array) -> Variables:
        size = config.augment.size
        frames = jnp.zeros((1, config.data.frames, size, size, 3), dtype)
        clips = jnp.zeros((1, config.clips.number, config.clips.frames), jnp.int32)
        return module.init(rng, frames, clips, consensus, train=False)

    def apply(
        variables: Variables,
        frames_BFHWC: jax.Array,
        clips_BKT: jax.Array,
        choose_key: Callable[[jax.Array], jax.Array],
        train: bool,
        rng: jax.Array | None = None,
    ) -> tuple[Outputs, Variables]:
        frames_BFHWC = frames_BFHWC.astype(dtype)
        outputs, changed = module.apply(
            variables,
            frames_BFHWC,
            clips_BKT,
            choose_key,
            train=train,
            mutable=["batch_stats"],
            rngs=None if rng is None else {"dropout": rng},
        )
        return outputs, changed["batch_stats"]

    return Network(init, apply, dtype)


def _module(config: Config, num_classes: int, dtype: jnp.dtype) -> nn.Module:
    model = config.model
    shift = model.name != "resnet_lstm"
    trunk = trunks.create(model.trunk, dtype=dtype, remat=model.remat, shift=shift)
    if model.name == "m3dfel":
        return M3DFEL(num_classes, trunk, dtype)
    if model.name == "resnet_lstm":
        return ResNetLSTM(num_classes, trunk, model.width, model.dropout, dtype)
    return RDFER(num_classes, trunk, model, config.key, dtype)


def consensus(clip_logits_BKN: jax.Array) -> jax.Array:
    """The class that the clips favour together, int [B]."""
    return jnp.argmax(jnp.mean(jax.nn.softmax(clip_logits_BKN), axis=1), axis=-1)
