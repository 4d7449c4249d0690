"""Masked pretraining: against a slow NumPy reference and PyTorch, by the names that PyTorch users read."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny
from safetensors.numpy import load_file

from rdfer_jax.models import masked, trunks
from rdfer_jax.training import pretrain

ROOT = pathlib.Path(__file__).parents[2]
SIZE, PATCH, FRAMES, WIDTH, HEADS, DECODER = 32, 8, 4, 64, 4, 16
PLACES = (SIZE // PATCH) ** 2


def settings(target="pixels", **sections):
    return tiny.config(
        augment={"size": SIZE},
        clips={"frames": FRAMES},
        model={"trunk": "videovit_narrow"} | sections.pop("model", {}),
        pretrain={
            "mask_ratio": 0.75, "target": target, "decoder_width": DECODER, "decoder_depth": 1,
            "decoder_heads": 2,
        },
        **sections,
    )  # fmt: skip


def random_params(config):
    """Nothing is left at 0 or 1: a forgotten bias or scale must show."""
    shapes = jax.eval_shape(masked.create(config, "cpu").init, jax.random.key(0))["params"]
    rng = np.random.default_rng(0)

    def leaf(shape):
        array = rng.standard_normal(shape.shape)
        kernel = len(shape.shape) > 1
        return np.float32(array * np.prod(shape.shape[:-1]) ** -0.5 if kernel else 1 + 0.3 * array)

    return jax.tree.map(leaf, shapes)


def clips(count=2):
    """Normalized clips: uniform noise in [0, 1] less the mean, over the standard deviation."""
    pixels = np.random.default_rng(1).random((count, FRAMES, SIZE, SIZE, 3))
    augment = settings().augment
    return np.float32((pixels - augment.mean) / augment.std), pixels


# A slow reference in float64, by the names and shapes of VideoMAE's files.


def positions(length, width):
    return np.array(
        [
            [
                (math.cos if j % 2 else math.sin)(n / 10000 ** (2 * (j // 2) / width))
                for j in range(width)
            ]
            for n in range(length)
        ]
    )


def norm(w, x, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, x, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def block(w, x, name, heads):
    width = x.shape[-1]
    bias = [w[f"{name}.attn.q_bias"], np.zeros(width), w[f"{name}.attn.v_bias"]]
    qkv = norm(w, x, f"{name}.norm1") @ w[f"{name}.attn.qkv.weight"].T + np.concatenate(bias)
    mixed = []
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        query, key, value = (one[:, part] for one in np.split(qkv, 3, axis=1))
        scores = query @ key.T / math.sqrt(width / heads)
        mixed.append(scipy.special.softmax(scores, axis=1) @ value)
    x = x + linear(w, np.concatenate(mixed, axis=1), f"{name}.attn.proj")
    hidden = linear(w, norm(w, x, f"{name}.norm2"), f"{name}.mlp.fc1")
    gelu = hidden * (1 + scipy.special.erf(hidden / math.sqrt(2))) / 2
    return x + linear(w, gelu, f"{name}.mlp.fc2")


def cubes(clip):
    """The cubes of two frames in the order t, h, w."""
    for t in range(0, FRAMES, 2):
        for y in range(0, SIZE, PATCH):
            for x in range(0, SIZE, PATCH):
                yield clip[t : t + 2, y : y + PATCH, x : x + PATCH]


def target(cube, kind):
    """Equation 1 of MAE with VideoMAE's normalization of each color; MAE-DFER's difference of frames."""
    found = np.empty(cube.shape)
    for color in range(3):
        values = cube[..., color]
        found[..., color] = (values - values.mean()) / (values.std(ddof=1) + 1e-6)
    if kind == "difference":
        found = np.stack([found[0], found[1] - found[0]])
    return found.ravel()


def reference(w, normalized, pixels, visible, hidden, kind):
    w = {name: np.float64(array) for name, array in w.items()}
    kernel = w["encoder.patch_embed.proj.weight"]  # [D, C, 2, P, P]
    x = [np.einsum("dcthw,thwc->d", kernel, cube) for cube in cubes(normalized)]
    x = np.array(x) + w["encoder.patch_embed.proj.bias"] + positions(len(x), WIDTH)
    x = x[visible]
    for i in range(2):
        x = block(w, x, f"encoder.blocks.{i}", HEADS)
    x = norm(w, x, "encoder.norm") @ w["encoder_to_decoder.weight"].T
    table = positions(len(visible) + len(hidden), DECODER)
    x = np.concatenate([x + table[visible], w["mask_token"][0] + table[hidden]])
    x = block(w, x, "decoder.blocks.0", 2)
    predicted = linear(w, norm(w, x[len(visible) :], "decoder.norm"), "decoder.head")
    wanted = [target(cube, kind) for cube in cubes(pixels)]
    return np.mean([(predicted[i] - wanted[place]) ** 2 for i, place in enumerate(hidden)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixels", "difference"])
def test_the_loss_is_that_of_a_slow_reference(kind):
    config = settings(kind)
    params, (normalized, pixels) = random_params(config), clips()
    keys = jax.random.split(jax.random.key(3), 2)
    loss = jax.jit(masked.create(config, "cpu").loss)
    found = loss(params, normalized, keys, jax.random.key(0))
    visible, hidden = (np.asarray(x) for x in masked.tube_masks(keys, FRAMES // 2, PLACES, 0.75))
    arrays = masked.named(params)
    expected = [
        reference(arrays, normalized[n], pixels[n], visible[n], hidden[n], kind) for n in (0, 1)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    other = "difference" if kind == "pixels" else "pixels"
    wrong = reference(arrays, normalized[0], pixels[0], visible[0], hidden[0], other)
    assert abs(wrong / expected[0] - 1) > 0.01


@pytest.mark.parametrize(
    ("ratio", "places", "count"), [(0.9, 196, 176), (0.9, 36, 32), (0.7, 10, 7), (0.29, 100, 29)]
)
def test_a_mask_is_a_tube_of_the_exact_size(ratio, places, count):
    keys = jax.random.split(jax.random.key(0), 16)
    visible, hidden = (np.asarray(x) for x in masked.tube_masks(keys, 3, places, ratio))
    assert hidden.shape == (16, 3 * count) and visible.shape == (16, 3 * (places - count))
    for one, other in zip(visible, hidden, strict=True):
        assert sorted([*one, *other]) == list(range(3 * places))
        for places_S in (one.reshape(3, -1), other.reshape(3, -1)):
            assert (places_S - places_S[0] == places * np.arange(3)[:, None]).all()
    assert len({tuple(row) for row in hidden}) == 16  # another mask for each clip
    alone, _ = masked.tube_masks(keys[5:6], 3, places, ratio)
    np.testing.assert_array_equal(alone[0], visible[5])


@pytest.mark.slow
def test_masks_are_uniform():
    keys = jax.random.split(jax.random.key(1), 4000)
    visible, _ = masked.tube_masks(keys, 1, 9, 0.9)
    counts = np.bincount(np.asarray(visible).ravel(), minlength=9)
    assert visible.shape == (4000, 1) and np.abs(counts - 4000 / 9).max() < 4 * math.sqrt(4000 / 9)


def test_half_precision_keeps_parameters_loss_and_targets_in_float32():
    config = settings(model={"dtype": "bfloat16"})
    pretraining, params = masked.create(config, "tpu"), random_params(config)
    keys = jax.random.split(jax.random.key(3), 2)
    jaxpr = jax.make_jaxpr(pretraining.loss)(params, clips()[0], keys, jax.random.key(0))
    assert [out.dtype for out in jaxpr.out_avals] == [jnp.float32]
    assert "bf16" in str(jaxpr)


# PyTorch.


@pytest.mark.torch
def test_transformers_reads_the_file_by_the_program_of_the_manual(tmp_path, monkeypatch):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = settings()
    params, (normalized, _) = random_params(config), clips()
    pretrain.write_weights(params, tmp_path / "encoder.safetensors")
    assert load_file(tmp_path / "encoder.safetensors").keys() == masked.named(params).keys()
    page = (ROOT / "docs/how-to/pretrain.md").read_text()
    program = next(
        p for p in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "VideoMAE" in p
    )
    sizes = {
        "image_size": SIZE, "patch_size": PATCH, "num_frames": FRAMES, "hidden_size": WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH,
        "decoder_hidden_size": DECODER, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2, "decoder_intermediate_size": 4 * DECODER,
        "use_mean_pooling": False, "layer_norm_eps": 1e-6, "attn_implementation": "eager",
    }  # fmt: skip
    small = transformers.VideoMAEConfig(**sizes)
    monkeypatch.setattr(transformers, "VideoMAEConfig", lambda **_: small)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(program, names)
    model = names["model"].eval()
    keys = jax.random.split(jax.random.key(3), 2)
    visible, hidden = (np.asarray(x) for x in masked.tube_masks(keys, FRAMES // 2, PLACES, 0.75))
    where = np.zeros((2, FRAMES // 2 * PLACES), bool)
    np.put_along_axis(where, hidden, True, axis=1)
    x = torch.tensor(normalized).movedim(-1, 2)
    with torch.no_grad():
        tokens = model.videomae(x, bool_masked_pos=torch.tensor(where)).last_hidden_state
        loss = model(x, bool_masked_pos=torch.tensor(where)).loss
    ours = trunks.create("videovit_narrow", dtype=jnp.float32).apply(
        {"params": params["trunk"]}, normalized, False, visible
    )
    print("largest difference of tokens", np.abs(ours - tokens.numpy()).max())
    np.testing.assert_allclose(ours, tokens.numpy(), atol=1e-4)
    found = jnp.mean(masked.create(config, "cpu").loss(params, normalized, keys, jax.random.key(0)))
    print("losses", float(found), float(loss))
    np.testing.assert_allclose(found, loss.item(), rtol=1e-4)
