"""The trunks against slow NumPy and torch references, and what each promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdfer_jax.models import trunks

pytestmark = pytest.mark.slow


FRAME_TRUNKS = ("resnet8_narrow", "resnet18", "resnet50")
CLIP_TRUNKS = ("r3d_18", "r2plus1d_18")
NAMES = (*FRAME_TRUNKS, *CLIP_TRUNKS)
DEPTHS = {
    "resnet8_narrow": (1, 2),
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "r3d_18": (2, 2, 2, 2),
    "r2plus1d_18": (2, 2, 2, 2),
}


def frames(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal((*shape, 3)).astype(np.float32)


def batch(name, seed=0):
    """Two videos; the same shape in most tests, so that few programs are compiled."""
    return frames(2, 8 if name in CLIP_TRUNKS else 4, 24, 24, seed=seed)


def fill(module, x):
    """Variables with nothing left at 0 or 1: a forgotten mean or scale must show.

    In NumPy, since compiling the random initialization takes longer than most tests.
    """
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), x)
    rng = np.random.default_rng(1)

    def leaf(path, shape):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.6, 1.4, shape.shape).astype(np.float32)
        # Kernels of unit gain, so that float32 errors do not grow over the layers.
        spread = (1 / np.prod(shape.shape[:-1])) ** 0.5 if path[-1].key == "kernel" else 0.1
        return (spread * rng.standard_normal(shape.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def random_variables(name):
    return fill(trunks.create(name, dtype=jnp.float32), batch(name))


@functools.cache
def jitted(name, **fields):
    trunk = trunks.create(name, dtype=jnp.float32).clone(**fields)
    return jax.jit(lambda variables, x: trunk.apply(variables, x, False))


def training(trunk):
    return jax.jit(lambda variables, x: trunk.apply(variables, x, True, mutable=["batch_stats"]))


# The slow reference: float64, one loop a frame for the shift, patches times kernel for the convs.


def conv_reference(x, kernel, stride):
    """x [M, *space, cin], kernel [*space, cin, cout]; stride and padding of k // 2 on each side."""
    sizes = kernel.shape[:-2]
    padded = np.pad(x, [(0, 0), *[(k // 2, k // 2) for k in sizes], (0, 0)])
    axes = tuple(range(1, 1 + len(sizes)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, sizes, axis=axes)
    patches = patches[(slice(None), *[slice(None, None, s) for s in stride])]
    patches = np.moveaxis(patches, len(sizes) + 1, -1)  # [M, *space, *kernel, cin]
    return np.tensordot(patches, kernel.astype(np.float64), len(sizes) + 1)


def shift_reference(x_NFHWC):
    out = x_NFHWC.copy()
    fold, last = x_NFHWC.shape[-1] // 8, x_NFHWC.shape[1] - 1
    for t in range(last + 1):
        out[:, t, ..., :fold] = x_NFHWC[:, t + 1, ..., :fold] if t < last else 0
        out[:, t, ..., fold : 2 * fold] = x_NFHWC[:, t - 1, ..., fold : 2 * fold] if t > 0 else 0
    return out


def patches_reference(x, patch):
    """x [..., H, W, C] -> [..., H / patch, W / patch, patch patch C], row by row inside a patch."""
    rows = [x[..., i::patch, j::patch, :] for i in range(patch) for j in range(patch)]
    return np.concatenate(rows, axis=-1)


class Reference:
    """A block or a whole trunk in evaluation mode, read from the variables by name."""

    def __init__(self, variables, rank):
        self.params, self.stats, self.rank = variables["params"], variables["batch_stats"], rank

    def at(self, name):
        inner = {"params": self.params[name], "batch_stats": self.stats[name]}
        return Reference(inner, self.rank)

    def conv(self, name, x, stride):
        if f"{name}_space" in self.params:
            x = self.conv_norm(f"{name}_space", f"{name}_bn", x, (1, *stride[1:]))
            return self.conv(f"{name}_time", np.maximum(x, 0), (stride[0], 1, 1))
        kernel = np.asarray(self.params[name]["kernel"])
        if self.rank == 2:  # frames are examples
            y = conv_reference(x.reshape(-1, *x.shape[2:]), kernel, stride)
            return y.reshape(*x.shape[:2], *y.shape[1:])
        return conv_reference(x, kernel, stride)

    def conv_norm(self, conv, norm, x, stride):
        y, p, s = self.conv(conv, x, stride), self.params[norm], self.stats[norm]
        return (y - s["mean"]) / np.sqrt(np.float64(s["var"]) + 1e-5) * p["scale"] + p["bias"]

    def block(self, x, stride):
        convs = sum(name.startswith("bn") for name in self.params)
        strided = 1 if convs == 2 else 2  # torchvision: in the 3x3
        y = shift_reference(x) if self.rank == 2 else x
        for i in range(1, convs + 1):
            step = (stride if i == strided else 1,) * self.rank
            y = self.conv_norm(f"conv{i}", f"bn{i}", y, step)
            y = np.maximum(y, 0) if i < convs else y
        if "downsample_conv" in self.params:
            x = self.conv_norm("downsample_conv", "downsample_bn", x, (stride,) * self.rank)
        return np.maximum(x + y, 0)

    def trunk(self, x, depths, max_pool, patch):
        x = patches_reference(x, patch)
        stride = (1,) * (self.rank - 2) + (2, 2)
        x = np.maximum(self.conv_norm("conv1", "bn1", x, stride), 0)
        if max_pool:
            x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])  # after a relu, 0 is as good
            x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
            x = x[:, :, ::2, ::2].max(axis=(-1, -2))
        for stage, depth in enumerate(depths):
            for i in range(depth):
                x = self.at(f"layer{stage + 1}_{i}").block(x, 2 if stage > 0 and i == 0 else 1)
        if "embed" not in self.params:
            return x.mean(axis=tuple(range(4 - self.rank, 4)))
        y = x.reshape(*x.shape[:2], -1) @ np.float64(self.params["embed"]["kernel"])
        p, s = self.params["bn_embed"], self.stats["bn_embed"]
        return (y - s["mean"]) / np.sqrt(np.float64(s["var"]) + 1e-5) * p["scale"] + p["bias"]


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_numpy_reference(name):
    variables, x, clip = random_variables(name), batch(name), name in CLIP_TRUNKS
    features_NSD = jitted(name)(variables, x)
    reference = Reference(variables, rank=3 if clip else 2)
    snippets = x.reshape(4, 4, 24, 24, 3) if clip else x
    pool = name in ("resnet18", "resnet50")
    patch = 4 if name == "resnet8_narrow" else 1
    expected = reference.trunk(snippets.astype(np.float64), DEPTHS[name], pool, patch)
    expected = expected.reshape(2, -1, expected.shape[-1])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(features_NSD, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [trunks.BasicBlock, trunks.Bottleneck])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_equals_the_numpy_reference_and_reaches_one_frame_each_way(block, stride):
    x = np.random.default_rng(0).standard_normal((2, 7, 6, 6, 16)).astype(np.float32)
    module = block(16, stride, 2, jnp.float32)
    variables = fill(module, x)
    apply = jax.jit(lambda x: module.apply(variables, x, False))
    expected = Reference(variables, rank=2).block(x.astype(np.float64), stride)
    np.testing.assert_allclose(apply(x), expected, rtol=1e-4, atol=1e-4)

    touched = x.copy()
    touched[0, 3] += 1
    moved_NF = np.abs(apply(touched) - apply(x)).max(axis=(2, 3, 4)) > 0
    assert moved_NF[0].tolist() == [False, False, True, True, True, False, False]
    assert not moved_NF[1].any()


def test_temporal_shift():
    x = np.random.default_rng(0).standard_normal((2, 5, 2, 3, 17)).astype(np.float32)
    np.testing.assert_array_equal(trunks.temporal_shift(x), shift_reference(x))
    np.testing.assert_array_equal(trunks.temporal_shift(x[:, :1]), shift_reference(x[:, :1]))


# Stem; a block of 24; one of 48 and two of 96, projected; the embedding of a 2 x 2 map; scale and bias.
NARROW_SIZE = (
    9 * 48 * 48
    + 2 * 9 * 48 * 48
    + (9 * 48 * 96 + 9 * 96 * 96 + 48 * 96 + 2 * 9 * 96 * 96)
    + 2 * 2 * 96 * 128
    + 2 * (48 + 2 * 48 + 3 * 96 + 2 * 96 + 128)
)


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [
        # torchvision's models without their last layer.
        ("resnet18", 11_689_512 - 512 * 1000 - 1000, 512),
        ("resnet50", 25_557_032 - 2048 * 1000 - 1000, 2048),
        ("r3d_18", 33_371_472 - 512 * 400 - 400, 512),
        ("r2plus1d_18", 31_505_325 - 512 * 400 - 400, 512),
        ("resnet8_narrow", NARROW_SIZE, 128),
    ],
)
def test_sizes(name, parameters, features):
    leaves = jax.tree.leaves(random_variables(name)["params"])
    assert sum(leaf.size for leaf in leaves) == parameters
    trunk = trunks.create(name, dtype=jnp.float32)
    assert trunk.features == features
    assert trunk.frames_per_feature == (4 if name in CLIP_TRUNKS else 1)


def torchvision_name(name, path):
    """The mechanical map: the name of a leaf in torchvision's state_dict."""
    *modules, leaf = [key.key for key in path[1:]]
    leaf = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }.get(leaf, leaf)
    part = modules[-1]
    if part.endswith("embed"):
        return f"{part}.{leaf}"
    if part.startswith("downsample"):
        part = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}[part]
    elif name == "r3d_18":
        index = "0" if part.startswith("conv") else "1"
        part = f"stem.{index}" if len(modules) == 1 else f"conv{part[-1]}.{index}"
    return ".".join([*(m.replace("_", ".") for m in modules[:-1]), part, leaf])


def torch_model(torch, name):
    """torchvision's geometry and names, written out again, with temporal shift where it belongs."""
    nn = torch.nn
    rank, depths = (3 if name == "r3d_18" else 2), DEPTHS[name]
    narrow, deep = name == "resnet8_narrow", name == "resnet50"
    widths = (48, 96) if narrow else (64, 128, 256, 512)
    conv_of, norm_of = (nn.Conv2d, nn.BatchNorm2d) if rank == 2 else (nn.Conv3d, nn.BatchNorm3d)

    def conv(cin, cout, k, s):
        return conv_of(cin, cout, k, s, padding=k // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, cin, width, stride):
            super().__init__()
            cout = width * 4 if deep else width
            plan = [(cin, width, 3, stride), (width, width, 3, 1)]
            if deep:
                plan = [(cin, width, 1, 1), (width, width, 3, stride), (width, cout, 1, 1)]
            self.count = len(plan)
            for i, row in enumerate(plan, 1):
                if rank == 3:
                    self.add_module(f"conv{i}", nn.Sequential(conv(*row), norm_of(row[1])))
                else:
                    self.add_module(f"conv{i}", conv(*row))
                    self.add_module(f"bn{i}", norm_of(row[1]))
            self.downsample = None
            if stride != 1 or cin != cout:
                self.downsample = nn.Sequential(conv(cin, cout, 1, stride), norm_of(cout))

        def forward(self, x, segments):
            y = x
            if rank == 2:  # TSM's own code: frames are folded into the batch
                v = x.view(-1, segments, *x.shape[1:])
                fold = v.shape[2] // 8
                out = torch.zeros_like(v)
                out[:, :-1, :fold] = v[:, 1:, :fold]
                out[:, 1:, fold : 2 * fold] = v[:, :-1, fold : 2 * fold]
                out[:, :, 2 * fold :] = v[:, :, 2 * fold :]
                y = out.view_as(x)
            for i in range(1, self.count + 1):
                y = getattr(self, f"conv{i}")(y)
                y = getattr(self, f"bn{i}")(y) if rank == 2 else y
                y = y.relu() if i < self.count else y
            return (y + (x if self.downsample is None else self.downsample(x))).relu()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            if rank == 3:
                stem = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False)
                self.stem = nn.Sequential(stem, norm_of(64))
            else:
                self.conv1 = conv(48 if narrow else 3, widths[0], 3 if narrow else 7, 2)
                self.bn1 = norm_of(widths[0])
            cin = widths[0]
            for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
                blocks = []
                for i in range(depth):
                    blocks.append(Block(cin, width, 2 if stage > 1 and i == 0 else 1))
                    cin = width * 4 if deep else width
                self.add_module(f"layer{stage}", nn.ModuleList(blocks))
            if narrow:
                self.embed = nn.Linear(2 * 2 * 96, 128, bias=False)
                self.bn_embed = nn.BatchNorm1d(128)

        def forward(self, x, segments):
            if narrow:
                x = torch.cat([x[..., i::4, j::4] for i in range(4) for j in range(4)], 1)
            x = self.stem(x).relu() if rank == 3 else self.bn1(self.conv1(x)).relu()
            if rank == 2 and not narrow:
                x = nn.functional.max_pool2d(x, 3, 2, 1)
            for stage in range(1, len(depths) + 1):
                for block in getattr(self, f"layer{stage}"):
                    x = block(x, segments)
            if narrow:
                return self.bn_embed(self.embed(x.movedim(1, -1).flatten(1)))
            return x.flatten(2).mean(-1)

    return Net()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "train"),
    # test_pretrained.py compares r2plus1d_18.
    [*((name, False) for name in (*FRAME_TRUNKS, "r3d_18")), ("resnet8_narrow", True)],
)
def test_equals_torch_with_weights_mapped_by_name(name, train):
    torch = pytest.importorskip("torch")
    variables, clip = random_variables(name), name == "r3d_18"
    rank = 3 if clip else 2
    state = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if path[-1].key == "kernel" and path[-2].key == "embed":
            leaf = leaf.T
        elif path[-1].key == "kernel":
            leaf = np.transpose(leaf, (rank + 1, rank, *range(rank)))
        state[torchvision_name(name, path)] = torch.tensor(np.ascontiguousarray(leaf))
    model = torch_model(torch, name)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)

    x = batch(name)
    with torch.no_grad():
        inputs = torch.tensor(x.reshape(-1, 4, 24, 24, 3) if clip else x.reshape(-1, 24, 24, 3))
        expected = model.train(train)(torch.movedim(inputs, -1, 1), 4).numpy()
    if not train:
        features_NSD = jitted(name)(variables, x)
        np.testing.assert_allclose(features_NSD, expected.reshape(features_NSD.shape), 1e-4, 1e-4)
        return
    features_NSD, updated = training(trunks.create(name, dtype=jnp.float32))(variables, x)
    # Batch statistics over the few pixels of the last stage amplify rounding.
    np.testing.assert_allclose(features_NSD, expected.reshape(features_NSD.shape), 2e-3, 2e-3)
    mean = updated["batch_stats"]["bn1"]["mean"]
    np.testing.assert_allclose(mean, model.bn1.running_mean.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_video_does_not_depend_on_the_others(name):
    x = batch(name)
    other = np.concatenate([x[:1], batch(name, seed=5)[:1]])
    apply, variables = jitted(name), random_variables(name)
    here, there = apply(variables, x), apply(variables, other)
    np.testing.assert_array_equal(here[0], there[0])
    assert np.abs(here[1] - there[1]).max() > 1e-3


def test_a_snippet_sees_its_own_four_frames_only():
    x = batch("r3d_18")
    touched = x.copy()
    touched[:, 1] += 0.5
    apply, variables = jitted("r3d_18"), random_variables("r3d_18")
    before_NSD, after_NSD = apply(variables, x), apply(variables, touched)
    assert before_NSD.shape == (2, 2, 512)
    assert np.abs(before_NSD[:, 0] - after_NSD[:, 0]).max() > 1e-3
    np.testing.assert_array_equal(before_NSD[:, 1:], after_NSD[:, 1:])


def test_r3d_refuses_a_clip_that_does_not_divide():
    with pytest.raises(ValueError, match="6 frames"):
        jax.eval_shape(jitted("r3d_18"), random_variables("r3d_18"), frames(1, 6, 24, 24))


def test_frames_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ValueError, match="25 x 24"):
        trunks.space_to_depth(np.zeros((1, 25, 24, 3)), 2)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="resnet8_narrow"):
        trunks.create("resnet19", dtype=jnp.float32)


@pytest.mark.parametrize("name", ["resnet8_narrow", "resnet50"])
def test_remat_changes_neither_features_nor_gradients(name):
    small = trunks.create(name, dtype=jnp.float32).clone(depths=(1,), widths=(8,))
    x = frames(2, 4, 16, 16)
    variables = fill(small, x)

    def value_and_gradient(remat):
        trunk = small.clone(remat=remat)

        def loss(params):
            v = {"params": params, "batch_stats": variables["batch_stats"]}
            y, updated = trunk.apply(v, x, True, mutable=["batch_stats"])
            return jnp.mean(y**2), (y, updated)

        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        text = str(jax.make_jaxpr(gradient)(variables["params"]))
        return gradient(variables["params"]), text

    kept, kept_text = value_and_gradient(False)
    again, again_text = value_and_gradient(True)
    assert "remat" in again_text and "remat" not in kept_text
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(kept[1]))
    assert largest > 1e-4
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * largest), kept, again
    )


def test_bfloat16_computes_near_float32():
    variables, x = random_variables("resnet8_narrow"), batch("resnet8_narrow")
    low = jitted("resnet8_narrow", dtype=jnp.bfloat16)(variables, x)
    exact = jitted("resnet8_narrow")(variables, x)
    assert 1e-5 < np.abs(low - exact).max() / np.abs(exact).max() < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_keeps_parameters_statistics_and_features_in_float32(name):
    trunk = trunks.create(name, dtype=jnp.bfloat16)
    init = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x, False), batch(name))
    features, updated = jax.eval_shape(training(trunk), init, batch(name))
    assert features.dtype == jnp.float32
    assert features.shape == (2, batch(name).shape[1] // trunk.frames_per_feature, trunk.features)
    leaves = jax.tree.leaves((init, updated))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_training_updates_the_running_statistics():
    variables, x = random_variables("resnet8_narrow"), batch("resnet8_narrow")
    _, updated = training(trunks.create("resnet8_narrow", dtype=jnp.float32))(variables, x)
    before, after = variables["batch_stats"], updated["batch_stats"]
    moved = jax.tree.map(lambda a, b: bool(np.abs(a - b).min() > 0), before, after)
    assert all(jax.tree.leaves(moved))
    # A tenth of the way to the batch statistics of the first convolution's output.
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])
    x = patches_reference(x.reshape(-1, *x.shape[2:]), 4)
    y = conv_reference(x, kernel, (2, 2))
    for name, value in (("mean", y.mean((0, 1, 2))), ("var", y.var((0, 1, 2)))):
        expected = 0.9 * before["bn1"][name] + 0.1 * value
        np.testing.assert_allclose(after["bn1"][name], expected, rtol=1e-4, atol=1e-5)


def test_initialization_is_kaiming_fan_out():
    trunk = trunks.create("resnet50", dtype=jnp.float32)
    small = trunk.clone(depths=(1,), widths=(32,))
    x = frames(1, 2, 8, 8)
    params = jax.jit(lambda x: small.init(jax.random.key(0), x, False))(x)["params"]["layer1_0"]
    spread = np.std(params["conv2"]["kernel"])
    assert spread == pytest.approx((2 / (3 * 3 * 32)) ** 0.5, rel=0.03)
    assert all((params[bn]["scale"] == 1).all() for bn in ("bn1", "bn2", "bn3", "downsample_bn"))
