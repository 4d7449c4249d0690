"""Mixup, CutMix and random erasing, against timm and slow references."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdfer_jax import config as config_lib
from rdfer_jax import erasing, mixing

B, F, H, W = 4, 2, 12, 10


def videos(seed=0):
    return np.random.default_rng(seed).standard_normal((B, F, H, W, 3)).astype(np.float32)


def drawn(count=400, **options):
    """The weights of many batches, float [count, H, W]."""
    settings = config_lib.Augment(**options)
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: mixing.weights(key, H, W, settings)))(keys))


def test_mixup_draws_one_share_a_batch_and_cutmix_a_box():
    up = drawn(mixup=0.8)
    assert (up == up[:, :1, :1]).all()
    shares = np.sort(up[:, 0, 0])
    expected = np.sort(np.random.default_rng(0).beta(0.8, 0.8, 4000))[::10]
    assert np.abs(shares - expected).mean() < 0.05
    cut = drawn(cutmix=1.0)
    assert set(np.unique(cut)) == {0, 1}
    for weights in cut[:50]:
        rows, columns = weights.any(1), weights.any(0)
        assert (weights == rows[:, None] * columns).all()
        for line in (rows, columns):  # without gaps
            assert np.abs(np.diff(np.flatnonzero(line))).max(initial=1) == 1
    both = drawn(mixup=0.8, cutmix=1.0, mix_probability=0.75)
    is_box = np.isin(both, (0, 1)).all((1, 2)) & both.any((1, 2))
    is_none = ~both.any((1, 2))
    assert 0.2 < is_none.mean() < 0.4  # a quarter, and a few empty boxes
    assert 0.25 < is_box.mean() < 0.45


@pytest.mark.torch
@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize(("lam", "center"), [(0.7, (3, 8)), (0.3, (11, 0)), (0.05, (6, 5))])
def test_videos_and_targets_are_mixed_as_by_timm(is_cut, lam, center, monkeypatch):
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm.data.mixup")
    mixup = timm.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=3)
    monkeypatch.setattr(mixup, "_params_per_batch", lambda: (lam, is_cut))
    draws = iter(center)
    fake = types.SimpleNamespace(random=types.SimpleNamespace(randint=lambda *_, **__: next(draws)))
    fake.sqrt, fake.clip = np.sqrt, np.clip
    monkeypatch.setattr(timm, "np", fake)
    x, label = videos(), np.array([0, 2, 1, 1])
    images = torch.tensor(x.transpose(0, 1, 4, 2, 3).reshape(B, F * 3, H, W))
    expected, targets = mixup(images, torch.tensor(label))

    weights = np.full((H, W), 1 - lam, np.float32)
    if is_cut:
        weights = np.float32(mixing.box(lam, np.array(center), H, W))
    found = mixing.mixed(jnp.asarray(x), jnp.asarray(weights))
    expected = expected.numpy().reshape(B, F, 3, H, W).transpose(0, 1, 3, 4, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    onehot = np.eye(3)[label]
    found = mixing.mixed_loss(jnp.asarray(onehot), jnp.asarray(onehot[::-1]), weights)
    np.testing.assert_allclose(found, targets, rtol=1e-5, atol=1e-6)


def test_a_box_of_each_video_is_erased_in_all_frames():
    x = videos()
    keys = jax.random.split(jax.random.key(1), B)
    found = np.asarray(jax.jit(erasing.erase, static_argnums=2)(x, keys, 1.0))
    changed = (found != x).all(-1)
    assert (changed == (found != x).any(-1)).all()
    for video in range(B):
        assert (changed[video] == changed[video, :1]).all()
        inside = changed[video, 0]
        assert (inside == inside.any(1)[:, None] * inside.any(0)).all() and inside.any()
        noise = found[video][:, inside]
        np.testing.assert_array_equal(noise[0], noise[1])
    assert len({changed[video].tobytes() for video in range(B)}) == B
    np.testing.assert_array_equal(erasing.erase(jnp.asarray(x), keys, 0.0), x)


def test_boxes_have_the_area_and_the_form_of_the_paper():
    keys = jax.random.split(jax.random.key(0), 2000)
    box = jax.jit(jax.vmap(lambda key: erasing.sample_box(key, 90, 120)))(keys)
    height, width = np.asarray(box.height), np.asarray(box.width)
    share, aspect = height * width / (90 * 120), height / width
    assert share.min() > 0.015 and share.max() < 0.345
    assert np.mean(share) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert aspect.min() > 0.28 and aspect.max() < 3.6
    assert (box.top >= 0).all() and (box.top + height <= 90).all()
    assert (box.left >= 0).all() and (box.left + width <= 120).all()
    assert (np.asarray(box.top) + height == 90).any() and (box.left == 0).any()


@pytest.mark.torch
def test_the_same_box_is_erased_by_timm(monkeypatch):
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm.data.random_erasing")
    x, box = videos()[0], erasing.Box(2, 3, 6, 4)
    noise = np.random.default_rng(3).standard_normal((H, W, 3)).astype(np.float32)
    sizes, places = iter((6 * 4 / (H * W), np.log(6 / 4))), iter((2, 3))  # area, log aspect; corner
    fake = types.SimpleNamespace(
        random=lambda: 0.0, uniform=lambda *_: next(sizes), randint=lambda *_: next(places)
    )
    monkeypatch.setattr(timm, "random", fake)
    part = torch.tensor(noise[2:8, 3:7].transpose(2, 0, 1))
    monkeypatch.setattr(timm, "_get_pixels", lambda *_, **__: part)
    eraser = timm.RandomErasing(probability=1.0, mode="pixel", device="cpu")
    expected = eraser(torch.tensor(x[0].transpose(2, 0, 1))).numpy().transpose(1, 2, 0)
    found = erasing.fill(jnp.asarray(x), box, jnp.asarray(noise))
    np.testing.assert_array_equal(found[0], expected)
