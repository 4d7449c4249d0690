"""The step benchmark: its ratios, a configured network, and that the PyTorch twin is the same network."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from benchmarks import step
from rdfer_jax import config as config_lib
from rdfer_jax import models
from rdfer_jax.models import pretrained

pytestmark = pytest.mark.slow


def test_ratios_are_to_pytorch_at_as_many_frames():
    def row(name, frames, train, predict, gflops):
        return {
            "name": name,
            "frames": frames,
            "train": train,
            "predict": predict,
            "gflops": gflops,
            "memory_per_video": None,
        }

    rows = [
        row("ours", 16, 6, 30, 2.0),
        row("M3DFEL, PyTorch", 16, 3, 10, None),
        row("ours", 64, 2, 8, 9.0),
    ]
    found = step.compare(rows, rate=100e9)
    assert [(r["train_ratio"], r["predict_ratio"]) for r in found] == [(2, 3), (1, 1), (None, None)]
    # Three passes of 2 GFLOP, six times a second, of 100 GFLOP/s.
    assert found[0]["train_mfu"] == pytest.approx(0.36)
    assert found[0]["predict_mfu"] == pytest.approx(0.6)


def test_a_configured_network_trains_and_predicts():
    config = tiny.config(data={"batch_size": 2})
    found = step.ours("tiny", config)
    found.predict()
    found.train()
    found.train()  # the state of the first goes on
    assert found.frames == 6 and found.flops > 1e5 and found.memory > 1e5


@pytest.mark.parametrize("family", step.FAMILIES)
def test_settings_are_those_of_the_paper_at_the_asked_length(family):
    entries, size = step.FAMILIES[family]
    for entry in entries:
        for frames in (16, 64):
            config = step.paper_scale(entry, frames, 3, size)
            own = config_lib.resolve(entry.config.get_config())
            assert config.model == dataclasses.replace(own.model, remat=entry.remat)
            assert config.data.frames == frames and config.data.batch_size == 3
            assert config.augment.size == size <= config.data.image_size
            if entry.title.startswith("rdfer_jax"):
                assert config.clips == own.clips and config.key.enabled
            else:  # as in PyTorch
                assert (config.clips.number, config.clips.frames) == (1, frames)


@pytest.mark.torch
def test_the_pytorch_twin_is_the_same_network(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from benchmarks import torch_m3dfel

    torch.manual_seed(0)
    twin = torch_m3dfel.M3DFEL(7, 16).eval()
    with torch.no_grad():
        for name, array in twin.state_dict().items():
            if "running_var" in name:
                array.uniform_(0.5, 1.5)
            elif "running_mean" in name or name.startswith("dmin"):
                array.normal_(0, 0.5)
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 32, 3), np.uint8)
    with torch.no_grad():
        expected = twin(torch.tensor(frames)).numpy()

    config = step.paper_scale(step.M3DFEL, 16, 2, 112)
    network = models.create(config, 7, "cpu")
    trunk = {k.removeprefix("trunk."): v for k, v in twin.state_dict().items() if "trunk" in k}
    save_file(
        trunk | {"fc.weight": torch.zeros(400, 512), "fc.bias": torch.zeros(400)},
        tmp_path / "trunk.safetensors",
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    variables, _ = pretrained.load(tmp_path / "trunk.safetensors", shapes)
    params = variables["params"] | rest(twin, shapes["params"])
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda s: s.shape, shapes["params"])
    found = network.read_clips(
        variables | {"params": params},
        (frames / 255).astype(np.float32),
        np.arange(16, dtype=np.int32)[None, None].repeat(2, axis=0),
        False,
    )
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found.outputs.video_logits, expected, rtol=1e-4, atol=1e-4)


def rest(twin, shapes):
    """What follows the trunk, from torch's names and axes to Flax'."""
    state = {name: array.numpy() for name, array in twin.state_dict().items()}
    dliam = {
        "qkv": {"kernel": state["qkv.weight"].T.reshape(shapes["dliam"]["qkv"]["kernel"].shape)},
        "dmin": {key: state[f"dmin.{key}"] for key in ("mean_mix", "var_mix", "scale", "bias")},
        "pool": {"kernel": state["pool.weight"].transpose(2, 1, 0), "bias": state["pool.bias"]},
    }
    for layer in range(2):
        for way, suffix in (("forward", ""), ("backward", "_reverse")):
            cell = {}
            for kind in "ih":
                kernels = np.split(state[f"lstm.weight_{kind}h_l{layer}{suffix}"], 4)
                cell |= {
                    f"{kind}{g}": {"kernel": k.T} for g, k in zip("ifgo", kernels, strict=True)
                }
            bias = sum(state[f"lstm.bias_{kind}h_l{layer}{suffix}"] for kind in "ih")
            for gate, part in zip("ifgo", np.split(bias, 4), strict=True):
                cell[f"h{gate}"]["bias"] = part
            dliam[f"lstm{layer}_{way}"] = cell
    head = {"kernel": state["head.weight"].T, "bias": state["head.bias"]}
    return {"dliam": dliam, "head": head}
