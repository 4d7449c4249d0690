"""Vision transformers: against a slow NumPy reference, their switches, and their weights from PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import traverse_util

from rdfer_jax import config as config_lib
from rdfer_jax.models import trunks, vit

pytestmark = pytest.mark.slow

SMALL = {"depth": 2, "width": 32, "heads": 2}


def small(name, **fields):
    """A trunk of a family, with two narrow blocks."""
    return trunks.create(name, dtype=jnp.float32).clone(**SMALL | fields)


def pictures(count=2, frames=4, size=28, seed=1):
    x = np.random.default_rng(seed).standard_normal((count, frames, size, size, 3))
    return x.astype(np.float32)


def shapes_of(trunk, size=28, frames=4):
    x = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.float32)
    tree = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x, False), x)
    return {"params": {"trunk": tree["params"]}, "batch_stats": {}}


def random_params(trunk, size=28, frames=4):
    """Nothing is left at 0 or 1: a forgotten bias or scale must show."""
    rng = np.random.default_rng(0)

    def leaf(shape):
        array = rng.standard_normal(shape.shape)
        if len(shape.shape) > 1:
            return np.float32(array * np.prod(shape.shape[:-1]) ** -0.5)
        return np.float32(1 + 0.3 * array)

    return jax.tree.map(leaf, shapes_of(trunk, size, frames)["params"]["trunk"])


def apply(trunk, params, x, train=False, **rngs):
    return jax.jit(lambda p, x: trunk.apply({"params": p}, x, train, rngs=rngs))(params, x)


# Slow references: loops over images, heads and tokens, in float64.


def reference(trunk, params, clip_THWC):
    """The tokens of a clip, or image of one frame, after the last block: [L, D]."""
    p = traverse_util.flatten_dict(jax.tree.map(np.float64, params), sep="/")
    size, step = trunk.patch, trunk.frames_per_feature

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + trunk.epsilon)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def dense(x, name):
        return x @ p[f"{name}/dense/kernel"] + p.get(f"{name}/dense/bias", 0)

    kernel = p["embedding/patch/kernel"].reshape(-1, trunk.width)
    frames, height, width, _ = clip_THWC.shape
    tokens = []
    for t in range(0, frames, step):
        for y in range(0, height, size):
            for x in range(0, width, size):
                piece = clip_THWC[t : t + step, y : y + size, x : x + size].reshape(-1)
                tokens.append(piece @ kernel + p.get("embedding/patch/bias", 0))
    if trunk.class_token:
        tokens.insert(0, p["embedding/class_token"])
    x = np.array(tokens)
    if trunk.learned:
        x = x + p["embedding/positions"]
    else:
        for n in range(len(x)):
            for j in range(trunk.width):
                angle = n / 10000 ** (2 * (j // 2) / trunk.width)
                x[n, j] += np.cos(angle) if j % 2 else np.sin(angle)
    if trunk.pre_norm:
        x = norm(x, "pre_norm")
    for i in range(trunk.depth):
        y = norm(x, f"block{i}/norm1")
        query, key, value = (dense(y, f"block{i}/{n}") for n in ("query", "key", "value"))
        heads = np.split(np.arange(trunk.width), trunk.heads)
        out = np.zeros_like(y)
        for own in heads:
            scores = query[:, own] @ key[:, own].T / np.sqrt(len(own))
            out[:, own] = scipy.special.softmax(scores, -1) @ value[:, own]
        x = x + dense(out, f"block{i}/out") * p.get(f"block{i}/scale1", 1)
        y = dense(norm(x, f"block{i}/norm2"), f"block{i}/fc1")
        if trunk.activation is vit.quick_gelu:
            y = y / (1 + np.exp(-1.702 * y))
        else:
            y = y * scipy.special.ndtr(y)
        x = x + dense(y, f"block{i}/fc2") * p.get(f"block{i}/scale2", 1)
    return x, norm


FAMILIES = ("vit_narrow", "videovit_narrow", "dinov2_s14", "clip_b16", "marlin_s16")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_features_are_those_of_a_slow_reference(name):
    patch = trunks.create(name, dtype=jnp.float32).patch
    trunk = small(name)
    x = pictures(2, 4, 2 * patch)
    params = random_params(trunk, 2 * patch)
    found = apply(trunk, params, x)
    steps = 4 // trunk.frames_per_feature
    assert found.shape == (2, steps, 32) and found.dtype == jnp.float32
    for video in range(2):
        whole = (
            [x[video]] if trunk.frames_per_feature > 1 else [x[video, t : t + 1] for t in range(4)]
        )
        expected = []
        for clip in whole:
            tokens, norm = reference(trunk, params, clip)
            if trunk.pool == "class":
                pooled = tokens[:1]
            else:
                tokens = tokens[int(trunk.class_token) :]
                pooled = [part.mean(0) for part in np.split(tokens, steps // len(whole))]
            expected.extend(norm(np.array(pooled), "norm"))
        np.testing.assert_allclose(found[video], expected, rtol=1e-4, atol=1e-4)


def test_the_table_of_config_says_how_many_frames_a_trunk_reads_and_which_are_transformers():
    for name in trunks.NAMES:
        trunk = trunks.create(name, dtype=jnp.float32)
        assert config_lib.CLIP_TRUNKS.get(name, 1) == trunk.frames_per_feature
        assert (name in config_lib.VITS) == isinstance(trunk, vit.ViT)
    with pytest.raises(ValueError, match="expected a vision transformer, got 'resnet18'"):
        trunks.create("resnet18", dtype=jnp.float32, drop_path=0.1)


def test_remat_and_bfloat16_change_little():
    trunk, x = small("videovit_narrow"), pictures(2, 4, 16)
    params = random_params(trunk, 16)

    def value_and_gradient(trunk):
        loss = jax.value_and_grad(lambda p: jnp.mean(trunk.apply({"params": p}, x, True) ** 2))
        return jax.jit(loss)(params), str(jax.make_jaxpr(loss)(params))

    (kept, text), (again, remat_text) = map(value_and_gradient, (trunk, trunk.clone(remat=True)))
    assert "remat" in remat_text and "remat" not in text
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), kept, again)
    low = apply(trunk.clone(dtype=jnp.bfloat16), params, x)
    exact = apply(trunk, params, x)
    assert low.dtype == jnp.float32
    assert 1e-5 < np.abs(low - exact).max() / np.abs(exact).max() < 0.05


def test_branches_are_dropped_per_video_in_training_and_rarely_in_the_first_blocks():
    trunk = small("videovit_narrow", drop_path=0.5)
    x = np.repeat(pictures(1, 2, 16), 64, axis=0)
    params = random_params(trunk, 16, 2)
    rngs = {"drop_path": jax.random.key(0)}
    found = np.asarray(apply(trunk, params, x, True, **rngs))
    # Two branches of the last block are each kept or dropped: four different results; the first is kept.
    different = np.unique(found.round(4).reshape(64, -1), axis=0)
    assert len(different) == 4
    still = np.asarray(apply(trunk.clone(drop_path=0.0), params, x, True))
    np.testing.assert_allclose(apply(trunk, params, x, False, **rngs), still, rtol=1e-5, atol=1e-5)
    frozen = apply(trunk.clone(frozen=True), params, x, True, **rngs)
    np.testing.assert_allclose(frozen, still, rtol=1e-5, atol=1e-5)
    # A kept branch counts twice: with both branches of a linear net, the mean is that of no dropping.
    y, drop = jnp.ones((4000, 1, 1)), vit.nn.Dropout(0.25, (1, 2), rng_collection="drop_path")
    dropped = drop.apply({}, y, deterministic=False, rngs=rngs)
    assert np.asarray(dropped).mean() == pytest.approx(1, abs=0.05)


def test_low_rank_updates_begin_at_nothing_and_add_a_product():
    lora = vit.LoRA(("query", "fc2"), rank=3, alpha=6.0, dropout=0.0)
    trunk, plain, x = small("clip_b16", lora=lora), small("clip_b16"), pictures(1, 1, 32)
    start = jax.jit(lambda x: trunk.init(jax.random.key(0), x, False))(x)["params"]
    names = {"/".join(path) for path in traverse_util.flatten_dict(start)}
    updated = {name for name in names if "lora" in name}
    assert updated == {
        f"block{i}/{layer}/lora_{way}/kernel"
        for i in range(2) for layer in ("query", "fc2") for way in ("down", "up")
    }  # fmt: skip
    without = jax.tree_util.tree_map_with_path(lambda _, leaf: leaf, start)
    flat = traverse_util.flatten_dict(without, sep="/")
    base = {name: leaf for name, leaf in flat.items() if "lora" not in name}
    expected = apply(plain, traverse_util.unflatten_dict(base, sep="/"), x)
    np.testing.assert_allclose(apply(trunk, start, x), expected, rtol=1e-5, atol=1e-6)

    params = random_params(trunk, 32, 1)
    flat = traverse_util.flatten_dict(params, sep="/")
    merged = {name: leaf for name, leaf in flat.items() if "lora" not in name}
    for i in range(2):
        for layer in ("query", "fc2"):
            at = f"block{i}/{layer}"
            product = flat[f"{at}/lora_down/kernel"] @ flat[f"{at}/lora_up/kernel"]
            merged[f"{at}/dense/kernel"] = merged[f"{at}/dense/kernel"] + 6.0 / 3 * product
    expected = apply(plain, traverse_util.unflatten_dict(merged, sep="/"), x)
    np.testing.assert_allclose(apply(trunk, params, x), expected, rtol=1e-4, atol=1e-4)


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"config.augment.size: expected a multiple of 16, .* 28 x 28"
    ):
        shapes_of(small("videomae_s16"), 28)
    with pytest.raises(ValueError, match="3 frames cannot be split into tubelets of 2"):
        shapes_of(small("videomae_s16"), 32, 3)


def test_the_layer_of_each_parameter():
    paths = traverse_util.flatten_dict(shapes_of(small("clip_b16"), 32)["params"])
    layers = {"/".join(path[:2]): vit.depth_of(path, 2) for path in paths}
    assert layers == {
        "trunk/embedding": 0, "trunk/pre_norm": 0, "trunk/block0": 1, "trunk/block1": 2, "trunk/norm": 3,
    }  # fmt: skip
    assert vit.depth_of(("head", "kernel"), 2) == 3
