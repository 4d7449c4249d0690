"""LGI-Former of MAE-DFER, with its authors' names of arrays: against NumPy and PyTorch, from the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import traverse_util
from safetensors.numpy import save_file

from rdfer_jax import config as config_lib
from rdfer_jax import config_files, models
from rdfer_jax.models import pretrained, resampling, trunks, vit, vit_names

pytestmark = pytest.mark.slow

WIDTH, DEPTH, HEADS, FRAMES, SIZE = 32, 2, 2, 8, 160
#: Regions over time and rows; there is one over the columns.
TIME, ROWS = 2, 2


def trunk_of(**fields):
    sizes = {"width": WIDTH, "depth": DEPTH, "heads": HEADS}
    return trunks.create("maedfer_b16", dtype=jnp.float32).clone(**sizes | fields)


def shapes_of_ours(trunk, frames=FRAMES, size=SIZE):
    x = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.float32)
    tree = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x, False), x)
    return {"params": {"trunk": tree["params"]}, "batch_stats": {}}


def shapes_of_theirs(width=WIDTH, depth=DEPTH, regions=TIME * ROWS):
    """As modeling_finetune.py of MAE-DFER names them."""
    shapes = {
        "patch_embed.proj.weight": (width, 3, 2, 16, 16),
        "patch_embed.proj.bias": (width,),
        "lg_region_tokens": (regions, width),
    }
    norms = (
        "first_attn_norm0", "second_attn_norm0", "third_attn_norm0", "third_attn_norm1", "norm2",
    )  # fmt: skip
    for i in range(depth):
        for name in norms:
            shapes |= {f"blocks.{i}.{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
        for name in ("first_attn", "second_attn", "third_attn"):
            shapes |= {
                f"blocks.{i}.{name}.q.weight": (width, width),
                f"blocks.{i}.{name}.kv.weight": (2 * width, width),
                f"blocks.{i}.{name}.q_bias": (width,),
                f"blocks.{i}.{name}.v_bias": (width,),
                f"blocks.{i}.{name}.proj.weight": (width, width),
                f"blocks.{i}.{name}.proj.bias": (width,),
            }
        shapes |= {
            f"blocks.{i}.mlp.fc1.weight": (4 * width, width),
            f"blocks.{i}.mlp.fc1.bias": (4 * width,),
            f"blocks.{i}.mlp.fc2.weight": (width, 4 * width),
            f"blocks.{i}.mlp.fc2.bias": (width,),
        }
    return shapes | {"fc_norm.weight": (width,), "fc_norm.bias": (width,)}


@functools.cache
def arrays():
    """Random weights with nothing left at 0 or 1, of unit gain; messengers that matter."""
    rng = np.random.default_rng(0)

    def array(name, shape):
        x = rng.standard_normal(shape)
        if len(shape) > 1 and "token" not in name:
            x *= np.prod(shape[1:]) ** -0.5
        elif "token" not in name:
            x = 0.3 * x + ("norm" in name and name.endswith("weight"))
        return x.astype(np.float32)

    return {name: array(name, shape) for name, shape in shapes_of_theirs().items()}


def clip():
    x = np.random.default_rng(1).standard_normal((1, FRAMES, SIZE, SIZE, 3))
    return x.astype(np.float32)


def loaded(folder, trunk=None):
    save_file(arrays(), folder / "weights.safetensors")
    trunk = trunk or trunk_of()
    return pretrained.load(folder / "weights.safetensors", shapes_of_ours(trunk))


def features(variables, x, trunk=None):
    trunk, params = trunk or trunk_of(), {"params": variables["params"]["trunk"]}
    return np.asarray(jax.jit(lambda p, x: trunk.apply(p, x, False))(params, x))


@functools.cache
def reference():
    """The features of `clip`, in float64, region by region: [T, D]."""
    p = {name: array.astype(np.float64) for name, array in arrays().items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attend(x, context, name):
        query = x @ p[f"{name}.q.weight"].T + p[f"{name}.q_bias"]
        key, value = np.split(context @ p[f"{name}.kv.weight"].T, 2, axis=1)
        value = value + p[f"{name}.v_bias"]
        out = np.zeros_like(x)
        for own in np.split(np.arange(WIDTH), HEADS):
            scores = query[:, own] @ key[:, own].T / np.sqrt(len(own))
            out[:, own] = scipy.special.softmax(scores, -1) @ value[:, own]
        return out @ p[f"{name}.proj.weight"].T + p[f"{name}.proj.bias"]

    def perceive(x, block):
        hidden = norm(x, f"{block}.norm2") @ p[f"{block}.mlp.fc1.weight"].T
        hidden += p[f"{block}.mlp.fc1.bias"]
        hidden *= scipy.special.ndtr(hidden)
        return hidden @ p[f"{block}.mlp.fc2.weight"].T + p[f"{block}.mlp.fc2.bias"]

    kernel, pixels = p["patch_embed.proj.weight"], clip()[0].astype(np.float64)
    side, column = SIZE // 16, np.arange(WIDTH)
    regions = []
    for first_t in range(0, FRAMES // 2, 2):
        for first_y in range(0, side, 5):
            tokens = []
            for t in range(first_t, first_t + 2):
                for y in range(first_y, first_y + 5):
                    for x in range(side):
                        piece = pixels[
                            2 * t : 2 * t + 2, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16
                        ]
                        token = np.einsum("dcthw,thwc->d", kernel, piece)
                        angle = ((t * side + y) * side + x) / 10000 ** (2 * (column // 2) / WIDTH)
                        token += np.where(column % 2, np.cos(angle), np.sin(angle))
                        tokens.append(token + p["patch_embed.proj.bias"])
            regions.append(np.array([p["lg_region_tokens"][len(regions)], *tokens]))
    for i in range(DEPTH):
        block = f"blocks.{i}"
        for r, x in enumerate(regions):
            y = norm(x, f"{block}.first_attn_norm0")
            regions[r] = x + attend(y, y, f"{block}.first_attn")
        messengers = np.array([x[0] for x in regions])
        y = norm(messengers, f"{block}.second_attn_norm0")
        messengers = messengers + attend(y, y, f"{block}.second_attn")
        context = norm(messengers, f"{block}.third_attn_norm1")
        for r, x in enumerate(regions):
            y = norm(x[1:], f"{block}.third_attn_norm0")
            x = np.concatenate([messengers[[r]], x[1:] + attend(y, context, f"{block}.third_attn")])
            regions[r] = x + perceive(x, block)
    messengers = np.array([x[0] for x in regions]).reshape(TIME, ROWS, WIDTH)
    return norm(messengers.mean(1), "fc_norm")


def test_the_features_are_those_of_a_slow_reference(tmp_path):
    variables, report = loaded(tmp_path)
    assert not report.fresh and not report.unused
    found = features(variables, clip())
    assert found.shape == (1, TIME, WIDTH) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], reference(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", ["local_query/dense", "norm_tokens", "keys and values"])
def test_a_wrong_row_of_the_table_is_found(wrong, monkeypatch, tmp_path):
    table = dict(vit_names._OUR_BLOCK_MODULE)
    other = {"local_query/dense": "global_query/dense", "norm_tokens": "norm_messengers"}.get(wrong)
    if other:
        names = [name for name, ours in table.items() if ours in (wrong, other)]
        table |= dict(zip(names, [table[name] for name in reversed(names)], strict=True))
        monkeypatch.setattr(vit_names, "_OUR_BLOCK_MODULE", table)
    else:
        fused = {"third_attn.kv.weight": ("interact_value", "interact_key")}
        monkeypatch.setattr(vit_names, "_FUSED", vit_names._FUSED | fused)
    found = features(loaded(tmp_path)[0], clip())
    assert np.abs(found[0] - reference()).max() > 1e-2


def test_a_file_of_pretraining_and_one_of_other_clips(tmp_path):
    theirs = {
        f"encoder.{name}": a for name, a in arrays().items() if not name.startswith("fc_norm")
    }
    save_file(theirs, tmp_path / "a.safetensors")
    _, report = pretrained.load(tmp_path / "a.safetensors", shapes_of_ours(trunk_of()))
    assert {name.split("/")[2] for name in report.fresh} == {"norm"}
    with pytest.raises(ValueError, match=r"lg_region_tokens: .*config.clips.frames"):
        pretrained.load(tmp_path / "a.safetensors", shapes_of_ours(trunk_of(), 16))
    with pytest.raises(ValueError, match=r"multiple of 160, the region .* 112 x 112"):
        shapes_of_ours(trunk_of(), size=112)
    with pytest.raises(ValueError, match="6 frames cannot be split into tubelets of 4"):
        shapes_of_ours(trunk_of(), 6)


def test_names_and_shapes_at_full_size():
    theirs = {
        name: np.broadcast_to(np.float32(0), shape)
        for name, shape in shapes_of_theirs(512, 16, 8).items()
    }
    trunk = trunks.create("maedfer_b16", dtype=jnp.float32)
    ours = traverse_util.flatten_dict(shapes_of_ours(trunk, 16)["params"]["trunk"], sep="/")
    found = {
        place.name: vit_names.converted(theirs[name], place).shape
        for name, places in vit_names.places(theirs).items()
        for place in places
    }
    assert found == {place: leaf.shape for place, leaf in ours.items()}
    # 85 million with its authors' classifier, says the paper.
    assert sum(leaf.size for leaf in ours.values()) == pytest.approx(85e6, rel=0.01)
    sources = {f"params/trunk/{place}": pretrained._Source(place, x) for place, x in ours.items()}
    assert pretrained._hint(sources) == "It fits config.model.trunk = 'maedfer_b16'"
    assert {vit.depth_of(("trunk", *place.split("/")), 16) for place in ours} == set(range(18))


def test_the_network_of_the_config_reads_clips_of_neighboring_frames():
    config = config_lib.resolve(config_files.load("dfew_maedfer"))
    network = models.create(config, 7, "cpu")
    frames = jax.ShapeDtypeStruct((2, 32, SIZE, SIZE, 3), jnp.float32)
    clips = resampling.eval_clips(config.clips, 32, config.data.snippet)
    clips = np.broadcast_to(clips, (2, *clips.shape))

    def read(rng, frames):
        return network.read_clips(network.init(rng), frames, clips, False)

    out = jax.eval_shape(read, jax.random.key(0), frames).outputs
    assert clips[0].tolist() == [list(range(16)), list(range(16, 32))]
    assert out.clip_logits.shape == (2, 2, 7)
    assert out.instant_logits.shape == (2, 4, 7)  # of the first clip, four frames each


def test_branches_are_dropped_by_region_and_by_video(tmp_path):
    trunk = trunk_of(depth=1, drop_path=0.0)
    params = {"params": loaded(tmp_path)[0]["params"]["trunk"]}
    x = np.repeat(clip(), 8, axis=0)

    def result(trunk):
        rngs = {"drop_path": jax.random.key(0)}
        apply = jax.jit(lambda p, x: trunk.apply(p, x, True, rngs=rngs))
        return np.asarray(apply(params, x))

    # The last block alone is at the full rate, so both have to be blocks of their own.
    still = result(trunk.clone(depth=DEPTH))
    dropped = result(trunk.clone(depth=DEPTH, drop_path=0.5))
    assert np.ptp(still, axis=0).max() < 1e-5
    # Of a video, in 2 of 4 regions each: local attention and perceptron, and once for all, global.
    assert len(np.unique(dropped.round(4).reshape(8, -1), axis=0)) > 5


# PyTorch.


def of_paper(torch):
    """LGI-Former, written out from the paper, with the names of its authors."""
    nn = torch.nn

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(WIDTH, WIDTH, bias=False)
            self.kv = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
            self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(WIDTH)) for _ in range(2))
            self.proj = nn.Linear(WIDTH, WIDTH)

        def forward(self, x, context):
            key, value = self.kv(context).chunk(2, -1)
            heads = [
                part.unflatten(-1, (HEADS, -1)).transpose(-2, -3)
                for part in (self.q(x) + self.q_bias, key, value + self.v_bias)
            ]
            out = nn.functional.scaled_dot_product_attention(*heads)
            return self.proj(out.transpose(-2, -3).flatten(-2))

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x):
            return self.fc2(nn.functional.gelu(self.fc1(x)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("first_attn", "second_attn", "third_attn"):
                self.add_module(name, Attention())
                self.add_module(f"{name}_norm0", nn.LayerNorm(WIDTH, eps=1e-6))
            self.third_attn_norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
            self.mlp = MLP()

        def forward(self, x):  # [N, R, 1 + P, D]
            y = self.first_attn_norm0(x)
            x = x + self.first_attn(y, y)
            messengers, tokens = x[:, :, 0], x[:, :, 1:]
            y = self.second_attn_norm0(messengers)
            messengers = messengers + self.second_attn(y, y)
            y = self.third_attn_norm0(tokens).flatten(1, 2)
            y = self.third_attn(y, self.third_attn_norm1(messengers))
            tokens = tokens + y.unflatten(1, tokens.shape[1:3])
            x = torch.cat([messengers[:, :, None], tokens], dim=2)
            return x + self.mlp(self.norm2(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = nn.ModuleDict(
                {"proj": nn.Conv3d(3, WIDTH, (2, 16, 16), (2, 16, 16))}
            )
            self.lg_region_tokens = nn.Parameter(torch.zeros(TIME * ROWS, WIDTH))
            self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
            self.fc_norm = nn.LayerNorm(WIDTH, eps=1e-6)

        def forward(self, x):
            x = self.patch_embed["proj"](x)  # [N, D, T, H, W]
            place = torch.arange(x[0, 0].numel(), dtype=torch.float64)[:, None]
            rate = 10000 ** (-torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
            table = torch.stack([(place * rate).sin(), (place * rate).cos()], -1).flatten(1)
            x = x + table.T.reshape(1, WIDTH, *x.shape[2:]).to(x)
            x = x.unflatten(2, (TIME, 2)).unflatten(4, (ROWS, 5))  # [N, D, nt, 2, nh, 5, W]
            x = x.permute(0, 2, 4, 3, 5, 6, 1).flatten(3, 5).flatten(1, 2)
            first = self.lg_region_tokens[None, :, None].expand(len(x), -1, -1, -1)
            x = self.blocks(torch.cat([first, x], dim=2))[:, :, 0]
            return self.fc_norm(x.unflatten(1, (TIME, ROWS)).mean(2))

    return Net()


@pytest.mark.torch
def test_the_features_are_those_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    net = of_paper(torch).eval()
    net.load_state_dict({name: torch.tensor(array) for name, array in arrays().items()})
    with torch.no_grad():
        expected = net(torch.tensor(clip()).movedim(-1, 1)).numpy()
    found = features(loaded(tmp_path)[0], clip())
    difference = np.abs(found - expected).max()
    print(f"maedfer: largest difference {difference:.1e}")
    assert np.abs(expected).max() > 1 and difference < 1e-4
