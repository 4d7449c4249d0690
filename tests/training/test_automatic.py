"""Settings that are "auto": what is chosen, that it is stored, and that what does not fit is refused."""

import dataclasses
import json
import logging
import types

import jax
import numpy as np
import pytest
import tiny

from rdfer_jax import cli, config_files, sharding, weights
from rdfer_jax import config as config_lib
from rdfer_jax.training import automatic, evaluate, memory_limit, run_dir, train
from rdfer_jax.training.automatic import Facts
from rdfer_jax.training.setup import ModelSetup, Setup

GPU = Facts(20_000, None, "gpu", 1, int(141e9))
CPU = Facts(18, None, "cpu", 1, int(20e9))


def own(*words):
    """The settings of --config=video_folder, with splits as built from folders of classes."""
    call = cli.parse(["train", "--config=video_folder", "--workdir=x", *words])
    config = config_lib.resolve(call.flags.config)
    return automatic.choose_splits(config, ("train", "test"))


def test_few_clips_on_a_cpu_get_a_run_of_minutes(caplog):
    with caplog.at_level(logging.INFO):
        config = automatic.choose(own(), CPU)
    assert config.auto == () and config.init_from == "faces" and config.augment.gray
    assert config.model.trunk == weights.load("faces").config.model.trunk
    assert (config.data.batch_size, config.train.duration) == (8, "60 epochs")
    assert (config.train.eval_every, config.data.validation_percent) == ("5 %", 0)
    # No more videos than the demo of 4,000 clips and five epochs reads, and smaller ones than 64 pixels.
    assert 18 * 60 <= 4000 * 5 and config.data.frames * config.augment.size**2 <= 16 * 56**2
    scratch = automatic.choose(own("--config.init_from="), CPU)
    assert (scratch.init_from, scratch.model.trunk) == ("", "resnet8_narrow")
    assert scratch.train.duration == "200 epochs" and not scratch.augment.gray
    said = caplog.text
    assert "settings for 18 clips to train on, 1 CPU with 20 GB of free memory" in said
    for name in own().auto:
        if not name.endswith("_split"):
            assert f"config.{name} = " in said, name


def test_many_clips_on_a_gpu_get_the_full_size():
    config = automatic.choose(own(), GPU)
    full = config_lib.Config()
    assert config.init_from == ""
    for section in ("augment", "clips", "key", "model"):
        assert getattr(config, section) == getattr(full, section)
    names = ("frames", "image_size", "batch_size", "eval_batch_size")
    assert [getattr(config.data, n) for n in names] == [getattr(full.data, n) for n in names]
    assert config.train.duration == full.train.duration and config.data.validation_percent == 10


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"train": 1}, {"data.batch_size": 8}),
        ({"train": 999, "platform": "gpu"}, {"model.trunk": "resnet10_narrow"}),
        ({"train": 1000, "platform": "gpu"}, {"model.trunk": "resnet18"}),
        (
            {"train": 300, "platform": "gpu"},
            {"model.trunk": "resnet10_narrow", "data.batch_size": 64},
        ),
        ({"train": 300}, {"data.batch_size": 32, "data.validation_percent": 10.0}),
        ({"train": 300, "people": 1}, {"data.validation_percent": 0.0}),
        ({"train": 20_000}, {"train.duration": "5 epochs", "train.eval_every": "1 epochs"}),
        ({"train": 20_000, "platform": "gpu", "memory": int(12e9)}, {"data.batch_size": 16}),
        ({"train": 20_000, "platform": "gpu", "memory": None}, {"data.batch_size": 128}),
        ({"train": 22, "platform": "tpu", "devices": 32}, {"data.batch_size": 32}),
        ({"train": 20_000, "platform": "tpu", "devices": 3}, {"data.batch_size": 129}),
    ],
)
def test_rules(facts, expected):
    config = automatic.choose(own(), dataclasses.replace(CPU, **facts))
    tree = config_lib.to_dict(config)
    assert {name: tree[name.split(".")[0]][name.split(".")[1]] for name in expected} == expected
    assert config.data.batch_size % dataclasses.replace(CPU, **facts).devices == 0


def test_what_is_set_by_hand_stays_and_the_rest_fits_it():
    words = ("--config.data.frames=4", "--config.augment.size=112", "--config.data.batch_size=6")
    config = automatic.choose(own(*words, "--config.train.duration=3 epochs"), CPU)
    assert (config.data.frames, config.augment.size, config.data.batch_size) == (4, 112, 6)
    assert (config.clips.frames, config.data.image_size) == (4, 128)
    assert (config.train.duration, config.train.eval_every) == ("3 epochs", "1 epochs")
    big = automatic.choose(own("--config.model.trunk=resnet18"), CPU)
    assert (big.model.width, big.model.instants, big.init_from) == (256, 16, "")
    assert automatic.choose(own("--config.model.name=resnet_lstm"), CPU).init_from == ""
    assert automatic.choose(own("--config.augment.gray=False"), CPU).augment.gray is False
    with pytest.raises(
        ValueError, match=r"key.frames: expected at most config.data.frames = 2, got 4"
    ):
        automatic.choose(own("--config.data.frames=2"), CPU)


def test_weights_decide_the_trunk(tmp_path):
    assert automatic.choose(own("--config.init_from=a.safetensors"), CPU).model.trunk == "resnet18"
    others = {
        "run": tiny.config(model={"trunk": "resnet50"}),
        "faces": weights.load("faces").config,
    }
    (tmp_path / "config.json").write_text(json.dumps(config_lib.to_dict(others["run"])))
    for name, source in (("run", str(tmp_path)), ("faces", "faces")):
        config = automatic.choose(own(f"--config.init_from={source}"), CPU)
        for key in ("trunk", "width", "long_layers"):
            assert getattr(config.model, key) == getattr(others[name].model, key)
        assert config.data.image_size == others[name].data.image_size and config.data.frames == 16
        assert config.augment.size == others[name].augment.size


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "test"), ("test", "")),
        (("train", "validation", "test"), ("test", "validation")),
        (("train", "validation"), ("validation", "")),
    ],
)
def test_stored_splits_are_used(names, expected):
    config = config_lib.resolve(config_files.load("video_folder"))
    data = automatic.choose_splits(config, names).data
    assert (data.test_split, data.validation_split) == expected
    chosen = automatic.choose(automatic.choose_splits(config, names), GPU).data
    assert chosen.validation_percent == (0 if expected[1] else 10)


def test_every_number_may_be_auto_on_the_command_line_and_nothing_else_is_a_word():
    call = cli.parse(["train", "--config=dfew", "--workdir=x", "--config.data.batch_size=auto"])
    assert config_lib.resolve(call.flags.config).auto == ("data.batch_size",)
    with pytest.raises(cli.UsageError, match=r"batch_size=many: .*expected a number or auto"):
        cli.parse(["train", "--config=dfew", "--workdir=x", "--config.data.batch_size=many"])
    with pytest.raises(cli.UsageError, match=r"gray=maybe: .*expected True, False or auto"):
        cli.parse(["train", "--config=dfew", "--workdir=x", "--config.augment.gray=maybe"])
    with pytest.raises(ValueError, match=r"config.data.num_threads: expected int, got 'auto'"):
        config_lib.resolve({"data": {"num_threads": "auto"}})
    with pytest.raises(
        ValueError, match=r"config.data.batch_size = 'auto': it is chosen for a data set"
    ):
        ModelSetup(config_lib.resolve(call.flags.config), sharding.make_mesh(), 3, 9)


def test_settings_to_choose_survive_json():
    config = config_lib.resolve(config_files.load("video_folder"))
    again = config_lib.resolve(json.loads(json.dumps(config_lib.to_dict(config))))
    assert again == config and "data.frames" in config.auto


def test_a_stored_split_may_choose_the_best_checkpoint(tmp_path):
    records = tiny.records()
    tiny.build(tmp_path, records | {"validation": records["test"][:3]})
    data = {"dir": str(tmp_path), "validation_split": "validation", "eval_batch_size": 8}
    setup = Setup.create(tiny.config(data=data))
    assert (len(setup.train), len(setup.validation), len(setup.test)) == (11, 3, 5)
    with pytest.raises(
        ValueError, match=r"validation_split = 'test': 'test' is also trained or tested on"
    ):
        Setup.create(tiny.config(data=data | {"validation_split": "test"}))
    with pytest.raises(
        ValueError, match=r"validation_percent: expected 0 with config.data.validation_split"
    ):
        tiny.config(data=data | {"validation_percent": 10.0})


# Memory.


class Step:
    """Stands in for a jitted step that needs some bytes."""

    def __init__(self, size):
        self.size = size

    def lower(self, *_):
        return self

    def compile(self):
        return self

    def memory_analysis(self):
        return types.SimpleNamespace(
            temp_size_in_bytes=self.size, output_size_in_bytes=10, alias_size_in_bytes=10
        )


@pytest.mark.parametrize(
    ("size", "free", "batch", "said"),
    [
        (77e9, 20e9, 128, "needs 77 GB of memory with config.data.batch_size = 128, and 20 GB are free on "
         "each device; set config.data.batch_size to 16 or less"),
        (77e9, 20e9, 3, "lower config.data.frames and config.augment.size, or set config.model.trunk"),
        (19e9, 20e9, 8, "set config.data.batch_size to 4 or less"),
        (17e9, 20e9, 8, None),
        (77e9, None, 8, None),
    ],
)  # fmt: skip
def test_a_step_that_does_not_fit_is_refused_with_the_setting_that_would(
    monkeypatch, caplog, size, free, batch, said
):
    monkeypatch.setattr(memory_limit, "available", lambda mesh: free)
    arguments = (Step(size), (), sharding.make_mesh(jax.devices()[:1]))
    what = "training step, config.data.batch_size"
    if said is None:
        with caplog.at_level(logging.INFO):
            memory_limit.compile_and_check(*arguments, what, batch)
        assert "compiling the training step ..." in caplog.text
        assert f"compiled the training step in 0 s; it needs {size / 1e9:.2g} GB" in caplog.text
        return
    with pytest.raises(memory_limit.MemoryTooSmallError) as error:
        memory_limit.compile_and_check(*arguments, what, batch)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_estimate_is_at_least_the_largest_array_and_the_machine_is_asked():
    step = jax.jit(lambda x: jax.numpy.sort(x @ x.T).sum())
    compiled = step.lower(jax.ShapeDtypeStruct((3000, 10), np.float32)).compile()
    assert 4 * 3000**2 <= memory_limit.needed(compiled) < 10 * 3000**2 * 4
    free = memory_limit.available(sharding.make_mesh())
    assert free is not None and 1e8 < free < 1e14


# A run.


@pytest.mark.slow
def test_a_run_keeps_what_was_chosen_and_every_command_reads_it(tmp_path, monkeypatch, caplog):
    tiny.build(tmp_path)
    settings = config_lib.to_dict(tiny.config(data={"dir": str(tmp_path), "eval_batch_size": 8}))
    settings["data"] |= {"batch_size": "auto", "validation_percent": "auto"}
    settings["train"] |= {"duration": "auto", "eval_every": "auto", "tensorboard": False}
    config = config_lib.resolve(settings)
    monkeypatch.setattr(automatic, "_MOST_EPOCHS", {False: 2})
    monkeypatch.setattr(automatic, "_VISITS", {False: 22})
    monkeypatch.setattr(automatic, "_LEAST_EPOCHS", 2)
    with caplog.at_level(logging.INFO):
        results = train.train(config, tmp_path / "run")
    assert results["step"] == 2 and "compiled the training step in " in caplog.text
    stored = run_dir.read(tmp_path / "run").config
    assert stored.auto == () and stored.train.duration == "2 epochs" and stored.data.batch_size == 8
    monkeypatch.setattr(
        automatic, "_MOST_EPOCHS", {False: 9}
    )  # another machine would choose otherwise
    monkeypatch.setattr(automatic, "_LEAST_EPOCHS", 9)
    assert train.train(config, tmp_path / "run")["step"] == 2  # resumed, not refused
    assert evaluate.evaluate(config, tmp_path / "run")["war"] == results["war"]
    changed = config_lib.resolve(settings | {"train": settings["train"] | {"duration": "3 epochs"}})
    with pytest.raises(ValueError, match=r"config.train.duration = '2 epochs', now '3 epochs'"):
        train.train(changed, tmp_path / "run")
