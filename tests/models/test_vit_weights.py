"""Weights of vision transformers: networks of PyTorch compute the same as ours with their arrays."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from rdfer_jax.models import pretrained, trunks, vit, vit_names

pytestmark = pytest.mark.slow

WIDTH, DEPTH, HEADS, FRAMES = 32, 2, 2, 4
SMALL = {"width": WIDTH, "depth": DEPTH, "heads": HEADS}


def small(name, **fields):
    """A trunk of a family, with two narrow blocks."""
    return trunks.create(name, dtype=jnp.float32).clone(**SMALL | fields)


def shapes_of(trunk, size):
    x = jax.ShapeDtypeStruct((1, FRAMES, size, size, 3), jnp.float32)
    tree = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x, False), x)
    head = {"kernel": np.zeros((9, 7), np.float32)}
    return {"params": {"trunk": tree["params"], "head": head}, "batch_stats": {}}


def features(trunk, variables, x):
    params = {"params": variables["params"]["trunk"]}
    return np.asarray(jax.jit(lambda p, x: trunk.apply(p, x, False))(params, x))


def random_arrays(shapes):
    """Random weights by name, with nothing left at 0 or 1, of unit gain so that errors do not grow."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes.items():
        array = rng.standard_normal(shape)
        is_kernel = len(shape) > 1 and "pos" not in name and "token" not in name
        array = array * np.prod(shape[1:]) ** -0.5 if is_kernel else 0.3 * array
        one = name.endswith(("weight", "gamma", "lambda1")) and len(shape) == 1
        arrays[name] = np.asarray(array + one, np.float32)
    return arrays


# Names of two families, spelt out.


def videomae(prefix="", **more):
    """VideoMAE's arrays, by its authors' names."""
    shapes = {"patch_embed.proj.weight": (WIDTH, 3, 2, 16, 16), "patch_embed.proj.bias": (WIDTH,)}
    for i in range(DEPTH):
        shapes |= {
            f"blocks.{i}.norm1.weight": (WIDTH,),
            f"blocks.{i}.norm1.bias": (WIDTH,),
            f"blocks.{i}.attn.q_bias": (WIDTH,),
            f"blocks.{i}.attn.v_bias": (WIDTH,),
            f"blocks.{i}.attn.qkv.weight": (3 * WIDTH, WIDTH),
            f"blocks.{i}.attn.proj.weight": (WIDTH, WIDTH),
            f"blocks.{i}.attn.proj.bias": (WIDTH,),
            f"blocks.{i}.norm2.weight": (WIDTH,),
            f"blocks.{i}.norm2.bias": (WIDTH,),
            f"blocks.{i}.mlp.fc1.weight": (4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc1.bias": (4 * WIDTH,),
            f"blocks.{i}.mlp.fc2.weight": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.mlp.fc2.bias": (WIDTH,),
        }
    shapes |= {"fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,)}
    shapes |= {name.replace("__", "."): shape for name, shape in more.items()}
    return random_arrays({prefix + name: shape for name, shape in shapes.items()})


def load(arrays, trunk, size, folder):
    save_file(arrays, folder / "weights.safetensors")
    return pretrained.load(folder / "weights.safetensors", shapes_of(trunk, size))


def test_where_the_arrays_of_videomae_go(tmp_path):
    arrays = videomae(head__weight=(400, WIDTH), head__bias=(400,))
    variables, report = load(arrays, small("videomae_s16"), 32, tmp_path)
    found = traverse_util.flatten_dict(variables["params"]["trunk"], sep="/")
    equal = np.testing.assert_array_equal
    for part, name in enumerate(("query", "key", "value")):
        third = arrays["blocks.1.attn.qkv.weight"][part * WIDTH : (part + 1) * WIDTH]
        equal(found[f"block1/{name}/dense/kernel"], third.T)
    equal(found["block1/query/dense/bias"], arrays["blocks.1.attn.q_bias"])
    equal(found["block1/value/dense/bias"], arrays["blocks.1.attn.v_bias"])
    assert "block1/key/dense/bias" not in found
    kernel = arrays["patch_embed.proj.weight"]
    for out in range(0, WIDTH, 9):
        for channel in range(3):
            equal(found["embedding/patch/kernel"][..., channel, out], kernel[out, channel])
    equal(found["block0/fc1/dense/kernel"], arrays["blocks.0.mlp.fc1.weight"].T)
    equal(found["norm/scale"], arrays["fc_norm.weight"])
    # Two arrays of the embedding and of the norm; of a block, 13 arrays of theirs and 15 of ours.
    assert report.lines()[0].startswith("loaded 34 of 36 arrays of ")
    assert report.lines()[1:] == [
        "not used: head.bias, head.weight: a classifier of 400 classes",
        "randomly initialized: head",
    ]
    assert variables["batch_stats"] == {}


def test_a_file_of_pretraining_has_an_encoder_and_may_lack_the_norm(tmp_path):
    arrays = videomae("encoder.") | {
        f"decoder.{name}": array for name, array in videomae().items() if "blocks" in name
    }
    arrays = {name: array for name, array in arrays.items() if "fc_norm" not in name}
    variables, report = load(arrays, small("videomae_s16"), 32, tmp_path)
    assert set(report.fresh) == {
        "params/trunk/norm/scale", "params/trunk/norm/bias", "params/head/kernel",
    }  # fmt: skip
    assert {name.split(".")[0] for name in report.unused} == {"decoder"}
    arrays |= {
        "encoder.norm.weight": np.full(WIDTH, 3, np.float32),
        "encoder.norm.bias": np.ones(WIDTH),
    }
    variables, report = load(arrays, small("videomae_s16"), 32, tmp_path)
    assert (variables["params"]["trunk"]["norm"]["scale"] == 3).all()
    del arrays["encoder.norm.bias"]
    with pytest.raises(ValueError, match="it has no params/trunk/norm/bias"):
        load(arrays, small("videomae_s16"), 32, tmp_path)


def test_experts_and_heads_of_s4d_are_left_and_named(tmp_path):
    experts = {"blocks__1__moe_layer__experts__0__fc1__weight": (8, WIDTH)}
    arrays = videomae(head__dfew__weight=(7, WIDTH), **experts)
    _, report = load(arrays, small("videomae_s16"), 32, tmp_path)
    assert report.unused == {
        "head.dfew.weight": "a classifier of 7 classes",
        "blocks.1.moe_layer.experts.0.fc1.weight": "not part of a trunk",
    }


def test_low_rank_updates_stay_new(tmp_path):
    lora = vit.LoRA(("query", "out"), rank=2, alpha=4.0, dropout=0.0)
    _, report = load(videomae(), small("videomae_s16", lora=lora), 32, tmp_path)
    new = [name for name in report.fresh if "trunk" in name]
    assert len(new) == 2 * DEPTH * 2 and all("/lora_" in name for name in new)


def test_a_file_of_another_size_is_refused_with_the_trunk_that_it_fits(tmp_path):
    full = {
        f"blocks.{i}.{name}": np.broadcast_to(np.float32(0), shape)
        for i in range(12)
        for name, shape in (("norm1.weight", (768,)), ("norm1.bias", (768,)))
    }
    save_file({k: np.ascontiguousarray(v) for k, v in full.items()}, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=r"blocks.0.norm1.\w+: .*expected shape \(32,\), got \(768,\)"
    ):
        pretrained.load(tmp_path / "a.safetensors", shapes_of(small("videomae_s16"), 32))
    trunk = trunks.create("videomae_s16", dtype=jnp.float32)
    whole = traverse_util.flatten_dict(shapes_of(trunk, 32), sep="/")
    theirs = {
        place: pretrained._Source(place, leaf) for place, leaf in whole.items() if "trunk" in place
    }
    assert pretrained._hint(theirs) == "It fits config.model.trunk = 'videomae_s16' or 'marlin_s16'"


def test_learned_positions_are_resized_and_it_is_said(tmp_path):
    trunk = small("vit_s16")
    names = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 1 + 9, WIDTH)}
    arrays = {k.replace("fc_norm", "norm"): v for k, v in videomae().items()} | random_arrays(names)
    for i in range(DEPTH):
        del arrays[f"blocks.{i}.attn.q_bias"], arrays[f"blocks.{i}.attn.v_bias"]
        arrays[f"blocks.{i}.attn.qkv.bias"] = np.ones(3 * WIDTH, np.float32)
    arrays["patch_embed.proj.weight"] = arrays["patch_embed.proj.weight"][:, :, 0]
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    arrays["pos_embed"][0, 1:] = 5  # a constant stays one
    variables, report = load(arrays, trunk, 64, tmp_path)
    positions = variables["params"]["trunk"]["embedding"]["positions"]
    assert positions.shape == (1 + 16, WIDTH)
    np.testing.assert_array_equal(positions[0], arrays["pos_embed"][0, 0])
    np.testing.assert_allclose(positions[1:], 5, rtol=1e-6)
    assert report.lines()[1] == "resized the positions of 10 tokens to 17 tokens"
    with pytest.raises(ValueError, match="9 positions cannot be resized to 17"):
        vit_names.resized_positions(np.zeros((9, 2)), 17)


# PyTorch.


def of_videomae(torch, norm="fc_norm", epsilon=1e-6):
    """VideoMAE and, with other names, MARLIN, written out from their description."""
    nn, is_marlin = torch.nn, norm == "norm"

    class Linear(nn.Module):
        def __init__(self, cin, cout):
            super().__init__()
            self.linear = nn.Linear(cin, cout)

        def forward(self, x):
            return self.linear(x)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(WIDTH)) for _ in range(2))
            self.proj = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
            qkv = nn.functional.linear(x, self.qkv.weight, bias)
            query, key, value = qkv.reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            weights = (query @ key.mT * (WIDTH // HEADS) ** -0.5).softmax(-1)
            return self.proj((weights @ value).transpose(1, 2).reshape(x.shape))

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            if is_marlin:
                self.layers = nn.ModuleList([Linear(WIDTH, 4 * WIDTH), Linear(4 * WIDTH, WIDTH)])
            else:
                self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            first, second = self.layers if is_marlin else (self.fc1, self.fc2)
            return second(nn.functional.gelu(first(x)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=epsilon) for _ in range(2))
            self.attn, self.mlp = Attention(), MLP()

        def forward(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class Patches(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name
            self.add_module(name, nn.Conv3d(3, WIDTH, (2, 16, 16), (2, 16, 16)))

        def forward(self, x):
            return getattr(self, self.name)(x).flatten(2).mT

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            if is_marlin:
                self.patch_embedding = Patches("projection")
            else:
                self.patch_embed = Patches("proj")
            self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
            self.add_module(norm, nn.LayerNorm(WIDTH, eps=epsilon))

        def forward(self, x):
            x = (self.patch_embedding if is_marlin else self.patch_embed)(x)
            place, column = np.arange(x.shape[1])[:, None], np.arange(WIDTH)
            angle = place / 10000 ** (2 * (column // 2) / WIDTH)
            table = np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
            x = self.blocks(x + torch.tensor(table, dtype=x.dtype))
            return getattr(self, norm)(x.reshape(len(x), FRAMES // 2, -1, WIDTH).mean(2))

    return Net(), lambda net, x: net(x.movedim(-1, 1))


def of_timm(timm, **options):
    """A network of timm, which reads the frames of a video as a batch."""
    model = timm.models.vision_transformer.VisionTransformer(
        embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=7, **options
    )
    return model, lambda net, x: net.forward_head(
        net.forward_features(x.flatten(0, 1).movedim(-1, 1)), pre_logits=True
    )


def of_transformers(transformers, name, **options):
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "attn_implementation": "eager",
    }
    family = re.sub("(Model|ForVideoClassification)$", "", name)
    config = getattr(transformers, f"{family}Config")(**sizes | options)
    return getattr(transformers, name)(config)


def read_frames(net, x):
    return net(x.flatten(0, 1).movedim(-1, 1)).pooler_output


def read_clips(net, x):
    tokens = net.videomae(x.movedim(-1, 2)).last_hidden_state
    return net.fc_norm(tokens.reshape(len(x), FRAMES // 2, -1, WIDTH).mean(2))


def network(kind):
    """A network of PyTorch, how it reads [N, F, H, W, 3], the trunk that fits it, and the frame size."""
    torch = pytest.importorskip("torch")
    if kind in ("videomae", "marlin"):
        options = {"norm": "norm", "epsilon": 1e-5} if kind == "marlin" else {}
        return *of_videomae(torch, **options), f"{kind}_s16", 32
    if kind == "benchmark":  # what benchmarks.step measures beside ours
        from benchmarks import torch_vit

        model = torch_vit.VideoMAE(7, FRAMES, 32, WIDTH, DEPTH, HEADS)

        def read_tubes(net, x):
            return net.fc_norm(net.tokens(x).reshape(len(x), FRAMES // 2, -1, WIDTH).mean(2))

        return model, read_tubes, "videomae_s16", 32
    if kind.startswith("timm"):
        timm = pytest.importorskip("timm")
        options, trunk, size = {
            "timm vit": ({}, "vit_s16", 32),
            "timm mae": ({"global_pool": "avg"}, "mae_b16", 32),
            "timm dinov2": ({"init_values": 1.0, "patch_size": 14}, "dinov2_s14", 28),
        }[kind]
        return *of_timm(timm, img_size=size, **options), trunk, size
    if kind.startswith("open_clip"):
        open_clip = pytest.importorskip("open_clip")
        vision = {"layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": 16}
        text = {"layers": 1, "width": 32, "heads": 2, "context_length": 4, "vocab_size": 9}
        model = open_clip.model.CLIP(16, vision | {"image_size": 32}, text, quick_gelu=True)

        def read(net, x):
            net.visual.proj = None  # the features before the space of texts
            return net.visual(x.flatten(0, 1).movedim(-1, 1))

        return model, read, "clip_b16", 32
    transformers = pytest.importorskip("transformers")
    of = functools.partial(of_transformers, transformers)
    if kind == "transformers videomae":
        options = {"image_size": 32, "num_frames": FRAMES}
        model = of("VideoMAEForVideoClassification", **options)
        return model, read_clips, "videomae_s16", 32
    if kind == "transformers clip":
        return of("CLIPVisionModel", image_size=32, patch_size=16), read_frames, "clip_b16", 32
    if kind == "transformers dinov2":
        model = of("Dinov2Model", image_size=28, patch_size=14, mlp_ratio=4)
        return model, read_frames, "dinov2_s14", 28
    model = of("ViTModel", image_size=32, patch_size=16)

    def read_class(net, x):
        return net(x.flatten(0, 1).movedim(-1, 1)).last_hidden_state[:, 0]

    return model, read_class, "vit_s16", 32


#: Names of versions 5 of transformers -> those of its version 4, which most published files have.
VERSION_4 = {
    "vit": {
        r"^layers\.": "encoder.layer.",
        r"attention\.q_proj": "attention.attention.query",
        r"attention\.k_proj": "attention.attention.key",
        r"attention\.v_proj": "attention.attention.value",
        r"attention\.o_proj": "attention.output.dense",
        r"mlp\.fc1": "intermediate.dense",
        r"mlp\.fc2": "output.dense",
    },
    "videomae": {
        r"attention\.(query|value)\.bias": lambda match: f"attention.{match[1][0]}_bias",
    },
}
KINDS = (
    "videomae", "marlin", "benchmark", "timm vit", "timm mae", "timm dinov2", "open_clip",
    "transformers videomae", "transformers clip", "transformers dinov2", "transformers vit",
)  # fmt: skip


@functools.cache
def compared(kind):
    """The arrays of a network of PyTorch, frames, its features of them, our trunk and the frame size."""
    torch = pytest.importorskip("torch")
    model, read, name, size = network(kind)
    model = model.eval()
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if v.is_floating_point()}
    arrays = random_arrays(shapes)
    model.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()}, strict=False)
    x = np.random.default_rng(1).standard_normal((1, FRAMES, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = read(model, torch.tensor(x)).numpy()
    return arrays, x, expected.reshape(1, -1, WIDTH), small(name), size


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_the_features_are_those_of_pytorch(kind, tmp_path):
    arrays, x, expected, trunk, size = compared(kind)
    variables, report = load(arrays, trunk, size, tmp_path)
    assert [name for name in report.fresh if "trunk" in name] == []
    found = features(trunk, variables, x)
    difference = np.abs(found - expected).max()
    print(f"{kind}: {len(report.loaded)} arrays, largest difference {difference:.1e}")
    assert np.abs(expected).max() > 1 and difference < 1e-4


@pytest.mark.torch
@pytest.mark.parametrize("family", VERSION_4)
def test_names_of_version_4_of_transformers_mean_the_same(family, tmp_path):
    arrays, _, _, trunk, size = compared(f"transformers {family}")
    old = {}
    for name, array in arrays.items():
        for pattern, other in VERSION_4[family].items():
            name = re.sub(pattern, other, name)
        old[f"{family}.{name}" if family == "vit" else name] = array
    assert old.keys() != arrays.keys()
    expected, _ = load(arrays, trunk, size, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, load(old, trunk, size, tmp_path)[0], expected)


@pytest.mark.torch
def test_a_wrong_row_of_the_table_is_found(monkeypatch, tmp_path):
    arrays, x, expected, trunk, size = compared("transformers clip")
    table = vit_names._OUR_BLOCK_MODULE
    swapped = table | {
        "self_attn.q_proj": table["self_attn.k_proj"],
        "self_attn.k_proj": table["self_attn.q_proj"],
    }
    monkeypatch.setattr(vit_names, "_OUR_BLOCK_MODULE", swapped)
    found = features(trunk, load(arrays, trunk, size, tmp_path)[0], x)
    assert np.abs(found - expected).max() > 1e-2


@pytest.mark.torch
def test_positions_are_resized_as_by_timm():
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    positions = np.random.default_rng(0).standard_normal((1 + 49, 8)).astype(np.float32)
    for side in (4, 7, 14):
        expected = timm.layers.resample_abs_pos_embed(torch.tensor(positions)[None], [side, side])
        found = vit_names.resized_positions(positions, 1 + side**2)
        np.testing.assert_allclose(found, expected[0], rtol=1e-5, atol=1e-5)


def full_size(name):
    """The state_dict of the published network that a trunk is for, as shapes, without its values."""
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    family, size = name.split("_")
    word = {"s": "small", "b": "base", "l": "large", "h": "huge"}[size[0]]
    with torch.device("meta"):
        if family == "clip":
            open_clip = pytest.importorskip("open_clip")
            config = open_clip.get_model_config(f"ViT-{size[0].upper()}-{size[1:]}-quickgelu")
            model = open_clip.model.CLIP(**{k: v for k, v in config.items() if k != "custom_text"})
        elif family in ("vit", "mae", "dinov2"):
            suffix = {"vit": "", "mae": "", "dinov2": "_dinov2"}[family]
            pool = {"global_pool": "avg"} if family == "mae" else {}
            model = timm.create_model(f"vit_{word}_patch{size[1:]}{suffix or '_224'}", **pool)
        else:
            transformers = pytest.importorskip("transformers")
            trunk = trunks.create(name, dtype=jnp.float32)
            config = transformers.VideoMAEConfig(
                hidden_size=trunk.width,
                num_hidden_layers=trunk.depth,
                num_attention_heads=trunk.heads,
                intermediate_size=4 * trunk.width,
            )
            model = transformers.VideoMAEForVideoClassification(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


PUBLISHED = [name for name in vit.TRUNKS if not name.endswith("narrow")]


@pytest.mark.torch
@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_at_full_size(name):
    shapes = full_size(name)
    arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    size = 518 if name.startswith("dinov2") else 224
    trunk = trunks.create(name, dtype=jnp.float32)
    ours = traverse_util.flatten_dict(shapes_of(trunk, size)["params"]["trunk"], sep="/")
    theirs = {
        place.name: vit_names.converted(arrays[key], place).shape
        for key, found in vit_names.places(arrays).items()
        for place in found
    }
    assert theirs == {place: leaf.shape for place, leaf in ours.items()}
