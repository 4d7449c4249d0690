"""Pretraining as a run: it resumes, leaves weights to train from, and refuses what it cannot use."""

import contextlib
import dataclasses
import io
import shutil
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
import tiny

from rdfer_jax import commands, models, sharding
from rdfer_jax import config as config_lib
from rdfer_jax import state as state_lib
from rdfer_jax.models import pretrained
from rdfer_jax.training import evaluate, pretrain, run_dir, train
from rdfer_jax.training.checkpoint import last_variables
from rdfer_jax.training.writers import read_metrics

pytestmark = pytest.mark.slow

STEPS = 12


def settings(root, **sections):
    """A tiny run: 16 patches of 8 pixels in a frame, two clips of two steps."""
    return tiny.config(
        **{
            "data": {"dir": str(root), "image_size": 32, "batch_size": 8},
            "augment": {"size": 32, "crop_area": (0.7, 1.0)},
            "clips": {"number": 2, "frames": 4},
            "model": {"trunk": "videovit_narrow"},
            "pretrain": {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
            "optim": {"learning_rate": 1e-2, "warmup": "0 steps", "beta2": 0.95},
            "train": {
                "duration": f"{STEPS} steps", "save_every": f"{STEPS // 2} steps",
                "log_every": "1 steps", "tensorboard": False, "shard_parameters": "always",
            },
        }
        | sections
    )  # fmt: skip


def waves(number, frame):
    """A picture of waves that move, as JPEG."""
    x = np.arange(32)
    wave = np.sin(x / 3 + frame / 2)[:, None] + np.cos(x / 4 + number)[None]
    picture = np.repeat(np.uint8(127 + 60 * wave)[..., None], 3, axis=-1)
    return cv2.imencode(".jpg", picture)[1].tobytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set of waves."""
    root = tmp_path_factory.mktemp("waves")
    given = tiny.records()
    for records in given.values():
        for number, one in enumerate(records):
            one["frames"] = [waves(number, frame) for frame in range(len(one["frames"]))]
    tiny.build(root, given)
    return root


@pytest.fixture(scope="module")
def compiled():
    """The steps of the first run by their devices: those of a later run with the same would be equal."""
    steps, build = {}, pretrain.PretrainSetup.train_step

    def train_step(self):
        return steps.setdefault(self.mesh, build(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain.PretrainSetup, "train_step", train_step)
        yield


@pytest.fixture(scope="module")
def run(root, tmp_path_factory, compiled):
    """The folder of a finished run on all devices, started as by `rdfer pretrain`."""
    workdir = tmp_path_factory.mktemp("pretrain") / "run"
    given = {"config": config_lib.to_dict(settings(root)), "workdir": str(workdir)}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        commands.pretrain(SimpleNamespace(**given, coordinator=None, multihost=False))
    loss = read_metrics(workdir)[-1]["loss"]
    assert f"loss {loss:.3f}; weights in {workdir}/encoder.safetensors" in printed.getvalue()
    return workdir


def losses(workdir):
    rows = read_metrics(workdir)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [row["loss"] for row in rows]


def test_the_loss_falls(run):
    found = losses(run)
    assert found[0] > 0.9 and np.mean(found[-3:]) < 0.95 * found[0]
    assert (run / "training_curves.png").exists()


def test_resumes_bit_for_bit(root, run, tmp_path):
    resumed = tmp_path / "run"
    shutil.copytree(run, resumed)
    shutil.rmtree(resumed / "checkpoints" / str(STEPS))
    (resumed / pretrain.WEIGHTS).unlink()
    pretrain.pretrain(settings(root), resumed)
    assert losses(resumed) == losses(run)
    assert (resumed / pretrain.WEIGHTS).read_bytes() == (run / pretrain.WEIGHTS).read_bytes()


def test_one_device_in_two_parts_finds_the_same_losses_as_eight(root, run, tmp_path, monkeypatch):
    assert len(jax.devices()) == 8
    mesh = sharding.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda: mesh)
    config = settings(root, model={"trunk": "videovit_narrow", "remat": True})
    optim = dataclasses.replace(config.optim, accumulate=2)
    pretrain.pretrain(dataclasses.replace(config, optim=optim), tmp_path)
    np.testing.assert_allclose(losses(tmp_path), losses(run), rtol=1e-3)


def test_training_starts_from_its_weights_or_from_its_folder(root, run):
    config = settings(root)
    network = models.create(config, 3, "cpu")
    shapes = jax.eval_shape(
        lambda: state_lib.create(config, network, num_classes=3, num_train=11)
    ).variables
    step, theirs = last_variables(run)
    assert step == STEPS
    for found, report in (
        pretrained.load(run / pretrain.WEIGHTS, shapes),
        pretrained.adopt(theirs, shapes, "run"),
    ):
        jax.tree.map(
            np.testing.assert_array_equal, found["params"]["trunk"], theirs["params"]["trunk"]
        )
        assert not [name for name in report.fresh if "/trunk/" in name]
        unused = set(report.unused)
        assert any("decoder" in name for name in unused) and any("mask" in name for name in unused)


def test_its_folder_is_not_that_of_a_classifier(root, run):
    for read in (
        run_dir.read,
        lambda folder: train.train(settings(root), folder),
        lambda folder: evaluate.evaluate(settings(root), folder),
    ):
        with pytest.raises(ValueError, match=r"a run of rdfer pretrain, .* config\.init_from"):
            read(run)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"model": {}}, "config.model.trunk: expected a video transformer .*videomae_b16.*resnet8"),
        ({"pretrain": {"mask_ratio": 0.05}}, "mask_ratio: 0.05 of the 16 patches .* are 0; exp"),
        ({"pretrain": {"mask_ratio": 1.0}}, "mask_ratio: 1.0 of the 16 patches .* are 16; exp"),
        ({"augment": {"size": 32, "mixup": 0.8}}, "augment.mixup: expected 0.0 in pre.*, got 0.8"),
        ({"batch": 16}, "data.batch_size: expected at most 11, .*waves.*, got 16"),
    ],
)
def test_what_cannot_be_pretrained_is_an_error(root, tmp_path, sections, expected):
    if "augment" in sections:
        sections = sections | {"loss": {"method": "cross_entropy"}}
    if batch := sections.get("batch"):
        sections = {"data": {"dir": str(root), "image_size": 32, "batch_size": batch}}
    with pytest.raises(ValueError, match=expected):
        pretrain.pretrain(settings(root, **sections), tmp_path)
    assert not (tmp_path / "data.json").exists()
