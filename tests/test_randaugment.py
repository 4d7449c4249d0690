"""RandAugment: each operation against Pillow's for the same magnitude, and how operations are drawn."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from rdfer_jax import augment, config, randaugment

FILL = (124, 116, 104)
RECIPE = config.Augment(size=24, rand_layers=4)


def video(seed=0, frames=2, height=36, width=28):
    """Smooth pictures with some noise and a narrow range, which equalize and auto_contrast change."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 200, (frames, 5, 5, 3)).astype(np.float32)
    smooth = [
        np.stack(
            [Image.fromarray(one[..., c]).resize((width, height), 2) for c in range(3)], axis=-1
        )
        for one in coarse
    ]
    return np.clip(np.array(smooth) + rng.normal(0, 6, np.shape(smooth)), 0, 255).astype(np.uint8)


def draw(*operations, magnitude=7.3, negative=False, applied=True):
    count = len(operations)
    return randaugment.Draw(
        operation=jnp.array([randaugment.OPERATIONS.index(name) for name in operations]),
        applied=jnp.full(count, applied),
        magnitude=jnp.full(count, magnitude, jnp.float32),
        negative=jnp.full(count, negative),
    )


@jax.jit
def apply(frames, one):
    return randaugment.apply(frames, one, FILL)


def by_pillow(picture, name, magnitude, negative):
    """One operation, as its description in RandAugment and timm says, by Pillow."""
    share = magnitude / 10
    signed = -share if negative else share
    width, height = picture.size

    def move(*matrix):
        return picture.transform(
            picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL
        )

    added = int(110 * share)
    return {
        "auto_contrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "invert": lambda: ImageOps.invert(picture),
        "posterize": lambda: ImageOps.posterize(picture, 4 - int(4 * share)),
        "solarize": lambda: ImageOps.solarize(picture, 256 - int(256 * share)),
        "solarize_add": lambda: picture.point(
            [min(255, i + added) if i < 128 else i for i in range(256)] * 3
        ),
        "rotate": lambda: picture.rotate(30 * signed, Image.Resampling.BILINEAR, fillcolor=FILL),
        "shear_x": lambda: move(1, 0.3 * signed, 0, 0, 1, 0),
        "shear_y": lambda: move(1, 0, 0, 0.3 * signed, 1, 0),
        "translate_x": lambda: move(1, 0, 0.45 * signed * width, 0, 1, 0),
        "translate_y": lambda: move(1, 0, 0, 0, 1, 0.45 * signed * height),
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(1 + 0.9 * signed),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(1 + 0.9 * signed),
        "color": lambda: ImageEnhance.Color(picture).enhance(1 + 0.9 * signed),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(1 + 0.9 * signed),
    }[name]()


def assert_near(found, expected):
    """At most one gray level apart, in few pixels: Pillow's float results just below a whole number."""
    gap = np.abs(np.int32(found) - np.int32(expected))
    assert gap.max() <= 1 and (gap > 0).mean() < 0.03


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_an_operation_is_that_of_pillow(name, negative):
    frames = video()
    for magnitude in (0.0, 2.6, 7.3, 9.9):
        found = apply(frames, draw(name, magnitude=magnitude, negative=negative))
        pictures = [
            by_pillow(Image.fromarray(frame), name, magnitude, negative) for frame in frames
        ]
        expected = np.array([np.asarray(picture) for picture in pictures])
        assert_near(found, expected)
        changes = magnitude > 0 or (name in randaugment.TABLES and "solarize" not in name)
        assert (np.abs(np.int32(expected) - frames).mean() > 0.5) == changes


def test_counting_and_looking_up_by_products_are_exact():
    """What runs on a GPU or TPU."""
    rng = np.random.default_rng(0)
    frame, table = rng.integers(0, 256, (999, 3)), rng.integers(0, 256, (256, 3))
    expected = np.stack([np.bincount(frame[:, c], minlength=256) for c in range(3)], axis=1)
    for count in (randaugment.counted, randaugment.counted_by_products):
        np.testing.assert_array_equal(jax.jit(count)(frame), expected)
    expected = np.stack([table[frame[:, c], c] for c in range(3)], axis=1)
    for look_up in (randaugment.looked_up, randaugment.looked_up_by_products):
        np.testing.assert_array_equal(jax.jit(look_up)(frame, table), expected)


def test_plain_frames_stay_what_they_are():
    """Where there is nothing to stretch or to equalize."""
    plain = np.full((1, 36, 28, 3), 77, np.uint8)
    for name in ("auto_contrast", "equalize", "contrast", "color", "sharpness"):
        np.testing.assert_array_equal(apply(plain, draw(name)), plain)


def test_operations_follow_each_other_and_some_are_left_out():
    names = ("shear_x", "equalize", "color", "rotate")
    layers = draw(*names)._replace(
        applied=jnp.array([True, True, False, True]),
        magnitude=jnp.array([3.0, 5.0, 9.0, 6.0]),
        negative=jnp.array([False, False, True, True]),
    )
    frames = video(1)
    found = jax.jit(lambda frames: randaugment.apply(frames, layers, FILL))(frames)
    for frame, one in zip(frames, np.asarray(found), strict=True):
        picture = Image.fromarray(frame)
        for place in (0, 1, 3):
            layer = [float(field[place]) for field in layers[2:]]
            picture = by_pillow(picture, names[place], layer[0], bool(layer[1]))
        gap = np.abs(np.int32(one) - np.asarray(picture))
        assert np.quantile(gap, 0.99) <= 1  # equalize turns one level into several
        assert np.abs(np.int32(one) - frame).mean() > 10


def test_draws_are_distributed_as_documented():
    options = dataclasses.replace(RECIPE, rand_layers=5, rand_magnitude=6.0, rand_deviation=2.0)
    keys = jax.random.split(jax.random.key(0), 3000)
    found = jax.device_get(jax.jit(jax.vmap(lambda key: randaugment.sample(key, options)))(keys))
    assert found.operation.shape == (3000, 5)
    share = np.bincount(found.operation.reshape(-1), minlength=15) / 15000
    np.testing.assert_allclose(share, 1 / 15, atol=0.01)
    assert abs(found.applied.mean() - 0.5) < 0.02 and abs(found.negative.mean() - 0.5) < 0.02
    assert found.magnitude.max() == 10 and found.magnitude.min() >= 0
    assert abs(np.median(found.magnitude) - 6) < 0.1
    lower, upper = np.quantile(found.magnitude, [0.1587, 0.5])
    assert upper - lower == pytest.approx(2, abs=0.1)
    fields = np.stack([np.float64(field).reshape(-1) for field in found])
    assert np.abs(np.corrcoef(fields) - np.eye(4)).max() < 0.04
    assert (np.abs(np.corrcoef(found.operation.T)) - np.eye(5) < 0.06).all()  # of the layers


@functools.partial(jax.jit, static_argnames="options")
def train(frames, keys, options):
    return augment.train_augment(frames, keys, options)


def test_training_draws_once_for_all_frames_of_a_video():
    count = 6
    each = jax.random.split(jax.random.key(1), count)
    frames = np.repeat(np.repeat(video(2, 1, 28), 2, axis=0)[None], count, axis=0)
    plain = config.Augment(
        size=28, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0, brightness=0.0,
        contrast=0.0, saturation=0.0, hue=0.0,
    )  # fmt: skip
    options = dataclasses.replace(plain, rand_layers=4)
    found = np.asarray(train(frames, each, options))
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    gaps = [np.abs(found[i] - found[j]).max() for i in range(count) for j in range(i)]
    assert np.median(gaps) > 0.1
    # The draw is that of the video's key, and the pixels that come in have the mean color.
    for number in range(count):
        layers = randaugment.sample(jax.random.fold_in(each[number], augment._RAND), options)
        pixels = np.asarray(apply(frames[number], layers)) / 255
        expected = (pixels - np.array(options.mean)) / options.std
        np.testing.assert_allclose(found[number], expected, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("name", randaugment.OPERATIONS)
def test_an_operation_is_that_of_timm(name, monkeypatch):
    timm = pytest.importorskip("timm.data.auto_augment")
    theirs = {
        "auto_contrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert",
        "posterize": "PosterizeIncreasing", "solarize": "SolarizeIncreasing",
        "solarize_add": "SolarizeAdd", "rotate": "Rotate", "shear_x": "ShearX", "shear_y": "ShearY",
        "translate_x": "TranslateXRel", "translate_y": "TranslateYRel",
        "brightness": "BrightnessIncreasing", "contrast": "ContrastIncreasing",
        "color": "ColorIncreasing", "sharpness": "SharpnessIncreasing",
    }  # fmt: skip
    assert sorted(theirs.values()) == sorted(timm._RAND_INCREASING_TRANSFORMS)
    options = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
    frames = video(3)
    for magnitude, negative in ((7.0, False), (6.2, True), (8.1, False)):
        coin = types.SimpleNamespace(random=lambda negative=negative: 1.0 if negative else 0.0)
        monkeypatch.setattr(timm, "random", coin)
        operation = timm.AugmentOp(theirs[name], prob=1.0, magnitude=magnitude, hparams=options)
        expected = [np.asarray(operation(Image.fromarray(frame))) for frame in frames]
        found = apply(frames, draw(name, magnitude=magnitude, negative=negative))
        assert_near(found, expected)


@pytest.mark.torch
def test_the_recipe_is_that_of_timm():
    timm = pytest.importorskip("timm.data.auto_augment")
    recipe = timm.rand_augment_transform("rand-m7-n4-mstd0.5-inc1")
    one = recipe.ops[0]
    assert (recipe.num_layers, one.magnitude, one.magnitude_std, one.prob) == (
        RECIPE.rand_layers, RECIPE.rand_magnitude, RECIPE.rand_deviation, randaugment.PROBABILITY,
    )  # fmt: skip
    assert len(recipe.ops) == len(randaugment.OPERATIONS)
