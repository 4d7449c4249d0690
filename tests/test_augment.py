"""Augmentation against slow per-pixel references, and the distribution of its random transforms."""

import colorsys
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rdfer_jax import augment, config

OFF = config.Augment(
    size=24,
    crop_area=(1.0, 1.0),
    crop_aspect=(1.0, 1.0),
    flip=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
ON = config.Augment(size=20)


def videos(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


# Compiling takes longer than anything else here, so most tests share one shape.
NUMBER, SIDE = 6, 28


def keys(number=NUMBER, seed=0):
    return jax.random.split(jax.random.key(seed), number)


@functools.partial(jax.jit, static_argnames=("options", "dtype"))
def train(frames, keys, options, dtype=jnp.float32):
    return augment.train_augment(frames, keys, options, dtype)


@functools.partial(jax.jit, static_argnames=("options", "dtype"))
def evaluate(frames, options, dtype=jnp.float32):
    return augment.eval_transform(frames, options, dtype)


@functools.partial(jax.jit, static_argnames="options")
def transforms(keys, height, width, options):
    return jax.vmap(lambda key: augment.sample_transform(key, height, width, options))(keys)


# The slow references, in float64.


def resize_reference(image_HWC, size):
    """Bilinear with anti-aliasing, one axis at a time, one output row at a time."""
    for axis in (0, 1):
        rows = np.moveaxis(image_HWC, axis, 0)
        scale, out = len(rows) / size, []
        for i in range(size):
            center, reach = (i + 0.5) * scale, max(scale, 1.0)
            total, weights = np.zeros(rows.shape[1:]), 0.0
            for j in range(len(rows)):
                weight = max(0.0, 1 - abs(j + 0.5 - center) / reach)
                total, weights = total + weight * rows[j], weights + weight
            out.append(total / weights)
        image_HWC = np.moveaxis(np.stack(out), 0, axis)
    return image_HWC


def gray(x):
    return 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]


def brighten(video, transform):
    return transform.brightness * video


def contrast(video, transform):
    return transform.contrast * video + (1 - transform.contrast) * gray(video).mean()


def saturate(video, transform):
    return transform.saturation * video + (1 - transform.saturation) * gray(video)[..., None]


def turn_hue(video, transform):
    """(I, Q) as one complex number, turned; then the three equations solved for R, G, B."""
    r, g, b = np.moveaxis(video, -1, 0)
    i = 0.595716 * r - 0.274453 * g - 0.321263 * b
    q = 0.211456 * r - 0.522591 * g + 0.311135 * b
    turned = (i + 1j * q) * np.exp(2j * np.pi * transform.hue)
    to_yiq = [
        [0.299, 0.587, 0.114],
        [0.595716, -0.274453, -0.321263],
        [0.211456, -0.522591, 0.311135],
    ]
    yiq = np.stack([gray(video), turned.real, turned.imag], axis=-1)
    return np.linalg.solve(np.array(to_yiq), yiq[..., None])[..., 0]


COLOR_OPERATIONS = (brighten, contrast, saturate, turn_hue)


def reference(video_FHWC, transform, options, operations=COLOR_OPERATIONS):
    out = []
    for image in video_FHWC:
        crop = image[
            transform.top : transform.top + transform.height,
            transform.left : transform.left + transform.width,
        ]
        resized = resize_reference(crop / 255.0, options.size)
        out.append(resized[:, ::-1] if transform.flip else resized)
    video = np.stack(out)
    for operation in operations:
        video = operation(video, transform)
    return (np.clip(video, 0, 1) - np.array(options.mean)) / np.array(options.std)


def transforms_for(keys, height, width, options):
    stacked = jax.device_get(transforms(keys, height, width, options))
    return [augment.Transform(*row) for row in zip(*stacked, strict=True)]


@pytest.mark.parametrize("side", [16, SIDE])  # most crops scaled up, and down
def test_equals_the_slow_reference(side):
    frames, each = videos(NUMBER, 2, side, side), keys()
    sampled = transforms_for(each, side, side, ON)
    assert {bool(one.flip) for one in sampled} == {False, True}
    expected = [reference(video, one, ON) for video, one in zip(frames, sampled, strict=True)]
    np.testing.assert_allclose(train(frames, each, ON), expected, rtol=0, atol=2e-5)


def test_color_operations_commute_as_documented():
    video, one = videos(2, 12, 12, seed=3), transforms_for(keys(1), 12, 12, ON)[0]
    wide = dataclasses.replace(ON, mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = reference(video, one, wide)
    for operations in itertools.permutations(COLOR_OPERATIONS):
        np.testing.assert_allclose(reference(video, one, wide, operations), expected, atol=1e-12)


@pytest.mark.parametrize(("start", "length", "size"), [(0, 30, 30), (3, 20, 9), (5, 7, 24)])
def test_resize_matrix_equals_a_crop_followed_by_a_resize(start, length, size):
    image = np.random.default_rng(0).random((30, 30, 3)).astype(np.float32)
    matrix = augment.resize_matrix(30, size, start, length)
    got = np.einsum("hH,wW,HWc->hwc", matrix, matrix, image)
    crop = image[start : start + length, start : start + length]
    np.testing.assert_allclose(got, resize_reference(crop, size), atol=1e-6)
    jax_own = jax.image.resize(crop, (size, size, 3), "bilinear", antialias=True)
    np.testing.assert_allclose(got, jax_own, atol=1e-5)


def test_resize_equals_pillow():
    image_module = pytest.importorskip("PIL.Image")
    frames = videos(1, 1, 31, 47)
    for size in (16, 24, 64):
        options = dataclasses.replace(OFF, size=size)
        channels = [
            image_module.fromarray(frames[0, 0, ..., c].astype(np.float32)).resize(
                (size, size), image_module.Resampling.BILINEAR
            )
            for c in range(3)
        ]
        expected = np.stack([np.asarray(channel) for channel in channels], axis=-1) / 255
        np.testing.assert_allclose(evaluate(frames, options)[0, 0], expected, atol=1e-5)


def test_all_frames_of_a_video_share_the_transform():
    frames = np.repeat(videos(NUMBER, 1, SIDE, SIDE), 2, axis=1)
    out = np.asarray(train(frames, keys(), ON))
    np.testing.assert_array_equal(out[:, 0], out[:, 1])
    same = np.repeat(frames[:1], NUMBER, axis=0)  # but each video has its own
    out = np.asarray(train(same, keys(), ON))
    pairs = itertools.combinations(range(NUMBER), 2)
    assert min(np.abs(out[i] - out[j]).max() for i, j in pairs) > 0.1


def test_the_place_in_the_batch_does_not_matter():
    frames, each, order = videos(NUMBER, 2, SIDE, SIDE), keys(), np.array([3, 0, 4, 1, 5, 2])
    out = np.asarray(train(frames, each, ON))
    np.testing.assert_array_equal(train(frames[order], each[order], ON), out[order])


@functools.partial(jax.jit, static_argnames="options")
def train_frames(frames, clips, keys, options):
    return augment.train_frames(frames, clips, keys, options)


def test_a_transform_is_for_a_video_or_for_each_of_its_clips():
    frames = videos(NUMBER, 4, SIDE, SIDE)
    clips = np.random.default_rng(0).integers(0, 4, (NUMBER, 2, 4))  # as long as the buffer
    whole, own = train_frames(frames, clips, keys(), ON)
    assert own is None
    np.testing.assert_allclose(whole, train(frames, keys(), ON), atol=1e-5)
    whole, own = train_frames(frames, clips, keys(), dataclasses.replace(ON, per="clip"))
    for k in range(2):
        of_clip = jnp.stack([jax.random.fold_in(key, k) for key in keys()])
        picked = np.stack([frames[video, clips[video, k]] for video in range(NUMBER)])
        np.testing.assert_allclose(own[:, k], train(picked, of_clip, ON), atol=1e-5)
        if k == 0:
            np.testing.assert_allclose(whole, train(frames, of_clip, ON), atol=1e-5)


def test_a_flip_is_an_exact_mirror_image():
    frames, each = videos(2, 2, 24, 24), keys(2)
    plain = np.asarray(train(frames, each, OFF))
    flipped = train(frames, each, dataclasses.replace(OFF, flip=1.0))
    np.testing.assert_array_equal(flipped, plain[:, :, :, ::-1])


@pytest.mark.parametrize("side", [24, 33])
def test_with_everything_off_it_is_the_evaluation_transform(side):
    frames = videos(2, 2, side, side)
    out = train(frames, keys(2), OFF)
    assert out.shape == (2, 2, 24, 24, 3) and out.dtype == jnp.float32
    np.testing.assert_allclose(out, evaluate(frames, OFF), atol=1e-5)


def test_evaluation_at_equal_size_only_normalizes():
    options = dataclasses.replace(OFF, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    frames = videos(2, 3, 24, 24)
    expected = (frames / 255.0 - np.array(options.mean)) / np.array(options.std)
    np.testing.assert_allclose(evaluate(frames, options), expected, atol=1e-5)
    jaxpr = str(jax.make_jaxpr(lambda x: augment.eval_transform(x, options))(frames))
    assert "dot_general" not in jaxpr


def test_hue_turns_the_hue_by_about_the_given_angle():
    """YIQ is not HSV, but on mild colors a turn is a turn, and grays stay gray."""
    matrix = np.asarray(augment.color_matrix(1.0, 1.0, 1 / 3))
    for color in np.random.default_rng(0).uniform(0.4, 0.6, (50, 3)):
        before, after = colorsys.rgb_to_hsv(*color)[0], colorsys.rgb_to_hsv(*(matrix @ color))[0]
        turned = abs((after - before + 0.5) % 1 - 0.5)
        assert abs(turned - 1 / 3) < 0.12
        assert gray(matrix @ color) == pytest.approx(gray(color), abs=1e-5)
    np.testing.assert_allclose(matrix @ np.full(3, 0.5), 0.5, atol=1e-5)
    np.testing.assert_allclose(augment.color_matrix(1.0, 1.0, 1.0), np.eye(3), atol=1e-5)


def test_values_stay_in_range():
    options = dataclasses.replace(ON, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    out = np.asarray(train(videos(16, 2, 20, 20), keys(16), options))
    low, high = (0 - np.array(ON.mean)) / ON.std, (1 - np.array(ON.mean)) / ON.std
    assert np.isfinite(out).all()
    assert (out >= low - 1e-5).all() and (out <= high + 1e-5).all()
    assert np.isclose(out, low, atol=1e-5).any() and np.isclose(out, high, atol=1e-5).any()


def test_transforms_are_distributed_as_documented():
    options = dataclasses.replace(ON, crop_area=(0.2, 0.6), contrast=0.3, saturation=0.2)
    side, number = 1000, 4000
    transform = jax.device_get(transforms(keys(number, seed=1), side, side, options))
    area, log_aspect = (
        transform.height * transform.width / side**2,
        np.log(transform.width / transform.height),
    )

    def uniform(values, low, high):
        return scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue

    assert uniform(area, 0.2, 0.6) > 1e-3
    assert uniform(log_aspect, np.log(0.75), np.log(4 / 3)) > 1e-3
    assert uniform(transform.top / (side - transform.height), 0, 1) > 1e-3
    assert uniform(transform.left / (side - transform.width), 0, 1) > 1e-3
    assert abs(transform.flip.mean() - options.flip) < 0.04
    for name, strength in (("brightness", 0.4), ("contrast", 0.3), ("saturation", 0.2)):
        assert uniform(getattr(transform, name), 1 - strength, 1 + strength) > 1e-3
    assert uniform(transform.hue, -0.1, 0.1) > 1e-3
    values = np.stack([np.asarray(field, np.float64) for field in transform])
    np.fill_diagonal(correlation := np.corrcoef(values), 0)
    correlation[:4, :4] = 0  # a crop's place depends on its size
    assert np.abs(correlation).max() < 0.08


@pytest.mark.parametrize(("height", "width"), [(48, 48), (30, 60), (5, 4), (60, 12)])
def test_crops_fit_and_keep_to_their_limits(height, width):
    options = dataclasses.replace(ON, crop_area=(0.3, 1.0))
    transform = jax.device_get(transforms(keys(500, seed=2), height, width, options))
    assert (transform.top >= 0).all() and (transform.top + transform.height <= height).all()
    assert (transform.left >= 0).all() and (transform.left + transform.width <= width).all()
    assert (transform.height >= 1).all() and (transform.width >= 1).all()
    if (height, width) == (48, 48):
        # Sides are rounded to whole pixels: half a pixel each way.
        share = (
            np.stack([(transform.height + d) * (transform.width + d) for d in (0.5, -0.5)]) / 48**2
        )
        assert (share[0] >= 0.3).all() and (share[1] <= 1.0).all()
        aspects = (
            (transform.width + 0.5) / (transform.height - 0.5),
            (transform.width - 0.5) / (transform.height + 0.5),
        )
        assert (aspects[0] >= 0.75).all() and (aspects[1] <= 4 / 3).all()


def test_bfloat16_is_near_float32():
    frames, levels = videos(NUMBER, 2, SIDE, SIDE), 1 / 255 / np.array(ON.std)
    same_size = dataclasses.replace(ON, size=SIDE)
    for function in (
        lambda dtype: train(frames, keys(), ON, dtype),
        lambda dtype: evaluate(frames, ON, dtype),
        lambda dtype: evaluate(frames, same_size, dtype),
    ):
        low = function(jnp.bfloat16)
        assert low.dtype == jnp.bfloat16
        gap = np.abs(low.astype(jnp.float32) - function(jnp.float32))
        assert (gap / levels).max() < 4


def test_wrong_frames_and_keys_are_refused():
    frames = videos(2, 2, 24, 24)
    for function in (lambda x: augment.train_augment(x, keys(2), ON), lambda x: evaluate(x, ON)):
        with pytest.raises(TypeError, match="expected uint8 frames, got"):
            function(frames.astype(np.float32))
        with pytest.raises(ValueError, match=r"expected frames \[B, F, H, W, 3\], got shape"):
            function(frames[0])
        with pytest.raises(ValueError, match=r"expected frames \[B, F, H, W, 3\], got shape"):
            function(frames[..., :1])
    with pytest.raises(ValueError, match="expected one key per video"):
        augment.train_augment(frames, keys(3), ON)


def test_gray_frames_have_one_value_in_all_channels_as_the_luma_says():
    options = config.Augment(size=12, gray=True, contrast=0.0, brightness=0.0, flip=0.0)
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    plain = dataclasses.replace(options, gray=False)

    def pixels(frames):
        return np.asarray(frames) * np.array(options.std) + np.array(options.mean)

    whole = pixels(augment.eval_transform(video, options))
    expected = gray(pixels(augment.eval_transform(video, plain)))
    np.testing.assert_allclose(whole, np.repeat(expected[..., None], 3, -1), atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 2)
    colors = dataclasses.replace(plain, saturation=0.0, hue=0.0)
    expected = gray(pixels(augment.train_augment(video, keys, colors)))
    found = pixels(augment.train_augment(video, keys, options))
    np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, -1), atol=1e-5)


def test_views_of_a_picture_differ_by_clip_and_not_by_video():
    options = config.Augment(size=12, per="clip", eval_views="augmented")
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 16, 3), dtype=np.uint8)
    video, clips = np.repeat(picture, 2, axis=0), np.zeros((2, 4, 1), int)
    frames, own = augment.eval_frames(video, clips, options)
    assert own.shape == (2, 4, 1, 12, 12, 3)
    np.testing.assert_array_equal(own[0], own[1])
    np.testing.assert_array_equal(own[:, 0], frames)
    differ = [np.abs(own[0, i] - own[0, j]).mean() for i in range(4) for j in range(i)]
    assert min(differ) > 0.1
    again = augment.eval_frames(video, clips, options)[1]
    np.testing.assert_array_equal(own, again)
    plain = dataclasses.replace(options, eval_views="plain")
    own = augment.eval_frames(video, clips, plain)[1]
    np.testing.assert_array_equal(own, np.repeat(frames[:, None], 4, axis=1))
