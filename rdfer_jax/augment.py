"""uint8 frames -> augmented, normalised floats, on the device. Pure, and free to be jitted.

One draw for each video, shared by all of its frames: resized crop, flip, brightness, contrast,
saturation, hue. Everything but the final clip is linear, so a video's augmentation is two matrix
products, one over the columns and colours together and one over the rows, and a shift of grey.

Letters: B videos, F frames, H W C what comes in (C = 3, RGB), h w = options.size what goes out.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax import config

# ITU-R BT.601 luma, the grey of PIL and torchvision.
_GREY_C = np.array([0.299, 0.587, 0.114])
# RGB -> YIQ (FCC 1953). Turning the (I, Q) plane changes the hue and leaves the luma alone.
_YIQ_CC = np.array([_GREY_C, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


class Draw(NamedTuple):
    """What is drawn for one video; all scalars.

    Attributes:
      top: first row of the crop, in whole pixels, as the next three.
      left: its first column.
      height: its rows.
      width: its columns.
      flip: whether left and right are exchanged.
      brightness: factor of all values.
      contrast: c in c x + (1 - c) (mean grey of the video).
      saturation: s in s x + (1 - s) (grey of the pixel).
      hue: by how much of a full circle the hue is turned.
    """

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array
    flip: jax.Array
    brightness: jax.Array
    contrast: jax.Array
    saturation: jax.Array
    hue: jax.Array


def train_augment(
    frames_BFHWC: jax.Array, keys_B: jax.Array, options: config.Augment, dtype: Any = jnp.float32
) -> jax.Array:
    """Augments each video by its own draw, the same for all of its frames.

    Resized crop and flip as torchvision's RandomResizedCrop (bilinear, anti-aliased) and
    RandomHorizontalFlip; colours as its ColorJitter, with these differences: contrast refers to
    the mean grey of the video rather than of each frame; hue turns in YIQ, a linear map, rather
    than in HSV; and values are clipped to [0, 1] once, at the end, rather than after each
    operation. Without the clips the operations commute (each keeps the grey of a pixel, or maps
    all greys by one linear function), so there is no order to draw.

    Args:
      frames_BFHWC: uint8, RGB.
      keys_B: one typed PRNG key a video (`jax.random.key`). A video's result depends on its own
        key alone, and on nothing else in the batch.
      options: see config.Augment.
      dtype: of the computation and of the result; in bfloat16, right to about two
        of 255 grey levels.

    Returns:
      frames_BFhwC, h = w = options.size, (value - mean) / std of values in [0, 1].

    Raises:
      TypeError: the frames are not uint8.
      ValueError: a shape does not fit.
    """
    _check(frames_BFHWC)
    if keys_B.shape != frames_BFHWC.shape[:1]:
        raise ValueError(f"keys {keys_B.shape} for frames {frames_BFHWC.shape}: one key a video")
    height, width = frames_BFHWC.shape[2:4]

    def augment(frames_FHWC, key):
        drawn = draw(key, height, width, options)
        rows_hH = resize_matrix(height, options.size, drawn.top, drawn.height)
        columns_wW = resize_matrix(width, options.size, drawn.left, drawn.width)
        columns_wW = jnp.where(drawn.flip, columns_wW[::-1], columns_wW)
        colour_CC = colour_matrix(drawn.brightness, drawn.saturation, drawn.hue)
        frames_FhwC = _resample(frames_FHWC, rows_hH, columns_wW, colour_CC, dtype)
        # Saturation and hue keep the grey, so this is the mean grey of the brightened video.
        mean_C = jnp.mean(frames_FhwC, axis=(0, 1, 2), dtype=jnp.float32)
        offset = (1 - drawn.contrast) * jnp.sum(mean_C * _GREY_C.astype(np.float32))
        frames_FhwC = drawn.contrast.astype(dtype) * frames_FhwC + offset.astype(dtype)
        return _normalise(frames_FhwC, options)

    return jax.vmap(augment)(frames_BFHWC, keys_B)


def eval_transform(
    frames_BFHWC: jax.Array, options: config.Augment, dtype: Any = jnp.float32
) -> jax.Array:
    """Resizes (bilinear, anti-aliased) and normalises; nothing is drawn, nothing cut away.

    Args:
      frames_BFHWC: uint8, RGB.
      options: see config.Augment; only size, mean and std are read.
      dtype: of the computation and of the result.

    Returns:
      frames_BFhwC, h = w = options.size, (value - mean) / std of values in [0, 1].

    Raises:
      TypeError: the frames are not uint8.
      ValueError: the shape does not fit.
    """
    _check(frames_BFHWC)
    height, width = frames_BFHWC.shape[2:4]
    if height == width == options.size:
        return _normalise(frames_BFHWC.astype(dtype) * jnp.asarray(1 / 255, dtype), options)
    rows_hH = resize_matrix(height, options.size, 0, height)
    columns_wW = resize_matrix(width, options.size, 0, width)

    def resize(frames_FHWC):
        return _resample(frames_FHWC, rows_hH, columns_wW, jnp.eye(3), dtype)

    return _normalise(jax.vmap(resize)(frames_BFHWC), options)


def draw(key: jax.Array, height: int, width: int, options: config.Augment) -> Draw:
    """Draws what happens to a video of frames [height, width].

    The crop: its area uniform, its aspect ratio log-uniform, its place uniform among those that
    fit. torchvision's RandomResizedCrop draws area and ratio up to ten times until the box fits;
    here the ratio is drawn among those that fit the area. Given the area this is the same
    distribution; large areas, which torchvision rejects more often, are a little more frequent.
    """
    unit_9 = jax.random.uniform(key, (9,))  # one call: it is the generator that takes long

    def between(i, low, high):
        return low + unit_9[i] * (high - low)

    def factor(i, strength):
        return between(i, max(0.0, 1 - strength), 1 + strength)

    area = between(0, *options.crop_area) * height * width
    # Sides sqrt(area aspect) <= width and sqrt(area / aspect) <= height.
    low = jnp.maximum(np.log(options.crop_aspect[0]), jnp.log(area / height**2))
    high = jnp.minimum(np.log(options.crop_aspect[1]), jnp.log(width**2 / area))
    aspect = jnp.exp(between(1, low, high))
    crop_height = jnp.clip(jnp.round(jnp.sqrt(area / aspect)), 1, height).astype(jnp.int32)
    crop_width = jnp.clip(jnp.round(jnp.sqrt(area * aspect)), 1, width).astype(jnp.int32)
    return Draw(
        top=jnp.floor(unit_9[2] * (height - crop_height + 1)).astype(jnp.int32),
        left=jnp.floor(unit_9[3] * (width - crop_width + 1)).astype(jnp.int32),
        height=crop_height,
        width=crop_width,
        flip=unit_9[4] < options.flip,
        brightness=factor(5, options.brightness),
        contrast=factor(6, options.contrast),
        saturation=factor(7, options.saturation),
        hue=between(8, -options.hue, options.hue),
    )


def resize_matrix(
    full: int, size: int, start: jax.Array | int, length: jax.Array | int
) -> jax.Array:
    """The matrix [size, full], float32, that crops [start, start + length) and resizes it to size.

    Bilinear: a triangle one source pixel wide to either side, widened by length / size when
    scaling down (anti-aliasing, as in PIL and torchvision). Pixels outside the crop have weight
    zero, so the result is that of resizing the cropped image. Rows sum to 1.
    """
    scale = jnp.asarray(length, jnp.float32) / size
    centre_s1 = start + (jnp.arange(size)[:, None] + 0.5) * scale - 0.5
    pixel_f = jnp.arange(full)
    inside_f = (pixel_f >= start) & (pixel_f < start + length)
    triangle_sf = jnp.maximum(1 - jnp.abs(pixel_f - centre_s1) / jnp.maximum(scale, 1), 0)
    weight_sf = jnp.where(inside_f, triangle_sf, 0)
    return weight_sf / weight_sf.sum(axis=1, keepdims=True)


def colour_matrix(brightness: jax.Array, saturation: jax.Array, hue: jax.Array) -> jax.Array:
    """The matrix [3, 3] (out x in), float32, that brightens, saturates and turns the hue.

    Brightness multiplies; saturation s gives s x + (1 - s) grey(x); a hue of 1 is a full circle.
    In YIQ the last two are s times a rotation of (I, Q).
    """
    cos, sin = jnp.cos(2 * jnp.pi * hue), jnp.sin(2 * jnp.pi * hue)
    rotation_2x2 = jnp.array([[cos, -sin], [sin, cos]])
    in_yiq_CC = jnp.eye(3).at[1:, 1:].set(saturation * rotation_2x2)
    to_yiq_CC = _YIQ_CC.astype(np.float32)
    from_yiq_CC = np.linalg.inv(_YIQ_CC).astype(np.float32)
    high = jax.lax.Precision.HIGHEST  # tiny, and to be the identity where nothing changes
    there_CC = jnp.matmul(in_yiq_CC, to_yiq_CC, precision=high)
    return brightness * jnp.matmul(from_yiq_CC, there_CC, precision=high)


def _resample(frames_FHWC, rows_hH, columns_wW, colour_CC, dtype):
    """Applies the three matrices to one video and scales it to [0, 1].

    Columns and colours go together as one matrix over (W, C), the axes that lie next to each other
    in memory: three times the multiplications, but a plain matrix product, with neither transposes
    nor an innermost axis of three, which a matrix unit would pad.
    """
    frames, height, width, channels = frames_FHWC.shape
    size = len(rows_hH)
    both = columns_wW.T[:, None, :, None] * colour_CC.T[None, :, None, :] / 255
    both = both.reshape(width * channels, size * channels).astype(dtype)
    x = frames_FHWC.astype(dtype).reshape(frames, height, width * channels)
    x = jnp.einsum("hH,fHx->fhx", rows_hH.astype(dtype), x)
    return (x @ both).reshape(frames, size, size, channels)


def _normalise(frames_FhwC, options):
    mean_C = jnp.asarray(options.mean, frames_FhwC.dtype)
    scale_C = jnp.asarray(1 / np.asarray(options.std), frames_FhwC.dtype)
    return (jnp.clip(frames_FhwC, 0, 1) - mean_C) * scale_C


def _check(frames_BFHWC):
    if frames_BFHWC.dtype != jnp.uint8:
        raise TypeError(f"frames are {frames_BFHWC.dtype}; uint8 is meant")
    if frames_BFHWC.ndim != 5 or frames_BFHWC.shape[-1] != 3:
        raise ValueError(f"frames are {frames_BFHWC.shape}; [B, F, H, W, 3] is meant")
