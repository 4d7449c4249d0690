"""The optimizer: AdamW with linear warm-up and cosine decay."""

import jax
import optax

from rdfer_jax import config


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


def create(settings: config.Optim, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov and Hutter 2019) with weight decay of kernels, not of biases or scales."""
    adamw = optax.adamw(
        learning_rate,
        b2=settings.beta2,
        weight_decay=settings.weight_decay,
        mask=lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key == "kernel", params
        ),
    )
    if settings.clip_norm:
        return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adamw)
    return adamw
