"""Random erasing: a box of each video, or clip, is replaced by noise, the same in all of its frames.

Zhong et al. 2020 (arXiv 1708.04896), with noise of a normal distribution for each pixel, as in timm.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

#: Ranges of the area, as a fraction of the frame's, and of the aspect ratio, height over width.
AREA, ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)


class Box(NamedTuple):
    """A box in whole pixels, all scalars."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def erase(frames_NFHWC: jax.Array, keys_N: jax.Array, probability: float) -> jax.Array:
    """Erases a box of each video.

    Args:
      frames_NFHWC: float, normalized.
      keys_N: a typed PRNG key for each video; its result depends on nothing else.
      probability: that a video is erased.

    Returns:
      Frames of the same shape and dtype.
    """

    def one(frames_FHWC: jax.Array, key: jax.Array) -> jax.Array:
        key_box, key_noise, key_whether = jax.random.split(key, 3)
        _, height, width, _ = frames_FHWC.shape
        noise_HWC = jax.random.normal(key_noise, frames_FHWC.shape[1:], frames_FHWC.dtype)
        erased = fill(frames_FHWC, sample_box(key_box, height, width), noise_HWC)
        return jnp.where(jax.random.bernoulli(key_whether, probability), erased, frames_FHWC)

    return jax.vmap(one)(frames_NFHWC, keys_N)


def sample_box(key: jax.Array, height: int, width: int) -> Box:
    """Samples a box: area uniform, aspect ratio log-uniform among those that fit, position uniform."""
    unit_4 = jax.random.uniform(key, (4,))
    area = (AREA[0] + unit_4[0] * (AREA[1] - AREA[0])) * height * width
    low = jnp.maximum(np.log(ASPECT[0]), jnp.log(area / width**2))
    high = jnp.minimum(np.log(ASPECT[1]), jnp.log(height**2 / area))
    aspect = jnp.exp(low + unit_4[1] * (high - low))
    rows = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, height).astype(jnp.int32)
    columns = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, width).astype(jnp.int32)
    return Box(
        top=jnp.floor(unit_4[2] * (height - rows + 1)).astype(jnp.int32),
        left=jnp.floor(unit_4[3] * (width - columns + 1)).astype(jnp.int32),
        height=rows,
        width=columns,
    )


def fill(frames_FHWC: jax.Array, box: Box, noise_HWC: jax.Array) -> jax.Array:
    """Replaces the box in all frames by the noise at its place."""
    row_H1, column_W = jnp.arange(frames_FHWC.shape[1])[:, None], jnp.arange(frames_FHWC.shape[2])
    inside_HW = (
        (row_H1 >= box.top)
        & (row_H1 < box.top + box.height)
        & (column_W >= box.left)
        & (column_W < box.left + box.width)
    )
    return jnp.where(inside_HW[..., None], noise_HWC, frames_FHWC)
