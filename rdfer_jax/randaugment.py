"""RandAugment on the device: a few random operations of a list, the same for all frames of a video.

Cubuk et al. 2020 (arXiv 1909.13719), with the list, the ranges and the random magnitudes of timm's
"rand-m7-n4-mstd0.5-inc1", with which VideoMAE, MAE-DFER and S4D fine-tune: 15 operations, whose effect
grows with the magnitude, each applied with probability 1/2. Frames stay uint8 between the operations, as
those of PIL, which the results equal but for one gray level where PIL's float rounding differs.
Resampling is bilinear.

What depends on a picture (auto_contrast, equalize, contrast) depends on each frame, as in PIL.

Letters: n operations of a video, F frames, H W C image (C = 3, RGB), V the 256 values, P = H W pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax import config

#: Operations that give each value of a channel another one; that move pixels; that blend with a picture.
TABLES = ("auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add")
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
BLENDS = ("brightness", "contrast", "color", "sharpness")
OPERATIONS = (*TABLES, *MOVES, *BLENDS)

#: Probability that an operation that was drawn is applied, and the highest magnitude.
PROBABILITY, MOST = 0.5, 10.0
#: Float results just below a whole number are that number: PIL computes in double precision.
_TINY = 1e-3


class Draw(NamedTuple):
    """The operations of one video, in their order.

    Attributes:
      operation: int32 [n], places in OPERATIONS.
      applied: bool [n].
      magnitude: float32 [n] in [0, 10].
      negative: bool [n], the direction of moves and blends.
    """

    operation: jax.Array
    applied: jax.Array
    magnitude: jax.Array
    negative: jax.Array


def sample(key: jax.Array, options: config.Augment) -> Draw:
    """Draws config.augment.rand_layers operations, with replacement.

    Magnitudes are normal, with the mean rand_magnitude and the standard deviation rand_deviation, clipped
    to [0, 10].
    """
    key_operation, key_applied, key_magnitude, key_negative = jax.random.split(key, 4)
    shape = (options.rand_layers,)
    deviation = options.rand_deviation * jax.random.normal(key_magnitude, shape)
    return Draw(
        operation=jax.random.randint(key_operation, shape, 0, len(OPERATIONS)),
        applied=jax.random.bernoulli(key_applied, PROBABILITY, shape),
        magnitude=jnp.clip(options.rand_magnitude + deviation, 0.0, MOST),
        negative=jax.random.bernoulli(key_negative, 0.5, shape),
    )


def apply(frames_FHWC: jax.Array, draw: Draw, fill: tuple[int, ...]) -> jax.Array:
    """Applies the operations of one video to all of its frames.

    Under `vmap`, whose videos have different operations, each of the three kinds is computed for every
    video.

    Args:
      frames_FHWC: uint8, RGB.
      draw: the operations.
      fill: the color of pixels that a move brings in from outside.

    Returns:
      uint8 of the same shape.
    """

    def one(frames_FHWC: jax.Array, layer: Draw) -> tuple[jax.Array, None]:
        kinds = (_by_table, _moved, _blended)
        results = [kind(frames_FHWC, layer, fill) for kind in kinds]
        ends = np.cumsum([len(TABLES), len(MOVES)])
        kind = jnp.sum(layer.operation >= ends)
        changed = jax.lax.select_n(kind, *results)
        return jnp.where(layer.applied, changed, frames_FHWC), None

    return jax.lax.scan(one, frames_FHWC, draw)[0]


# Tables: each channel of a frame has its own, int32 [F, V, 3].


def _by_table(frames_FHWC: jax.Array, layer: Draw, fill: tuple[int, ...]) -> jax.Array:
    frames_FPC = frames_FHWC.reshape(len(frames_FHWC), -1, 3).astype(jnp.int32)
    value_V1 = jnp.arange(256)[:, None]
    names: dict[str, Callable[[], jax.Array]] = {
        "auto_contrast": lambda: _auto_contrast(frames_FPC, value_V1),
        "equalize": lambda: _equalize(frames_FPC, value_V1),
        "invert": lambda: 255 - value_V1,
        "posterize": lambda: _posterize(value_V1, layer.magnitude),
        "solarize": lambda: _solarize(value_V1, layer.magnitude),
        "solarize_add": lambda: _solarize_add(value_V1, layer.magnitude),
    }
    shape = (len(frames_FPC), 256, 3)
    branches = [lambda make=names[name]: jnp.broadcast_to(make(), shape) for name in TABLES]
    table_FVC = jax.lax.switch(layer.operation, branches)
    table_FVC = jnp.clip(table_FVC, 0, 255)
    changed_FPC = jax.vmap(_looked_up)(frames_FPC, table_FVC)
    return changed_FPC.reshape(frames_FHWC.shape)


def _auto_contrast(frames_FPC: jax.Array, value_V1: jax.Array) -> jax.Array:
    """The darkest value becomes 0, the brightest 255."""
    low_F1C = jnp.min(frames_FPC, axis=1, keepdims=True)
    span_F1C = jnp.max(frames_FPC, axis=1, keepdims=True) - low_F1C
    stretched = (value_V1 - low_F1C) * 255 // jnp.maximum(span_F1C, 1)
    return jnp.where(span_F1C > 0, stretched, value_V1)


def _equalize(frames_FPC: jax.Array, value_V1: jax.Array) -> jax.Array:
    """The values become equally frequent, as far as a table can do that."""
    count_FVC = jax.vmap(_histogram)(frames_FPC)
    highest_F1C = jnp.max(frames_FPC, axis=1, keepdims=True)
    others_F1C = frames_FPC.shape[1] - jnp.take_along_axis(count_FVC, highest_F1C, axis=1)
    step_F1C = others_F1C // 255
    below_FVC = jnp.cumsum(count_FVC, axis=1) - count_FVC
    equal_FVC = (step_F1C // 2 + below_FVC) // jnp.maximum(step_F1C, 1)
    return jnp.where(step_F1C > 0, equal_FVC, value_V1)


# Counting and looking up are matrix products on a GPU or TPU, exact for these whole numbers. On a TPU, a
# gather of single values took 400 times the memory traffic; on a CPU, the products take ten times as long.


def _histogram(frame_PC: jax.Array) -> jax.Array:
    """Counts the 256 values of each channel, int32 [V, C]."""
    return jax.lax.platform_dependent(frame_PC, cpu=counted, default=counted_by_products)


def _looked_up(frame_PC: jax.Array, table_VC: jax.Array) -> jax.Array:
    """Returns uint8 [P, C] of a table of whole numbers up to 255."""
    return jax.lax.platform_dependent(
        frame_PC, table_VC, cpu=looked_up, default=looked_up_by_products
    )


def counted(frame_PC: jax.Array) -> jax.Array:
    """See `_histogram`."""
    return jax.vmap(lambda x: jnp.bincount(x, length=256), -1, -1)(frame_PC).astype(jnp.int32)


def counted_by_products(frame_PC: jax.Array) -> jax.Array:
    """See `_histogram`."""
    upper_CUP, lower_CLP = _nibbles(frame_PC)
    count_CUL = jnp.einsum("cup,clp->cul", upper_CUP, lower_CLP)
    return count_CUL.reshape(3, 256).T.astype(jnp.int32)


def looked_up(frame_PC: jax.Array, table_VC: jax.Array) -> jax.Array:
    """See `_looked_up`."""
    return jnp.take_along_axis(table_VC.astype(jnp.uint8), frame_PC, axis=0)


def looked_up_by_products(frame_PC: jax.Array, table_VC: jax.Array) -> jax.Array:
    """See `_looked_up`."""
    upper_CUP, lower_CLP = _nibbles(frame_PC)
    table_CUL = table_VC.T.reshape(3, 16, 16).astype(jnp.float32)
    row_CUP = jnp.einsum("cul,clp->cup", table_CUL, lower_CLP)
    return jnp.sum(row_CUP * upper_CUP, axis=1).T.astype(jnp.uint8)


def _nibbles(frame_PC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the upper and lower four bits of values, one-hot: float32 [C, 16, P] each."""
    value_C1P, nibble_Q1 = frame_PC.T[:, None], jnp.arange(16)[:, None]
    upper_CQP, lower_CQP = value_C1P >> 4 == nibble_Q1, value_C1P & 15 == nibble_Q1
    return upper_CQP.astype(jnp.float32), lower_CQP.astype(jnp.float32)


def _posterize(value_V1: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Keeps the highest bits, 4 at magnitude 0 and none at 10."""
    bits = 4 - jnp.floor(magnitude * (4 / MOST)).astype(jnp.int32)
    return value_V1 >> (8 - bits) << (8 - bits)


def _solarize(value_V1: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Inverts values from a threshold on, 256 at magnitude 0 and 0 at 10."""
    threshold = 256 - jnp.floor(magnitude * (256 / MOST)).astype(jnp.int32)
    return jnp.where(value_V1 < threshold, value_V1, 255 - value_V1)


def _solarize_add(value_V1: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Adds up to 110 to values below 128."""
    added = jnp.floor(magnitude * (110 / MOST)).astype(jnp.int32)
    return jnp.where(value_V1 < 128, value_V1 + added, value_V1)


# Moves: the place that the pixel (x, y) of the result shows, by a matrix [2, 3] of (x, y, 1).


def _moved(frames_FHWC: jax.Array, layer: Draw, fill: tuple[int, ...]) -> jax.Array:
    height, width = frames_FHWC.shape[1:3]
    amount = jnp.where(layer.negative, -layer.magnitude, layer.magnitude) / MOST
    one, zero = jnp.ones(()), jnp.zeros(())

    def rotation() -> list[list[jax.Array]]:
        angle = -jnp.deg2rad(30 * amount)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        x, y = width / 2, height / 2
        return [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]]

    matrices: dict[str, Callable[[], list[list[jax.Array]]]] = {
        "rotate": rotation,
        "shear_x": lambda: [[one, 0.3 * amount, zero], [zero, one, zero]],
        "shear_y": lambda: [[one, zero, zero], [0.3 * amount, one, zero]],
        "translate_x": lambda: [[one, zero, 0.45 * width * amount], [zero, one, zero]],
        "translate_y": lambda: [[one, zero, zero], [zero, one, 0.45 * height * amount]],
    }
    branches = [lambda make=matrices[name]: jnp.array(make()) for name in MOVES]
    matrix_23 = jax.lax.switch(layer.operation - len(TABLES), branches)
    return _warp(frames_FHWC, matrix_23, fill)


def _warp(frames_FHWC: jax.Array, matrix_23: jax.Array, fill: tuple[int, ...]) -> jax.Array:
    """Resamples, bilinear; outside of the frame is the fill."""
    frames, height, width, _ = frames_FHWC.shape
    y_HW, x_HW = jnp.mgrid[:height, :width] + 0.5
    ones_HW = jnp.ones_like(x_HW)
    high = jax.lax.Precision.HIGHEST
    place_2HW = jnp.tensordot(matrix_23, jnp.stack([x_HW, y_HW, ones_HW]), 1, precision=high)
    size_211 = jnp.array([width, height])[:, None, None]
    inside_HW = jnp.all((place_2HW >= 0) & (place_2HW < size_211), axis=0)
    first_2HW = jnp.floor(place_2HW - 0.5)
    part_2HW = place_2HW - 0.5 - first_2HW
    (left, right), (top, bottom) = (
        [jnp.clip(first.astype(jnp.int32) + i, 0, size - 1) for i in (0, 1)]
        for first, size in zip(first_2HW, (width, height), strict=True)
    )
    # All frames of a pixel lie together, so that a gather fetches them at once.
    rows_PX = jnp.moveaxis(frames_FHWC, 0, 2).reshape(height * width, -1)

    def at(row_HW: jax.Array, column_HW: jax.Array) -> jax.Array:
        return rows_PX[(row_HW * width + column_HW).reshape(-1)].astype(jnp.float32)

    across_P1, down_P1 = part_2HW.reshape(2, -1, 1)
    upper_PX = at(top, left) + across_P1 * (at(top, right) - at(top, left))
    lower_PX = at(bottom, left) + across_P1 * (at(bottom, right) - at(bottom, left))
    mean_PX = jnp.floor(upper_PX + down_P1 * (lower_PX - upper_PX) + _TINY)
    mean_FHWC = jnp.moveaxis(mean_PX.reshape(height, width, frames, 3), 2, 0)
    filled = jnp.asarray(fill, jnp.float32)
    return jnp.where(inside_HW[..., None], mean_FHWC, filled).astype(jnp.uint8)


# Blends: (1 - factor) other + factor frame, with factors from 0.1 to 1.9.


def _blended(frames_FHWC: jax.Array, layer: Draw, fill: tuple[int, ...]) -> jax.Array:
    frames = frames_FHWC.astype(jnp.int32)
    amount = jnp.where(layer.negative, -layer.magnitude, layer.magnitude)
    factor = 1 + amount * (0.9 / MOST)
    others: dict[str, Callable[[], jax.Array]] = {
        "brightness": lambda: jnp.zeros((), jnp.int32),
        "contrast": lambda: _mean_gray(frames),
        "color": lambda: _gray(frames),
        "sharpness": lambda: _smooth(frames),
    }
    branches = [lambda make=others[name]: jnp.broadcast_to(make(), frames.shape) for name in BLENDS]
    other = jax.lax.switch(layer.operation - len(TABLES) - len(MOVES), branches)
    result = other + factor * (frames - other)
    return jnp.floor(jnp.clip(result, 0, 255) + _TINY).astype(jnp.uint8)


def _gray(frames_FHWC: jax.Array) -> jax.Array:
    """PIL's luma of ITU-R BT.601, in 16 bits: int32 [F, H, W, 1]."""
    red, green, blue = jnp.split(frames_FHWC, 3, axis=-1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _mean_gray(frames_FHWC: jax.Array) -> jax.Array:
    """The rounded mean of each frame: int32 [F, 1, 1, 1]."""
    mean = jnp.mean(_gray(frames_FHWC), axis=(1, 2, 3), keepdims=True, dtype=jnp.float32)
    return jnp.floor(mean + 0.5).astype(jnp.int32)


def _smooth(frames_FHWC: jax.Array) -> jax.Array:
    """PIL's filter SMOOTH: the mean of 3 x 3 pixels, in which the center counts five times."""
    height, width = frames_FHWC.shape[1:3]
    middle = frames_FHWC[:, 1:-1, 1:-1]
    total = 4 * middle + sum(
        frames_FHWC[:, y : y + height - 2, x : x + width - 2] for y in range(3) for x in range(3)
    )
    return frames_FHWC.at[:, 1:-1, 1:-1].set((2 * total + 13) // 26)
