"""Data augmentation on the device: uint8 frames -> normalized floats. Pure functions, to be jitted.

All frames of a video, or of each of its clips, share one random transform: resized crop, flip, brightness,
contrast, saturation and hue. Everything except the final clipping is linear. So the transform is two matrix
products, one over the rows and one over columns and colors together, and a shift of the gray level.
RandAugment, which is off by default, is in `randaugment`.

Letters: B videos, F frames, K clips of T frames, H W C of the input (C = 3, RGB), h w = options.size of the
output.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax import config, randaugment

#: Number of the random stream of RandAugment, derived from that of a video.
_RAND = 1002

# ITU-R BT.601 luma, the grayscale of PIL and torchvision.
_GRAY_C = np.array([0.299, 0.587, 0.114])
# RGB -> YIQ (FCC 1953). A rotation of the (I, Q) plane changes the hue and keeps the luma.
_YIQ_CC = np.array([_GRAY_C, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


class Transform(NamedTuple):
    """Parameters of the random transform of one video, all scalars.

    Attributes:
      top, left, height, width: of the crop, in whole pixels.
      flip: whether to flip horizontally.
      brightness: factor of all values.
      contrast: c in c x + (1 - c) (mean gray of the video).
      saturation: s in s x + (1 - s) (gray of the pixel).
      hue: rotation of the hue, as a fraction of a full circle.
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
    """Applies a random transform to each video, the same one to all of its frames.

    Crop and flip are those of torchvision's RandomResizedCrop (bilinear, anti-aliased) and
    RandomHorizontalFlip. Colors follow its ColorJitter with three differences: contrast refers to the
    mean gray of the video, not of each frame; hue rotates in YIQ, which is linear, not in HSV; and values
    are clipped to [0, 1] once, at the end, not after each operation. Without clipping in between, the
    operations commute (each keeps the gray of a pixel, or maps all grays by one linear function), so their
    order need not be random. RandAugment, if it is on, comes first.

    Args:
      frames_BFHWC: uint8, RGB.
      keys_B: a typed PRNG key for each video (`jax.random.key`). The result for a video depends only on
        its frames and its key.
      options: see config.Augment.
      dtype: of the computation and of the result. The error of bfloat16 is about two of 255 gray levels.

    Returns:
      frames_BFhwC, h = w = options.size, (value - mean) / std of values in [0, 1].

    Raises:
      TypeError: the frames are not uint8.
      ValueError: the shape of the frames or keys is wrong.
    """
    _check(frames_BFHWC)
    if keys_B.shape != frames_BFHWC.shape[:1]:
        raise ValueError(f"expected one key per video, got {keys_B.shape} for {frames_BFHWC.shape}")
    height, width = frames_BFHWC.shape[2:4]

    fill = tuple(round(255 * mean) for mean in options.mean)

    def augment(frames_FHWC, key):
        if options.rand_layers:
            draw = randaugment.sample(jax.random.fold_in(key, _RAND), options)
            frames_FHWC = randaugment.apply(frames_FHWC, draw, fill)
        transform = sample_transform(key, height, width, options)
        rows_hH = resize_matrix(height, options.size, transform.top, transform.height)
        columns_wW = resize_matrix(width, options.size, transform.left, transform.width)
        columns_wW = jnp.where(transform.flip, columns_wW[::-1], columns_wW)
        saturation = jnp.zeros(()) if options.gray else transform.saturation
        color_CC = color_matrix(transform.brightness, saturation, transform.hue)
        frames_FhwC = _resample(frames_FHWC, rows_hH, columns_wW, color_CC, dtype)
        # Saturation and hue keep the gray, so this is the mean gray after the brightness change.
        mean_C = jnp.mean(frames_FhwC, axis=(0, 1, 2), dtype=jnp.float32)
        offset = (1 - transform.contrast) * jnp.sum(mean_C * _GRAY_C.astype(np.float32))
        frames_FhwC = transform.contrast.astype(dtype) * frames_FhwC + offset.astype(dtype)
        return _normalize(frames_FhwC, options)

    return jax.vmap(augment)(frames_BFHWC, keys_B)


def train_frames(
    frames_BFHWC: jax.Array,
    clips_BKT: jax.Array,
    keys_B: jax.Array,
    options: config.Augment,
    dtype: Any = jnp.float32,
) -> tuple[jax.Array, jax.Array | None]:
    """Applies a random transform to each video, or with options.per = "clip" to each clip of each video.

    Args:
      frames_BFHWC: uint8, RGB.
      clips_BKT: int [B, K, T], positions of the clips' frames.
      keys_B: a typed PRNG key for each video; clip k has the key `jax.random.fold_in(key, k)`.
      options: see config.Augment.
      dtype: of the computation and of the result.

    Returns:
      frames_BFhwC, see `train_augment`, and None, or the frames of the clips by themselves, [B, K, T, h, w,
      C]. Then the frames of the video have the transform of the first clip.
    """
    if options.per == "video":
        return train_augment(frames_BFHWC, keys_B, options, dtype), None
    batch, clips, _ = clips_BKT.shape
    keys_BK = jax.vmap(
        lambda key: jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(clips))
    )(keys_B)
    picked_BKTHWC = pick_frames(frames_BFHWC, clips_BKT)
    picked_NTHWC = picked_BKTHWC.reshape(batch * clips, *picked_BKTHWC.shape[2:])
    own_NThwC = train_augment(picked_NTHWC, keys_BK.reshape(-1), options, dtype)
    own_BKThwC = own_NThwC.reshape(batch, clips, *own_NThwC.shape[1:])
    return train_augment(frames_BFHWC, keys_BK[:, 0], options, dtype), own_BKThwC


def eval_frames(
    frames_BFHWC: jax.Array, clips_BKT: jax.Array, options: config.Augment, dtype: Any = jnp.float32
) -> tuple[jax.Array, jax.Array | None]:
    """Returns what `train_frames` does, for evaluation: deterministic, and the same for all videos.

    With options.eval_views = "augmented", each clip but the first has a random transform of its own, drawn
    once for all videos and runs. With options.eval_crops = 5, videos and clips are repeated five times, one
    after the other: B is that of the input times five.
    """
    if options.eval_crops > 1:
        frames_BFHWC = five_crops(frames_BFHWC, options.size)
        clips_BKT = jnp.repeat(clips_BKT, options.eval_crops, axis=0)
    frames_BFhwC = eval_transform(frames_BFHWC, options, dtype)
    if options.per == "video":
        return frames_BFhwC, None
    plain_BKThwC = pick_frames(frames_BFhwC, clips_BKT)
    if options.eval_views == "plain":
        return frames_BFhwC, plain_BKThwC
    keys_B = jnp.broadcast_to(jax.random.key(0), frames_BFHWC.shape[0])
    _, own_BKThwC = train_frames(frames_BFHWC, clips_BKT, keys_B, options, dtype)
    assert own_BKThwC is not None
    return frames_BFhwC, own_BKThwC.at[:, 0].set(plain_BKThwC[:, 0])


def five_crops(frames_BFHWC: jax.Array, size: int) -> jax.Array:
    """Returns the squares in the four corners and the center of each video, [5 B, F, size, size, C].

    Those of a video follow each other. Their places are those of torchvision's FiveCrop.
    """
    height, width = frames_BFHWC.shape[2:4]
    bottom, right = height - size, width - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    corners.append((round(bottom / 2), round(right / 2)))
    crops = [frames_BFHWC[:, :, y : y + size, x : x + size] for y, x in corners]
    return jnp.stack(crops, axis=1).reshape(-1, *crops[0].shape[1:])


def pick_frames(frames_BFX: jax.Array, clips_BKT: jax.Array) -> jax.Array:
    """Returns the frames of clips: [B, F, ...] and int [B, K, T] -> [B, K, T, ...]. Without a gradient."""
    return jax.vmap(lambda frames_FX, clips_KT: frames_FX[clips_KT])(frames_BFX, clips_BKT)


def eval_transform(
    frames_BFHWC: jax.Array, options: config.Augment, dtype: Any = jnp.float32
) -> jax.Array:
    """Resizes (bilinear, anti-aliased) and normalizes, without cropping; deterministic.

    Args:
      frames_BFHWC: uint8, RGB.
      options: see config.Augment; only size, gray, mean and std are used.
      dtype: of the computation and of the result.

    Returns:
      frames_BFhwC, h = w = options.size, (value - mean) / std of values in [0, 1].

    Raises:
      TypeError: the frames are not uint8.
      ValueError: the shape of the frames is wrong.
    """
    _check(frames_BFHWC)
    height, width = frames_BFHWC.shape[2:4]
    if height == width == options.size and not options.gray:
        return _normalize(frames_BFHWC.astype(dtype) * jnp.asarray(1 / 255, dtype), options)
    rows_hH = resize_matrix(height, options.size, 0, height)
    columns_wW = resize_matrix(width, options.size, 0, width)
    color_CC = (
        color_matrix(jnp.ones(()), jnp.zeros(()), jnp.zeros(())) if options.gray else jnp.eye(3)
    )

    def resize(frames_FHWC):
        return _resample(frames_FHWC, rows_hH, columns_wW, color_CC, dtype)

    return _normalize(jax.vmap(resize)(frames_BFHWC), options)


def sample_transform(key: jax.Array, height: int, width: int, options: config.Augment) -> Transform:
    """Samples the transform of a video of frames [height, width].

    The area of the crop is uniform, its aspect ratio log-uniform, and its position uniform among those
    that fit. torchvision's RandomResizedCrop samples area and ratio up to ten times until the crop fits;
    here the ratio is sampled from those that fit the area. Given the area, the distribution is the same.
    Large areas, which torchvision rejects more often, are slightly more frequent.
    """
    unit_9 = jax.random.uniform(key, (9,))  # one call, because the generator takes most of the time

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
    return Transform(
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
    """Returns the matrix float32 [size, full] that crops [start, start + length) and resizes to size.

    Bilinear: a triangle filter with a half-width of one source pixel, or of length / size pixels when
    downscaling (anti-aliasing, as in PIL and torchvision). Pixels outside the crop have weight zero, so the
    result is that of resizing the cropped image. Rows sum to 1.
    """
    scale = jnp.asarray(length, jnp.float32) / size
    center_s1 = start + (jnp.arange(size)[:, None] + 0.5) * scale - 0.5
    pixel_f = jnp.arange(full)
    inside_f = (pixel_f >= start) & (pixel_f < start + length)
    triangle_sf = jnp.maximum(1 - jnp.abs(pixel_f - center_s1) / jnp.maximum(scale, 1), 0)
    weight_sf = jnp.where(inside_f, triangle_sf, 0)
    return weight_sf / weight_sf.sum(axis=1, keepdims=True)


def color_matrix(brightness: jax.Array, saturation: jax.Array, hue: jax.Array) -> jax.Array:
    """Returns the matrix float32 [3, 3] (out x in) that changes brightness, saturation and hue.

    Brightness multiplies; saturation s gives s x + (1 - s) gray(x); a hue of 1 is a full circle. In YIQ,
    saturation and hue together are s times a rotation of (I, Q).
    """
    cos, sin = jnp.cos(2 * jnp.pi * hue), jnp.sin(2 * jnp.pi * hue)
    rotation_2x2 = jnp.array([[cos, -sin], [sin, cos]])
    in_yiq_CC = jnp.eye(3).at[1:, 1:].set(saturation * rotation_2x2)
    to_yiq_CC = _YIQ_CC.astype(np.float32)
    from_yiq_CC = np.linalg.inv(_YIQ_CC).astype(np.float32)
    high = jax.lax.Precision.HIGHEST  # cheap, and exact if nothing changes
    change_CC = jnp.matmul(in_yiq_CC, to_yiq_CC, precision=high)
    return brightness * jnp.matmul(from_yiq_CC, change_CC, precision=high)


def _resample(frames_FHWC, rows_hH, columns_wW, color_CC, dtype):
    """Applies the three matrices to one video and scales it to [0, 1].

    Columns and colors are combined into one matrix over (W, C), which are adjacent in memory. This takes
    three times the multiplications, but is one plain matrix product without transposes or an innermost
    axis of three, which a matrix unit would pad.
    """
    frames, height, width, channels = frames_FHWC.shape
    size = len(rows_hH)
    both = columns_wW.T[:, None, :, None] * color_CC.T[None, :, None, :] / 255
    both = both.reshape(width * channels, size * channels).astype(dtype)
    x = frames_FHWC.astype(dtype).reshape(frames, height, width * channels)
    x = jnp.einsum("hH,fHx->fhx", rows_hH.astype(dtype), x)
    return (x @ both).reshape(frames, size, size, channels)


def _normalize(frames_FhwC, options):
    mean_C = jnp.asarray(options.mean, frames_FhwC.dtype)
    scale_C = jnp.asarray(1 / np.asarray(options.std), frames_FhwC.dtype)
    return (jnp.clip(frames_FhwC, 0, 1) - mean_C) * scale_C


def _check(frames_BFHWC):
    if frames_BFHWC.dtype != jnp.uint8:
        raise TypeError(f"expected uint8 frames, got {frames_BFHWC.dtype}")
    if frames_BFHWC.ndim != 5 or frames_BFHWC.shape[-1] != 3:
        raise ValueError(f"expected frames [B, F, H, W, 3], got shape {frames_BFHWC.shape}")
