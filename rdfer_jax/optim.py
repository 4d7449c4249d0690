"""The optimizer: AdamW with linear warm-up and cosine decay, and which parameters it leaves or slows."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rdfer_jax import config
from rdfer_jax.models import trunks, vit


def schedule(settings: config.Optim, *, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step."""
    warmup = config.steps(settings.warmup, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    warmup = min(warmup, total_steps - 1)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else settings.learning_rate,
        peak_value=settings.learning_rate,
        warmup_steps=warmup,
        decay_steps=total_steps,
        end_value=settings.final_learning_rate,
    )


def create(
    settings: config.Optim, learning_rate: optax.Schedule, model: config.Model | None = None
) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov and Hutter 2019) with weight decay of kernels, not of biases or scales.

    Args:
      settings: of the optimizer.
      learning_rate: by step.
      model: settings of the network, for layer-wise learning rates and frozen parameters, which have no
        moments; None for neither.
    """
    optimizer = optax.adamw(
        learning_rate,
        b2=settings.beta2,
        weight_decay=settings.weight_decay,
        mask=lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key == "kernel", params
        ),
    )
    if settings.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(settings.clip_norm), optimizer)
    if model is not None and settings.layer_decay < 1:
        optimizer = optax.chain(optimizer, _by_layer(settings.layer_decay, model.trunk))
    if model is not None and model.freeze == "trunk":
        parts = {"trained": optimizer, "frozen": optax.set_to_zero()}
        optimizer = optax.partition(
            parts,
            lambda params: jax.tree_util.tree_map_with_path(
                lambda path, _: "frozen" if is_frozen(path, model) else "trained", params
            ),
        )
    return optimizer


def without_frozen_gradients(params: Any, model: config.Model) -> Any:
    """Returns the parameters; no gradient flows into frozen ones, so that none is computed."""
    if model.freeze == "none":
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.stop_gradient(leaf) if is_frozen(path, model) else leaf, params
    )


def is_frozen(path: tuple[Any, ...], model: config.Model) -> bool:
    """Whether a parameter keeps its initial value: those of a frozen trunk, but no low-rank updates.

    Args:
      path: of the parameter, keys of jax.tree_util.
      model: settings of the network.
    """
    names = [key.key for key in path]
    is_update = any(name.startswith("lora_") for name in names)
    return model.freeze == "trunk" and names[0] == "trunk" and not is_update


def _by_layer(decay: float, trunk: str) -> optax.GradientTransformation:
    """Scales updates by decay^(layers above), for layer-wise learning rates (BEiT: Bao et al. 2022).

    The streams and heads have the whole learning rate, the last block decay times it, and so on.
    """
    depth = trunks.create(trunk, dtype=jnp.float32).depth

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: (
                leaf * decay ** (depth + 1 - vit.depth_of([key.key for key in path], depth))
            ),
            updates,
        )

    return optax.stateless(scale)
