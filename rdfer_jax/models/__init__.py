"""The networks, as pure functions: create(config) -> init, read_clips and read_key_clips."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdfer_jax.config import Config
from rdfer_jax.models import trunks, vit
from rdfer_jax.models.m3dfel import M3DFEL
from rdfer_jax.models.rdfer import RDFER, KeyContext
from rdfer_jax.models.resnet_lstm import ResNetLSTM
from rdfer_jax.types import Outputs

Variables = Mapping[str, Any]


class Forward(NamedTuple):
    """The result of a forward pass over a batch of videos.

    Attributes:
      outputs: the logits. After `read_clips` alone, video_logits are the mean of the clip logits, and
        key_instants and key_logits are None.
      batch_stats: the running statistics; in training, updated by this pass.
      context: the input of `read_key_clips`, other than the class; None where there is no such pass, and
        after it.
    """

    outputs: Outputs
    batch_stats: Variables
    context: KeyContext | None = None


class Network(NamedTuple):
    """A network as pure functions.

    A forward pass is `read_clips`, followed by `read_key_clips` if the network has it. In between, the
    caller chooses the class whose key expression to look for, usually from the clip logits.

    Attributes:
      init: rng -> variables, a dict with "params" and, if the trunk has any, "batch_stats".
      read_clips: (variables, frames_BFHWC, clips_BKT, train, rng=None, clip_frames=None) -> Forward.
        `rng` is for dropout and stochastic depth. clip_frames, float [B, K, T, H, W, 3], is what RDFER's
        clips show, where it is not the frames of the video.
      read_key_clips: (variables, forward, key_class_B, train, rng=None) -> Forward. It takes the result
        of `read_clips`, its batch_stats included, and the same rng. None if the network has no key
        expression.
      dtype: of the computation.
    """

    init: Callable[[jax.Array], Variables]
    read_clips: Callable[..., Forward]
    read_key_clips: Callable[..., Forward] | None
    dtype: jnp.dtype


def compute_dtype(config: Config, platform: str) -> jnp.dtype:
    """Returns the dtype of the computation: the configured one, or the default of the platform."""
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
        return module.init(rng, frames, clips, train=False)

    def apply(variables: Variables, *args: Any, rng: jax.Array | None, **kwargs: Any) -> Any:
        # Both passes drop branches of a trunk, independently of each other.
        part = 1 + ("method" in kwargs)
        rngs = {} if rng is None else {"dropout": rng, "drop_path": jax.random.fold_in(rng, part)}
        result, changed = module.apply(
            variables, *args, mutable=["batch_stats"], rngs=rngs, **kwargs
        )
        return result, changed.get("batch_stats", {})  # a transformer has none

    def read_clips(
        variables: Variables,
        frames_BFHWC: jax.Array,
        clips_BKT: jax.Array,
        train: bool,
        rng: jax.Array | None = None,
        clip_frames: jax.Array | None = None,
    ) -> Forward:
        own = {} if clip_frames is None else {"clip_frames_BKTHWC": clip_frames.astype(dtype)}
        (outputs, context), batch_stats = apply(
            variables, frames_BFHWC.astype(dtype), clips_BKT, train=train, rng=rng, **own
        )
        return Forward(outputs, batch_stats, context)

    def read_key_clips(
        variables: Variables,
        forward: Forward,
        key_class_B: jax.Array,
        train: bool,
        rng: jax.Array | None = None,
    ) -> Forward:
        outputs, batch_stats = apply(
            # A trunk that reads clips updates the statistics a second time.
            {"params": variables["params"], "batch_stats": forward.batch_stats},
            forward.outputs,
            forward.context,
            key_class_B,
            train=train,
            rng=rng,
            method="read_key_clips",
        )
        return Forward(outputs, batch_stats)

    has_key = isinstance(module, RDFER) and module.has_key
    return Network(init, read_clips, read_key_clips if has_key else None, dtype)


def _module(config: Config, num_classes: int, dtype: jnp.dtype) -> nn.Module:
    model = config.model
    shift = model.shift and model.name != "resnet_lstm"
    lora = None
    if model.lora_rank:
        layers = tuple(model.lora_layers.split("+"))
        lora = vit.LoRA(layers, model.lora_rank, model.lora_alpha, model.lora_dropout)
    trunk = trunks.create(
        model.trunk,
        dtype=dtype,
        remat=model.remat,
        shift=shift,
        drop_path=model.drop_path,
        lora=lora,
        frozen=model.freeze == "trunk" and lora is None,
    )
    if model.name == "m3dfel":
        return M3DFEL(num_classes, trunk, dtype)
    if model.name == "resnet_lstm":
        return ResNetLSTM(num_classes, trunk, model.width, model.dropout, dtype)
    two_rates = config.clips.kind != "snippets"
    return RDFER(num_classes, trunk, model, config.key, dtype, config.data.snippet, two_rates)
