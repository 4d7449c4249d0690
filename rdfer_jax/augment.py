"""uint8 frames -> augmented, normalised floats, on the device. Pure, and free to be jitted.

One draw for each video, shared by all of its frames: resized crop, flip, brightness, contrast,
saturation, hue. Everything but the final clip is linear, so a video's whole augmentation is two
matrix products: rows are resampled by one matrix, and columns and colours together by another.

Letters: B videos, F frames, H W C what comes in (C = 3, RGB), h w = options.size what goes out.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

# ITU-R BT.601 luma, the grey of PIL and torchvision.
_GREY_C = np.array([0.299, 0.587, 0.114])
# RGB -> YIQ (FCC 1953). Turning the (I, Q) plane changes the hue and leaves the luma alone.
_YIQ_CC = np.array([_GREY_C, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


class Options(Protocol):
    """What is read from the configuration (`rdfer_jax.config.Augment`)."""

    @property
    def size(self) -> int:
        """Side of the square that goes out, in pixels."""

    @property
    def crop_area(self) -> tuple[float, float]:
        """Least and greatest share of the frame's area that a crop keeps, in (0, 1]."""

    @property
    def crop_aspect(self) -> tuple[float, float]:
        """Least and greatest width / height of a crop."""

    @property
    def flip(self) -> float:
        """Probability of mirroring left and right."""

    @property
    def brightness(self) -> float:
        """Factor drawn from [1 - this, 1 + this], not below 0; so for the next two."""

    @property
    def contrast(self) -> float:
        """Share of the video against its mean grey."""

    @property
    def saturation(self) -> float:
        """Share of the video against its own grey."""

    @property
    def hue(self) -> float:
        """Hue is turned by up to this share of a full turn either way, in [0, 0.5]."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Subtracted from each channel in [0, 1]."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Divides each channel afterwards."""


class Box(NamedTuple):
    """A crop in whole pixels: its first row and column, its height and width. Integer scalars."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def train_augment(
    frames_BFHWC: jax.Array, keys_B: jax.Array, options: Options, dtype: Any = jnp.float32
) -> jax.Array:
    """Augments each video by its own draw, the same for all of its frames.

    Resized crop and flip as torchvision's RandomResizedCrop (bilinear, anti-aliased) and
    RandomHorizontalFlip; colours as its ColorJitter, with these differences: contrast refers to
    the mean grey of the video rather than of each frame; hue turns in YIQ, a linear map, rather
    than in HSV; and values are clipped to [0, 1] once, at the end, rather than after each
    operation. Without the clips the operations commute (each one keeps the grey, or scales it for
    all pixels alike), so there is no order to draw.

    Args:
      frames_BFHWC: uint8, RGB.
      keys_B: one typed PRNG key a video (`jax.random.key`). A video's result depends on its own
        key alone, and on nothing else in the batch.
      options: see Options.
      dtype: of the computation and of the result. bfloat16 costs about one grey level in 256, for
        half the memory traffic and twice the speed of float32 or more on an accelerator.

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

    def draw(key):
        key_box, key_flip, key_colour = jax.random.split(key, 3)
        box = draw_box(key_box, height, width, options)
        flip = jax.random.bernoulli(key_flip, options.flip)
        colour_CC, contrast = draw_colour(key_colour, options)
        rows_hH = resize_matrix(height, options.size, box.top, box.height)
        columns_wW = resize_matrix(width, options.size, box.left, box.width)
        columns_wW = jnp.where(flip, columns_wW[::-1], columns_wW)
        return rows_hH, columns_wW, colour_CC, contrast

    rows_BhH, columns_BwW, colour_BCC, contrast_B = jax.vmap(draw)(keys_B)
    frames_BFhwC = _resample(frames_BFHWC, rows_BhH, columns_BwW, colour_BCC, dtype)
    # Saturation and hue keep the grey, so this is the mean grey of the brightened video.
    mean_B = jnp.mean(frames_BFhwC, axis=(1, 2, 3), dtype=jnp.float32) @ _GREY_C.astype(np.float32)
    contrast_B1111 = contrast_B[:, None, None, None, None].astype(dtype)
    offset_B1111 = ((1 - contrast_B) * mean_B)[:, None, None, None, None].astype(dtype)
    return _normalise(contrast_B1111 * frames_BFhwC + offset_B1111, options)


def eval_transform(
    frames_BFHWC: jax.Array, options: Options, dtype: Any = jnp.float32
) -> jax.Array:
    """Resizes (bilinear, anti-aliased) and normalises; nothing is drawn, nothing cut away.

    Args:
      frames_BFHWC: uint8, RGB.
      options: see Options; only size, mean and std are read.
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
    rows_1hH = resize_matrix(height, options.size, 0, height)[None]
    columns_1wW = resize_matrix(width, options.size, 0, width)[None]
    colour_1CC = jnp.eye(3)[None]
    return _normalise(_resample(frames_BFHWC, rows_1hH, columns_1wW, colour_1CC, dtype), options)


def draw_box(key: jax.Array, height: int, width: int, options: Options) -> Box:
    """Draws a crop: area uniform, aspect ratio log-uniform, place uniform among those that fit.

    As torchvision's RandomResizedCrop, which draws area and ratio up to ten times until the box
    fits. Here the ratio is drawn among those that fit the area: given the area, the same
    distribution; large areas, which torchvision rejects more often, are a little more frequent.
    """
    key_area, key_aspect, key_top, key_left = jax.random.split(key, 4)
    low, high = options.crop_area
    share = jax.random.uniform(key_area, minval=low, maxval=high)
    # Side lengths sqrt(share H W aspect) <= W and sqrt(share H W / aspect) <= H.
    low, high = options.crop_aspect
    log_low = jnp.maximum(np.log(low), jnp.log(share * width / height))
    log_high = jnp.minimum(np.log(high), jnp.log(width / (share * height)))
    aspect = jnp.exp(log_low + jax.random.uniform(key_aspect) * (log_high - log_low))
    area = share * height * width

    def whole(side, limit):
        return jnp.clip(jnp.round(side).astype(jnp.int32), 1, limit)

    box_height = whole(jnp.sqrt(area / aspect), height)
    box_width = whole(jnp.sqrt(area * aspect), width)
    top = jax.random.randint(key_top, (), 0, height - box_height + 1)
    left = jax.random.randint(key_left, (), 0, width - box_width + 1)
    return Box(top, left, box_height, box_width)


def resize_matrix(full: int, size: int, start: jax.Array | int, length: jax.Array | int):
    """The matrix [size, full], float32, that crops [start, start + length) and resizes it to size.

    Bilinear: a triangle one source pixel wide to either side, widened by length / size when
    scaling down (anti-aliasing, as in PIL and torchvision). Pixels outside the crop have weight
    zero, so the result is that of resizing the cropped image. Rows sum to 1.
    """
    scale = jnp.asarray(length, jnp.float32) / size
    centre_s = start + (jnp.arange(size) + 0.5) * scale - 0.5
    pixel_f = jnp.arange(full)
    weight_sf = 1 - jnp.abs(pixel_f - centre_s[:, None]) / jnp.maximum(scale, 1)
    inside_f = (pixel_f >= start) & (pixel_f < start + length)
    weight_sf = jnp.where(inside_f, jnp.maximum(weight_sf, 0), 0)
    return weight_sf / weight_sf.sum(axis=1, keepdims=True)


def draw_colour(key: jax.Array, options: Options) -> tuple[jax.Array, jax.Array]:
    """Draws colour_CC, brightness, saturation and hue in one matrix (out x in), and contrast."""
    key_brightness, key_contrast, key_saturation, key_hue = jax.random.split(key, 4)

    def factor(key, strength):
        return jax.random.uniform(key, minval=max(0.0, 1 - strength), maxval=1 + strength)

    brightness = factor(key_brightness, options.brightness)
    contrast = factor(key_contrast, options.contrast)
    saturation = factor(key_saturation, options.saturation)
    turn = jax.random.uniform(key_hue, minval=-options.hue, maxval=options.hue)
    return colour_matrix(brightness, saturation, turn), contrast


def colour_matrix(brightness: jax.Array, saturation: jax.Array, turn: jax.Array) -> jax.Array:
    """The matrix [3, 3] (out x in) that brightens, saturates, and turns the hue.

    Brightness multiplies; saturation s gives s x + (1 - s) grey(x); a turn of 1 is full circle.
    In YIQ the last two are s times a rotation of (I, Q).
    """
    cos, sin = jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)
    rotation_2x2 = jnp.array([[cos, -sin], [sin, cos]])
    in_yiq_CC = jnp.eye(3).at[1:, 1:].set(saturation * rotation_2x2)
    inverse_CC = np.linalg.inv(_YIQ_CC)
    high = jax.lax.Precision.HIGHEST  # three by three, and exact where nothing is to change
    yiq_CC = jnp.matmul(in_yiq_CC, _YIQ_CC.astype(np.float32), precision=high)
    return brightness * jnp.matmul(inverse_CC.astype(np.float32), yiq_CC, precision=high)


def _resample(frames_BFHWC, rows_BhH, columns_BwW, colour_BCC, dtype):
    """Applies the matrices, scaled to [0, 1]; matrices with B = 1 serve all videos.

    Columns and colours go together as one matrix over (W, C), the axes that lie next to each other
    in memory: thrice the multiplications, but a plain matrix product, without transposes and
    without an innermost axis of three.
    """
    batch, frames, height, width, channels = frames_BFHWC.shape
    size = rows_BhH.shape[1]
    both = jnp.einsum("bwW,bdc->bWcwd", columns_BwW / 255, colour_BCC)
    both = both.reshape(-1, width * channels, size * channels).astype(dtype)
    rows = rows_BhH.astype(dtype)
    if len(rows) == 1:
        rows = jnp.broadcast_to(rows, (batch, *rows.shape[1:]))
        both = jnp.broadcast_to(both, (batch, *both.shape[1:]))
    x = frames_BFHWC.astype(dtype).reshape(batch, frames, height, width * channels)
    x = jnp.einsum("bhH,bfHx->bfhx", rows, x)
    x = jnp.einsum("bfhx,bxy->bfhy", x, both)
    return x.reshape(batch, frames, size, size, channels)


def _normalise(frames_BFhwC, options):
    mean_C = jnp.asarray(options.mean, frames_BFhwC.dtype)
    scale_C = jnp.asarray(1 / np.asarray(options.std), frames_BFhwC.dtype)
    return (jnp.clip(frames_BFhwC, 0, 1) - mean_C) * scale_C


def _check(frames_BFHWC):
    if frames_BFHWC.dtype != jnp.uint8:
        raise TypeError(f"frames are {frames_BFHWC.dtype}; uint8 is meant")
    if frames_BFHWC.ndim != 5 or frames_BFHWC.shape[-1] != 3:
        raise ValueError(f"frames are {frames_BFHWC.shape}; [B, F, H, W, 3] is meant")
