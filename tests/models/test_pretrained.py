"""Weights from elsewhere: what is taken, left and refused; and torch computes the same with them."""

import functools
import json
import os
import pickle
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny
from flax import traverse_util
from safetensors.numpy import save_file

from rdfer_jax import config as config_lib
from rdfer_jax import models, sharding
from rdfer_jax import state as state_lib
from rdfer_jax.models import pretrained, trunks
from rdfer_jax.training import loop, train
from rdfer_jax.training.checkpoint import CheckpointNotFoundError, Checkpoints, last_variables

pytestmark = pytest.mark.slow


DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "r3d_18": (2, 2, 2, 2),
    "r2plus1d_18": (2, 2, 2, 2),
}
WIDTHS = (64, 128, 256, 512)
VIDEO = ("r3d_18", "r2plus1d_18")


# What torchvision keeps in a state_dict, spelt out.


def listing(name, depths=None, widths=WIDTHS, classes=1000):
    """Yields name and shape of each array of a torchvision model, counters of batches too."""
    depths, video, deep = depths or DEPTHS[name], name in VIDEO, name == "resnet50"

    def norm(at, width):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            yield f"{at}.{leaf}", (width,)
        yield f"{at}.num_batches_tracked", ()

    def conv(at, cin, cout, size=3, middle=None):
        if middle:  # Conv2Plus1D
            yield f"{at}.0.weight", (middle, cin, 1, size, size)
            yield from norm(f"{at}.1", middle)
            yield f"{at}.3.weight", (cout, middle, 3, 1, 1)
        else:
            yield f"{at}.weight", (cout, cin, *(size,) * (3 if video else 2))

    def block(at, cin, width, stride):
        cout = 4 * width if deep else width
        plan = [(cin, width, 3), (width, width, 3)]
        if deep:
            plan = [(cin, width, 1), (width, width, 3), (width, cout, 1)]
        middle = 27 * cin * width // (9 * cin + 3 * width) if name == "r2plus1d_18" else None
        for i, (a, b, size) in enumerate(plan, 1):
            yield from conv(f"{at}.conv{i}" + (".0" if video else ""), a, b, size, middle)
            yield from norm(f"{at}.conv{i}.1" if video else f"{at}.bn{i}", b)
        if stride > 1 or cin != cout:
            yield from conv(f"{at}.downsample.0", cin, cout, 1)
            yield from norm(f"{at}.downsample.1", cout)

    if name == "r2plus1d_18":
        yield "stem.0.weight", (45, 3, 1, 7, 7)
        yield from norm("stem.1", 45)
        yield "stem.3.weight", (widths[0], 45, 3, 1, 1)
        yield from norm("stem.4", widths[0])
    elif video:
        yield "stem.0.weight", (widths[0], 3, 3, 7, 7)
        yield from norm("stem.1", widths[0])
    else:
        yield "conv1.weight", (widths[0], 3, 7, 7)
        yield from norm("bn1", widths[0])
    cin = widths[0]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for i in range(depth):
            yield from block(f"layer{stage}.{i}", cin, width, 2 if stage > 1 and i == 0 else 1)
            cin = 4 * width if deep else width
    yield "fc.weight", (classes, cin)
    yield "fc.bias", (classes,)


def state_dict(name, **sizes):
    """Random weights with nothing left at 0 or 1, and of unit gain, so that errors do not grow."""
    rng = np.random.default_rng(0)

    def array(key, shape):
        if key.endswith("num_batches_tracked"):
            return np.array(7)
        if key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
            return rng.uniform(0.6, 1.4, shape).astype(np.float32)
        spread = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
        return np.float32(spread) * rng.standard_normal(shape, np.float32)

    return {key: array(key, shape) for key, shape in listing(name, **sizes)}


def shapes_of(trunk, snippet=4):
    """The variables of a network that has this trunk and a head, as shapes."""
    frames = jax.ShapeDtypeStruct((1, snippet, 24, 24, 3), jnp.float32)
    tree = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x, False), frames)
    network = {collection: {"trunk": part} for collection, part in tree.items()}
    network["params"]["head"] = {"kernel": np.zeros((9, 7)), "bias": np.zeros(7)}
    return network


SMALL = {"depths": (1, 2), "widths": (8, 16)}


@functools.cache
def small_shapes(name="resnet18"):
    return shapes_of(trunks.create(name, dtype=jnp.float32).clone(**SMALL))


def small(name="resnet18", **changes):
    """A small state_dict, with arrays replaced or, given as None, left out."""
    arrays = state_dict(name, classes=10, **SMALL) | {
        key.replace("__", "."): value for key, value in changes.items()
    }
    return {key: value for key, value in arrays.items() if value is not None}


def saved(folder, arrays, name="weights.safetensors"):
    save_file(arrays, folder / name)
    return folder / name


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


# The same numbers come out of torch.


def torch_model(torch, name):
    """torchvision's architecture, written out again with its names of modules; fc is left out of use."""
    nn, video, deep = torch.nn, name in VIDEO, name == "resnet50"
    norm = nn.BatchNorm3d if video else nn.BatchNorm2d

    def conv(cin, cout, size, stride, middle):
        if name == "r2plus1d_18":
            return nn.Sequential(
                nn.Conv3d(cin, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
                nn.BatchNorm3d(middle),
                nn.ReLU(),
                nn.Conv3d(middle, cout, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
            )
        kind = nn.Conv3d if video else nn.Conv2d
        return kind(cin, cout, size, stride, size // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, cin, width, stride):
            super().__init__()
            cout = 4 * width if deep else width
            middle = 27 * cin * width // (9 * cin + 3 * width)
            plan = [(cin, width, 3, stride, middle), (width, width, 3, 1, middle)]
            if deep:
                plan = [(cin, width, 1, 1, 0), (width, width, 3, stride, 0), (width, cout, 1, 1, 0)]
            self.convs = len(plan)
            for i, row in enumerate(plan, 1):
                if video:
                    self.add_module(f"conv{i}", nn.Sequential(conv(*row), norm(row[1])))
                else:
                    self.add_module(f"conv{i}", conv(*row))
                    self.add_module(f"bn{i}", norm(row[1]))
            self.downsample = None
            if stride > 1 or cin != cout:
                kind = nn.Conv3d if video else nn.Conv2d
                self.downsample = nn.Sequential(kind(cin, cout, 1, stride, bias=False), norm(cout))

        def forward(self, x):
            y = x
            for i in range(1, self.convs + 1):
                y = getattr(self, f"conv{i}")(y)
                y = y if video else getattr(self, f"bn{i}")(y)
                y = y.relu() if i < self.convs else y
            return (y + (x if self.downsample is None else self.downsample(x))).relu()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            if name == "r2plus1d_18":
                self.stem = nn.Sequential(
                    nn.Conv3d(3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
                    nn.BatchNorm3d(45),
                    nn.ReLU(),
                    nn.Conv3d(45, 64, (3, 1, 1), (1, 1, 1), (1, 0, 0), bias=False),
                    nn.BatchNorm3d(64),
                    nn.ReLU(),
                )
            elif video:
                first = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
                self.stem = nn.Sequential(first, nn.BatchNorm3d(64), nn.ReLU())
            else:
                self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
            cin = 64
            for stage, (depth, width) in enumerate(zip(DEPTHS[name], WIDTHS, strict=True), 1):
                blocks = []
                for i in range(depth):
                    blocks.append(Block(cin, width, 2 if stage > 1 and i == 0 else 1))
                    cin = 4 * width if deep else width
                self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            self.fc = nn.Linear(cin, 1000)

        def forward(self, x):
            x = self.stem(x) if video else self.bn1(self.conv1(x)).relu()
            x = x if video else nn.functional.max_pool2d(x, 3, 2, 1)
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return x.flatten(2).mean(-1)

    return Net()


@pytest.mark.torch
@pytest.mark.parametrize("name", DEPTHS)
def test_the_features_before_the_classifier_are_those_of_torch(name, tmp_path):
    torch = pytest.importorskip("torch")
    arrays = state_dict(name)
    model = torch_model(torch, name).eval()
    model.load_state_dict({key: torch.tensor(value) for key, value in arrays.items()})  # strict
    x = np.random.default_rng(1).standard_normal((1, 4, 24, 24, 3)).astype(np.float32)
    with torch.no_grad():
        inputs = torch.tensor(x if name in VIDEO else x[0]).movedim(-1, 1)
        expected = model(inputs).numpy()

    trunk = trunks.create(name, dtype=jnp.float32, shift=False)
    variables, report = pretrained.load(saved(tmp_path, arrays), shapes_of(trunk))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    again, _ = pretrained.load(tmp_path / "weights.pth", shapes_of(trunk))
    assert flat(variables).keys() == flat(again).keys()
    for place, leaf in flat(variables).items():
        np.testing.assert_array_equal(leaf, flat(again)[place])
        assert leaf.dtype == np.float32 or "head" in place

    counters = sum(key.endswith("num_batches_tracked") for key in arrays)
    assert report.counters == counters
    assert len(report.loaded) == len(arrays) - counters - 2
    assert report.unused.keys() == {"fc.weight", "fc.bias"}
    trunk_variables = {collection: part["trunk"] for collection, part in variables.items()}
    features_NSD = jax.jit(lambda v, x: trunk.apply(v, x, False))(trunk_variables, x)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(features_NSD[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_temporal_shift_has_no_variables(name):
    with_shift = trunks.create(name, dtype=jnp.float32)
    without = trunks.create(name, dtype=jnp.float32, shift=False)
    assert jax.tree.structure(shapes_of(with_shift)) == jax.tree.structure(shapes_of(without))


# Names, axes and the report.


@pytest.mark.parametrize(
    ("name", "places"),
    [
        (
            "resnet50",
            {
                "conv1.weight": "params/trunk/conv1/kernel",
                "bn1.running_mean": "batch_stats/trunk/bn1/mean",
                "layer1.0.downsample.1.running_var": "batch_stats/trunk/layer1_0/downsample_bn/var",
                "layer1.0.downsample.0.weight": "params/trunk/layer1_0/downsample_conv/kernel",
                "layer2.1.conv3.weight": "params/trunk/layer2_1/conv3/kernel",
                "layer2.1.bn3.weight": "params/trunk/layer2_1/bn3/scale",
                "layer2.1.bn3.bias": "params/trunk/layer2_1/bn3/bias",
            },
        ),
        (
            "r3d_18",
            {
                "stem.0.weight": "params/trunk/conv1/kernel",
                "stem.1.bias": "params/trunk/bn1/bias",
                "layer2.0.conv1.0.weight": "params/trunk/layer2_0/conv1/kernel",
                "layer2.0.conv2.1.weight": "params/trunk/layer2_0/bn2/scale",
                "layer2.0.downsample.0.weight": "params/trunk/layer2_0/downsample_conv/kernel",
            },
        ),
        (
            "r2plus1d_18",
            {
                "stem.0.weight": "params/trunk/conv1_space/kernel",
                "stem.1.running_var": "batch_stats/trunk/conv1_bn/var",
                "stem.3.weight": "params/trunk/conv1_time/kernel",
                "stem.4.weight": "params/trunk/bn1/scale",
                "layer2.1.conv2.0.0.weight": "params/trunk/layer2_1/conv2_space/kernel",
                "layer2.1.conv2.0.1.weight": "params/trunk/layer2_1/conv2_bn/scale",
                "layer2.1.conv2.0.3.weight": "params/trunk/layer2_1/conv2_time/kernel",
                "layer2.1.conv2.1.bias": "params/trunk/layer2_1/bn2/bias",
            },
        ),
    ],
)
def test_names_and_axes(name, places, tmp_path):
    arrays = small(name)
    variables, _ = pretrained.load(saved(tmp_path, arrays), small_shapes(name))
    found = flat(variables)
    for theirs, ours in places.items():
        array = arrays[theirs]
        if array.ndim > 1:  # [cout, cin, ...] -> [..., cin, cout], one axis at a time
            array = np.stack([np.stack([cin for cin in cout], -1) for cout in array], -1)
        np.testing.assert_array_equal(found[ours], array)


def test_the_report_says_what_became_of_everything(tmp_path):
    arrays = small() | {"projection.weight": np.ones((4, 4), np.float32)}
    path = saved(tmp_path, arrays)
    variables, report = pretrained.load(path, small_shapes())
    # conv1, three blocks of two convolutions and a projected shortcut; each with four arrays of a norm.
    assert len(report.loaded) == 8 * 5
    assert report.lines() == [
        f"loaded 40 of 43 arrays of {path} into trunk; ignored 8 batch counters (num_batches_tracked)",
        "not used: fc.bias, fc.weight: a classifier of 10 classes",
        "not used: projection.weight: not part of a trunk",
        "randomly initialized: head",
    ]
    assert report.fresh == ("params/head/kernel", "params/head/bias")
    given = small_shapes()
    assert variables["params"]["head"]["kernel"] is given["params"]["head"]["kernel"]
    assert {type(flat(given)[name]) for name in report.loaded} == {jax.ShapeDtypeStruct}


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder.", "module.encoder."])
def test_a_prefix_of_a_wrapper_is_taken_off_where_that_makes_the_names_fit(prefix, tmp_path):
    expected, _ = pretrained.load(saved(tmp_path, small()), small_shapes())
    wrapped = {prefix + key: value for key, value in small().items()}
    wrapped |= {"decoder.conv1.weight": np.ones(3, np.float32), "module.temperature": np.ones(1)}
    variables, report = pretrained.load(saved(tmp_path, wrapped, "b.safetensors"), small_shapes())
    for name in report.loaded:
        np.testing.assert_array_equal(flat(variables)[name], flat(expected)[name])
    left = {prefix + "fc.weight", prefix + "fc.bias", "decoder.conv1.weight", "module.temperature"}
    assert report.unused.keys() == left


def test_two_arrays_for_one_place_are_refused(tmp_path):
    arrays = small() | {"backbone.bn1.bias": np.ones(8, np.float32)}
    with pytest.raises(
        ValueError, match=r"both .*bn1.bias .*bn1.bias would be params/trunk/bn1/bi"
    ):
        pretrained.load(saved(tmp_path, arrays), small_shapes())


def test_bfloat16_and_half_precision_become_float32(tmp_path):
    exact = small()
    arrays = exact | {
        "conv1.weight": exact["conv1.weight"].astype(ml_dtypes.bfloat16),
        "bn1.weight": exact["bn1.weight"].astype(np.float16),
    }
    variables, _ = pretrained.load(saved(tmp_path, arrays), small_shapes())
    kernel, scale = (flat(variables)[f"params/trunk/{x}"] for x in ("conv1/kernel", "bn1/scale"))
    assert kernel.dtype == scale.dtype == np.float32
    np.testing.assert_array_equal(
        kernel, np.moveaxis(np.float32(arrays["conv1.weight"]), (0, 1), (-1, -2))
    )
    np.testing.assert_array_equal(scale, np.float32(arrays["bn1.weight"]))


# What is refused.


@pytest.mark.parametrize(
    ("given", "trunk", "message"),
    [
        (
            "resnet50",
            "resnet18",
            r"layer1.0.conv1.weight: .*layer1_0/conv1/kernel, but expected shape \(3, 3, 64, 64\), got "
            r"\(1, 1, 64, 64\). It fits config.model.trunk = 'resnet50'",
        ),
        ("resnet18", "resnet50", r"\(1, 1, 64, 64\), got \(3, 3, 64, 64\).* = 'resnet18'"),
        ("resnet18", "r3d_18", r"\(3, 7, 7, 3, 64\), got \(7, 7, 3, 64\).* = 'resnet18'"),
        ("r2plus1d_18", "r3d_18", r"stem.0.weight.*no such variable.* = 'r2plus1d_18'"),
        ("r3d_18", "r2plus1d_18", r"stem.0.weight.*no such variable.* = 'r3d_18'"),
    ],
)
def test_weights_of_another_trunk_are_refused_with_the_right_one(
    given, trunk, message, monkeypatch
):
    arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in listing(given)}
    monkeypatch.setattr(pretrained, "read", lambda path: arrays)
    with pytest.raises(ValueError, match=f"given.pth does not fit the trunk: .*{message}"):
        pretrained.load("given.pth", shapes_of(trunks.create(trunk, dtype=jnp.float32)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # A deeper network of which each array of ours would have found its place.
        (
            {"layer2__2__conv1__weight": np.ones((16, 16, 3, 3))},
            "layer2.2.conv1.weight.*no such variable",
        ),
        ({"layer1__0__se__weight": np.ones((8, 8))}, "layer1.0.se.weight.*no such variable"),
        (
            {"layer2__1__bn2__running_var": None},
            "it has no batch_stats/.*layer2_1/bn2/var",
        ),
        ({"bn1__weight": np.ones(9)}, r"bn1.weight.*\(8,\), got \(9,\)"),
    ],
)
def test_half_a_trunk_is_refused(changes, message, tmp_path):
    with pytest.raises(
        ValueError, match=f"{message}.*none of our trunks: resnet8_narrow, resnet10_narrow"
    ):
        pretrained.load(saved(tmp_path, small(**changes)), small_shapes())


def test_a_file_of_something_else_is_refused_with_its_names(tmp_path):
    path = saved(tmp_path, {f"stages.{i}.conv.weight": np.ones((3, 3)) for i in range(5)})
    with pytest.raises(ValueError, match=r"none of its 5 arrays \(stages.0.*and 2 more\).*conv1"):
        pretrained.load(path, small_shapes())


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.init_from = .*nowhere.pth': no such"):
        pretrained.read(tmp_path / "nowhere.pth")
    (tmp_path / "weights.ckpt").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"expected a .safetensors, .pth or .pt file, or a run's workdir"
    ):
        pretrained.read(tmp_path / "weights.ckpt")
    path = saved(tmp_path, small())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"not a complete safetensors file"):
        pretrained.read(path)


# torch's files, and what they may hold.


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.torch
def test_nothing_in_a_file_is_run(tmp_path):
    torch = pytest.importorskip("torch")
    trap = tmp_path / "trap"
    arrays = {key: torch.tensor(value) for key, value in small().items()}
    torch.save({"state_dict": arrays, "extra": Evil(trap)}, tmp_path / "a.pth")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"state_dict": Evil(trap)}, protocol=2))
    for name in ("a.pth", "b.pt"):
        with pytest.raises(
            ValueError, match="not read, because it is damaged or contains more than arrays"
        ):
            pretrained.load(tmp_path / name, small_shapes())
        assert not trap.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert trap.exists()  # the trap was armed


def test_a_pickle_by_another_name_is_not_run(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        pretrained.read(path)
    assert not trap.exists()


@pytest.mark.torch
@pytest.mark.parametrize("nest", [("state_dict",), ("model",), ("model", "model_state_dict")])
def test_nested_arrays_are_found(nest, tmp_path):
    torch = pytest.importorskip("torch")
    content = {key: torch.tensor(value) for key, value in small().items()}
    content["conv1.weight"] = content["conv1.weight"].bfloat16().requires_grad_()
    for key in nest:
        content = {"epoch": 3, "optimizer": {"state": {}}, key: content}
    torch.save(content, tmp_path / "weights.pth")
    found = pretrained.read(tmp_path / "weights.pth")
    assert found.keys() == small().keys()
    np.testing.assert_array_equal(found["bn1.weight"], small()["bn1.weight"])
    np.testing.assert_allclose(found["conv1.weight"], small()["conv1.weight"], rtol=1e-2)


@pytest.mark.torch
def test_a_file_of_torch_without_names_or_cut_short_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights.pth"
    torch.save([torch.ones(3)], path)
    with pytest.raises(ValueError, match="expected a dict of arrays, got list"):
        pretrained.read(path)
    for content in (path.read_bytes()[:-40], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or contains more than arrays"):
            pretrained.read(path)


def test_without_torch_its_files_are_refused_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"torch.* not installed.*safetensors.torch.save_file"):
        pretrained.read(tmp_path / "weights.pth")


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cpu", "2.9.1"])
def test_a_torch_that_may_run_what_it_reads_is_refused(version, tmp_path, monkeypatch):
    (tmp_path / "weights.pth").touch()
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    monkeypatch.setattr(sys.modules["torch"], "__version__", version, raising=False)
    with pytest.raises(ValueError, match=rf"torch {version.partition('+')[0]}.* 2.10 or newer"):
        pretrained.read(tmp_path / "weights.pth")


# Another run.


def run_like(shapes, seed=0):
    """Random variables of these shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(rng.standard_normal(leaf.shape)), shapes)


def test_another_run_gives_the_modules_that_fit():
    shapes = small_shapes()
    theirs, ours = run_like(shapes), run_like(shapes, seed=1)
    theirs["params"]["head"] = {"kernel": np.ones((9, 3)), "bias": np.ones(3)}
    theirs["params"]["old"] = {"bias": np.ones(2)}
    # A bias that fits does not come without its kernel, nor into a module that has more.
    theirs["params"]["long"] = {
        "a": {"kernel": np.ones((2, 3)), "bias": np.ones(4)},
        "b": {"bias": np.ones(4)},
    }
    ours["params"]["long"] = {
        "a": {"kernel": np.zeros((2, 4)), "bias": np.zeros(4)},
        "b": {"bias": np.zeros(4)},
    }
    theirs["params"]["short"] = {"bias": np.ones(4)}
    ours["params"]["short"] = {"bias": np.zeros(4), "kernel": np.zeros((2, 4))}
    variables, report = pretrained.adopt(theirs, ours, "runs/a, step 3")
    found = flat(variables)
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, flat(theirs if name in report.loaded else ours)[name])
    assert {name for name in report.loaded if "trunk" not in name} == {"params/long/b/bias"}
    other = "another array of its module does not fit"
    assert report.unused == {
        "params/head/kernel": "expected shape (9, 7), got (9, 3)",
        "params/head/bias": "expected shape (7,), got (3,)",
        "params/old/bias": "the network has no such variable",
        "params/long/a/kernel": "expected shape (2, 4), got (2, 3)",
        "params/long/a/bias": other,
        "params/short/bias": other,
    }
    assert report.lines()[0] == "loaded 41 of 47 arrays of runs/a, step 3 into long, trunk"
    assert report.lines()[-1] == "randomly initialized: head, long/a, short"


def test_another_run_with_another_trunk_is_refused():
    resnet18 = run_like(shapes_of(trunks.create("resnet18", dtype=jnp.float32)))
    with pytest.raises(ValueError, match=r"runs/a does not fit the trunk: .* = 'resnet18'"):
        pretrained.adopt(resnet18, small_shapes("resnet50"), "runs/a")


def test_a_map_of_another_size_is_refused_with_the_setting_that_makes_it():
    trunk = trunks.create("resnet8_narrow", dtype=jnp.float32)
    theirs, ours = run_like(shapes_of(trunk)), shapes_of(trunk)
    theirs["params"]["trunk"]["embed"]["kernel"] = np.ones((7, 128), np.float32)
    with pytest.raises(ValueError, match=r"embed/kernel: .*\(7, 128\).*config.augment.size"):
        pretrained.adopt(theirs, ours, "runs/a")
    with pytest.raises(ValueError, match=r"config.model.trunk = 'resnet8_narrow'"):
        pretrained.adopt(theirs, small_shapes(), "runs/a")


# Training starts from them.


def settings(data_dir, init_from=""):
    """A network that compiles fast, and steps that change its statistics but no weights."""
    config = tiny.config(
        data={"dir": str(data_dir)},
        model={"name": "resnet_lstm"},
        optim={"learning_rate": 0.0, "final_learning_rate": 0.0},
        agreement={"teacher_decay": 0.5, "memory_decay": 0.0},
        train={"duration": "1 steps", "tensorboard": False},
    )
    return config_lib.resolve(config_lib.to_dict(config) | {"init_from": str(init_from)})


def new_state(config, network, num_classes, seed):
    return state_lib.create(config, network, num_classes=num_classes, num_train=11, seed=seed)


@pytest.fixture(scope="module")
def other_run(tiny_data, tmp_path_factory):
    """The workdir of a run with two checkpoints, and the variables of the last."""
    workdir, config = tmp_path_factory.mktemp("other"), settings(tiny_data.dir)
    network = models.create(config, 3, "cpu")
    state = jax.jit(lambda seed: new_state(config, network, 3, seed))(np.uint32(5))
    with Checkpoints(workdir, keep=2) as checkpoints:
        earlier = state.replace(params=jax.tree.map(np.zeros_like, state.params))
        checkpoints.save(1, earlier, None)
        checkpoints.save(2, state, None)
    return workdir, jax.device_get(state.variables)


def assert_equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_last_variables_of_a_run_are_read_and_its_folder_is_left_alone(other_run):
    workdir, expected = other_run
    unfinished = workdir / "checkpoints" / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(workdir.rglob("*"))
    step, variables = last_variables(workdir)
    assert step == 2
    assert_equal(variables, expected)
    assert sorted(workdir.rglob("*")) == before
    unfinished.rmdir()


def test_a_folder_that_is_no_run_is_refused_and_nothing_is_made_in_it(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="is not the folder of a run"):
        last_variables(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointNotFoundError, match="holds no checkpoint"):
        last_variables(tmp_path)


@pytest.fixture
def one_device(monkeypatch):
    """Training on one of the simulated devices, for which programs compile faster."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda: mesh)
    return mesh


def test_training_starts_from_another_run_and_resumes_without_it(
    other_run, one_device, tiny_data, tmp_path, caplog, monkeypatch
):
    caplog.set_level("INFO", "rdfer_jax")
    # Evaluation compiles longer than all that is meant here.
    monkeypatch.setattr(train.Evaluations, "evaluate", lambda *_: None)
    monkeypatch.setattr(loop.Loop, "_score", lambda *_: {})
    monkeypatch.setattr(train, "evaluate_and_save", lambda *_, **__: {})
    given, theirs = other_run
    source_run, workdir = tmp_path / "source", tmp_path / "run"
    shutil.copytree(given, source_run)

    # A mistake leaves nothing behind that would hinder the next try in the same folder.
    with pytest.raises(FileNotFoundError, match=r"config.init_from = .*missing.pth"):
        train.train(settings(tiny_data.dir, tmp_path / "missing.pth"), workdir)
    assert not (workdir / "config.json").exists()

    train.train(settings(tiny_data.dir, source_run), workdir)
    assert f"arrays of {source_run}, step 2 into" in caplog.text
    assert "randomly initialized" not in caplog.text
    step, ours = last_variables(workdir)
    assert step == 1
    assert_equal(ours["params"], theirs["params"])
    kept = json.loads((workdir / "config.json").read_text())
    assert kept["init_from"] == str(source_run)

    # The same command again goes on, even where the other run is gone; another start is refused.
    caplog.clear()
    shutil.rmtree(source_run)
    train.train(settings(tiny_data.dir, source_run), workdir)
    assert "resuming from step 1" in caplog.text and "loaded" not in caplog.text
    assert_equal(last_variables(workdir)[1], ours)
    with pytest.raises(ValueError, match=r"config.init_from = .*source', now ''"):
        train.train(settings(tiny_data.dir), workdir)


def test_the_teacher_and_the_optimizer_begin_with_the_weights(other_run, tmp_path):
    given, theirs = other_run
    config = settings(tmp_path)
    network = models.create(config, 4, "cpu")  # one class more
    state = jax.jit(lambda seed: new_state(config, network, 4, seed))(np.uint32(0))
    found = train.initialized(state, str(given))
    assert_equal(found.teacher, found.variables)
    assert_equal(found.params["trunk"], theirs["params"]["trunk"])
    assert_equal(found.params["head"], state.params["head"])
    assert_equal(found.batch_stats, theirs["batch_stats"])
    assert (found.step, found.seed) == (state.step, state.seed)
    # Each part in memory of its own, so that the whole state can be given to a step.
    jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)(found)
