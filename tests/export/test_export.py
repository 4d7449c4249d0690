"""Exported networks, read back by programs that know nothing of this package."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import tiny
from etils import epath
from flax import linen as nn
from onnx import numpy_helper

from rdfer_jax import __version__, main, models
from rdfer_jax.export import exporter, onnx_convert, quantize, runtime
from rdfer_jax.models import convolution
from rdfer_jax.predict import exported, trained
from rdfer_jax.state import TrainState

pytestmark = pytest.mark.slow

#: Reads a StableHLO file with JAX alone.
WITH_JAX = """
import sys
import numpy as np
from jax import export
folder = sys.argv[1]
model = export.deserialize(bytearray(open(f"{folder}/model.stablehlo", "rb").read()))
assert model.platforms == ("cpu", "cuda", "tpu"), model.platforms
found = model.call(np.load(f"{folder}/frames.npy"))
np.savez(f"{folder}/stablehlo.npz", **found)
assert not {"rdfer_jax", "flax"} & set(sys.modules)
"""
#: Reads an ONNX file as a user without JAX does, by what its metadata say.
WITH_ONNX = """
import json, sys
import numpy as np
import onnxruntime
folder = sys.argv[1]
session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
card = json.loads(session.get_modelmeta().custom_metadata_map["rdfer"])
names = list(card["outputs"])
found = session.run(names, {card["input"]["name"]: np.load(f"{folder}/frames.npy")})
np.savez(f"{folder}/onnx.npz", **dict(zip(names, found)))
assert not {"rdfer_jax", "jax"} & set(sys.modules)
"""


def run_python(code, folder):
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def random_network(config):
    """A network as Trained holds it, with random weights and statistics."""
    config = trained.for_video(config)
    network = models.create(config, 3, "cpu")
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    found = jax.tree.map(lambda leaf: np.float32(rng.uniform(0.1, 0.5, leaf.shape)), shapes)
    params = jax.tree.map(lambda leaf: leaf - 0.3 * (leaf.ndim > 1), found["params"])
    state = TrainState(
        seed=jnp.uint32(0), step=jnp.int32(0), params=params,
        batch_stats=found.get("batch_stats", {}), opt_state=(), teacher=None, memory=None,
    )  # fmt: skip
    return trained.Trained(config, ("a", "b", "c"), {}, {}, "", state, None)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """A folder with the exported network and frames, and what the predict step says of them."""
    folder = tmp_path_factory.mktemp("exported")
    main.main(["export", f"--output={folder}"])
    frames = np.random.default_rng(7).integers(0, 256, (2, 16, 48, 48, 3), dtype=np.uint8)
    np.save(folder / "frames.npy", frames)
    found = trained.from_package("faces").predict(frames, np.ones(2, bool))
    named = {name: getattr(found, name) for name in trained.OUTPUTS}
    return folder, {name: array for name, array in named.items() if array is not None}


@pytest.mark.e2e
def test_jax_alone_reads_the_stablehlo_bit_by_bit(packaged):
    folder, expected = packaged
    run_python(WITH_JAX, folder)
    found = np.load(folder / "stablehlo.npz")
    assert set(found) == set(expected) > {"logits", "clip_logits", "agreement", "instants"}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.e2e
def test_onnx_runtime_and_numpy_alone_read_the_onnx(packaged):
    folder, expected = packaged
    run_python(WITH_ONNX, folder)
    found = np.load(folder / "onnx.npz")
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)


def test_the_card_is_in_the_folder_and_in_the_onnx_file(packaged):
    folder, expected = packaged
    card = json.loads((folder / "model.json").read_text())
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {prop.key: prop.value for prop in model.metadata_props} == {
        "rdfer": (folder / "model.json").read_text()
    }
    assert runtime.load(folder / "model.onnx").card == card
    assert card["input"] == {
        "name": "frames", "dtype": "uint8", "shape": ["B", 16, 48, 48, 3], "colors": "RGB"
    }  # fmt: skip
    for name, array in expected.items():
        entry = {"dtype": str(array.dtype), "shape": ["B", *array.shape[1:]]}
        assert card["outputs"][name] == entry
    assert card["classes"] == list(trained.from_package("faces").classes)
    assert card["version"] == __version__ and card["model"]["checkpoint"] == "packaged"
    assert card["temperature"] == pytest.approx(0.678, abs=1e-3) and card["mirror"]
    assert (card["fps"], card["window"], card["snippet"]) == (10.0, 3.0, 1)
    assert card["faces"]["detector"] == "blazeface" and card["faces"]["margin"] == 0.1
    assert "83.8%" in card["card"]["text"] and card["card"]["source"].endswith("faces.md")
    assert card["largest_difference_from_the_network"]["stablehlo"] == 0
    assert 0 < card["largest_difference_from_the_network"]["onnx"] < 1e-5


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"image_size": 20}},
        {"model": {"name": "resnet_lstm"}},
        {
            "model": {"trunk": "vit_narrow"},
            "data": {"image_size": 32},
            "augment": {"size": 32},
            "agreement": {"measure": "vote"},
        },
        {"augment": {"eval_crops": 5, "gray": True}, "data": {"image_size": 24, "snippet": 2}},
    ],
    ids=["rdfer", "resnet_lstm", "vit", "snippets and crops"],
)
def test_onnx_equals_jax(sections):
    network = random_network(tiny.config(**sections))
    data = network.config.data
    shape = (data.frames, data.image_size, data.image_size, 3)
    model = onnx_convert.convert(network.function(), shape, "frames")
    session = runtime.Session(model.SerializeToString())
    frames = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    expected = jax.jit(network.function())(frames)
    assert ("key_instants" in expected) == (network.config.model.name == "rdfer")
    assert np.ptp(expected["logits"]) > 1e-3  # says something
    for videos in (4, 1):
        found = session(frames[:videos])
        assert set(found) == set(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_allclose(found[name], array[:videos], atol=1e-5, err_msg=name)


def pooled(x):
    return nn.max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))


def in_time(x):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 3, 2)).astype(np.float32)
    return convolution.conv3d(x, kernel, (2, 1, 1), [(1, 1)] * 3)


def backwards(x):
    return jax.lax.scan(lambda c, row: (c + row, c * row), 0 * x[:, 0], x.swapaxes(0, 1)[::-1])[1]


@pytest.mark.parametrize("layer", [pooled, in_time, backwards])
def test_layers_equal_jax(layer):
    def function(frames):
        return {"logits": layer(frames.astype(jnp.float32) / 255 - 2.0)}

    exporter.checked_onnx(function, (4, 6, 8, 3))  # refuses a difference


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="this network has the operation 'sort'"):
        onnx_convert.convert(lambda frames: {"logits": jnp.sort(frames)}, (2,), "frames")
    drawn = tiny.config(augment={"per": "clip", "eval_views": "augmented"})
    with pytest.raises(ValueError, match=r"random numbers.*--formats=stablehlo"):
        onnx_convert.convert(random_network(drawn).function(), (6, 16, 16, 3), "frames")

    def function(frames):
        return {"logits": frames.astype(jnp.float32).mean(axis=(1, 2))}

    convert = onnx_convert.convert
    monkeypatch.setattr(
        onnx_convert, "convert",
        lambda function, *rest: convert(lambda x: {"logits": function(x)["logits"] + 1e-3}, *rest),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"logits of the ONNX file differs .* by 0\.001"):
        exporter.write(function, (2, 3), {}, tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--formats=onyx"], "--formats: expected some of stablehlo, onnx, got 'onyx'"),
        (["--formats="], "--formats: expected some of stablehlo, onnx, got none"),
        (["--quantize=int4"], "--quantize: expected one of none, int8, got 'int4'"),
        (["--formats=stablehlo", "--quantize=int8"], "it is for ONNX, which --formats leaves out"),
    ],
)
def test_wrong_flags_are_told(tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        main.main(["export", f"--output={tmp_path / 'out'}", *flags])


def test_without_the_packages_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("onnx_convert", "onnx_graph", "onnx_rules"):
        monkeypatch.delitem(sys.modules, f"rdfer_jax.export.{name}")
        monkeypatch.delattr(sys.modules["rdfer_jax.export"], name)
    with pytest.raises(
        SystemExit, match=r"needs the package onnx.*pip install 'rdfer-jax\[export\]'"
    ):
        main.main(["export", f"--output={tmp_path}", "--formats=onnx"])
    assert not list(epath.Path(tmp_path).iterdir())


def test_int8_weights_are_rounded_by_channel_and_a_quarter_as_large(packaged):
    folder, expected = packaged
    whole = onnx.load(folder / "model.onnx")
    small = quantize.int8_weights(whole)
    onnx.checker.check_model(small)
    assert small.ByteSize() < 0.3 * whole.ByteSize()
    weights = {weight.name: numpy_helper.to_array(weight) for weight in small.graph.initializer}
    before = {weight.name: numpy_helper.to_array(weight) for weight in whole.graph.initializer}
    restored = [node for node in small.graph.node if node.op_type == "DequantizeLinear"]
    assert len(restored) >= 13
    for node in restored:
        numbers, scale = (weights[name].astype(np.float32) for name in node.input[:2])
        (axis,) = (attribute.i for attribute in node.attribute)
        sides = [-1 if place == axis else 1 for place in range(numbers.ndim)]
        original = before[node.input[0].rsplit("_", 2)[0]]
        step = scale.reshape(sides)
        assert np.all(np.abs(numbers * step - original) <= 0.501 * step)
    found = runtime.Session(small.SerializeToString())(np.load(folder / "frames.npy"))
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=0.2)
    assert np.abs(found["logits"] - expected["logits"]).max() > 1e-5


def test_the_terminal_says_what_was_written(packaged):
    folder, _ = packaged
    card = json.loads((folder / "model.json").read_text())
    text = exported.describe(card, folder)
    assert "model.stablehlo: equals the network bit by bit" in text
    assert "model.onnx: equals the network to" in text and str(folder) in text
