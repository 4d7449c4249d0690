"""Mixup and CutMix: each video is blended with another one of its batch, and so is its loss.

Zhang et al. 2018 (arXiv 1710.09412) and Yun et al. 2019 (arXiv 1905.04899), with one draw a batch, as in
timm. All frames and clips of a video are mixed with the same weights.

Letters: as in types.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rdfer_jax import config
from rdfer_jax.losses import Evidence


def weights(key: jax.Array, height: int, width: int, options: config.Augment) -> jax.Array:
    """Samples the share of the other video at each pixel, float32 [H, W].

    Mixup: 1 - lambda everywhere. CutMix: 1 inside of a box with 1 - lambda of the area, before it is cut
    off at the borders; its center is uniform. lambda is Beta(a, a), with a of config.augment.mixup or
    .cutmix. If both are above 0, one of them is drawn, with equal chances.
    """
    key_mixes, key_kind, key_lam, key_box = jax.random.split(key, 4)
    is_cut = jnp.asarray(options.cutmix > 0)
    if options.mixup and options.cutmix:
        is_cut = jax.random.bernoulli(key_kind)
    alpha = jnp.where(is_cut, options.cutmix, options.mixup)
    lam = jax.random.beta(key_lam, alpha, alpha)
    center_2 = jax.random.uniform(key_box, (2,)) * jnp.array([height, width])
    inside_HW = box(lam, jnp.floor(center_2), height, width)
    share_HW = jnp.where(is_cut, inside_HW, 1 - lam)
    mixes = jax.random.bernoulli(key_mixes, options.mix_probability)
    return jnp.where(mixes, share_HW, 0.0).astype(jnp.float32)


def box(lam: jax.Array, center_2: jax.Array, height: int, width: int) -> jax.Array:
    """Returns CutMix's box around a center (row, column), bool [H, W]."""
    inside = []
    for center, size in zip(center_2, (height, width), strict=True):
        length = jnp.floor(size * jnp.sqrt(1 - lam))
        place = jnp.arange(size)
        inside.append((place >= center - length // 2) & (place < center + (length + 1) // 2))
    return inside[0][:, None] & inside[1]


def mixed(frames_BXHWC: jax.Array, weights_HW: jax.Array) -> jax.Array:
    """Blends each video with the one at its place from the end of the batch; same shape and dtype."""
    share = weights_HW[..., None].astype(frames_BXHWC.dtype)
    return frames_BXHWC + share * (frames_BXHWC[::-1] - frames_BXHWC)


def of_partners(evidence: Evidence) -> Evidence:
    """Returns what is known of the videos that `mixed` blends in."""
    per_video = ("label", "verdict", "partition", "index", "flipped", "votes")
    reversed_: dict[str, Any] = jax.tree.map(
        lambda leaf: leaf[::-1], {name: getattr(evidence, name) for name in per_video}
    )
    return dataclasses.replace(evidence, **reversed_)


def mixed_loss(own_B: jax.Array, partner_B: jax.Array, weights_HW: jax.Array) -> jax.Array:
    """Returns the loss of the mixed videos: that of both labels, by their shares of the pixels."""
    share = jnp.mean(weights_HW)
    return (1 - share) * own_B + share * partner_B
