"""The settings: defaults, limits, contradictions, durations, and error messages."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from rdfer_jax import config as config_lib
from rdfer_jax import losses
from rdfer_jax.models import trunks

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))


def load(name, *argument):
    spec = importlib.util.spec_from_file_location(f"settings_{name}", ROOT / f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*argument)


def changed(**sections):
    settings = config_lib.default()
    for section, fields in sections.items():
        for field, value in fields.items():
            settings[section][field] = value
    return config_lib.resolve(settings)


def all_fields():
    for section, kind in config_lib.SECTIONS.items():
        yield from ((section, field) for field in dataclasses.fields(kind))


#: Settings that may differ when a run is resumed: they do not change what is learned.
FREE = {
    "profile", "compile_cache", "cpu_devices", "build", "data.dir", "data.frame_cache",
    "data.num_workers", "data.num_threads", "data.prefetch", "data.eval_batch_size",
    "data.test_split", "augment.eval_views", "train.eval_every", "train.save_every", "train.record_every",
    "train.log_every", "train.keep", "train.tensorboard", "train.shard_parameters", "model.remat",
    "augment.eval_crops", "clips.eval_number",
    *(f"predict.{field.name}" for field in dataclasses.fields(config_lib.Predict)),
}  # fmt: skip


def test_the_defaults_resolve_to_the_dataclasses_own_defaults():
    assert config_lib.resolve(config_lib.default()) == config_lib.Config()
    assert config_lib.resolve({}) == config_lib.Config()


@pytest.mark.parametrize("name", FILES)
def test_every_configuration_file_resolves(name):
    config = config_lib.resolve(load(name))
    others = {
        "synthetic": "synthetic_faces",
        "synthetic_movement": "synthetic_faces",
        "synthetic_vit": "synthetic_faces",
        "synthetic_pretrain": "synthetic_faces",
        "dfew_pretrain": "dfew",
        "dfew_m3dfel": "dfew",
        "dfew_videomae_b": "dfew",
        "dfew_s4d": "dfew",
        "dfew_maedfer": "dfew",
        "dfew_clip_b16_lora": "dfew",
        "faces": "ferplus",
    }
    assert config.data.name == others.get(name, name)


PUBLISHED = [name for name in FILES if name.startswith(("dfew", "ferv39k", "mafw"))]


@pytest.mark.parametrize("name", PUBLISHED)
def test_frames_are_stored_large_enough_for_their_crops(name):
    config = config_lib.resolve(load(name))
    stored = config.build["short_side"]
    assert config.data.image_size == stored
    smallest_crop = stored * config.augment.crop_area[0] ** 0.5
    # 224 pixels is the size in which DFEW is distributed; M3DFEL's crops are smaller than any frame.
    assert smallest_crop >= config.augment.size or stored == 224 or name == "dfew_m3dfel"


def test_configurations_that_build_differently_have_variants_of_their_own():
    builds = {}
    for name in FILES:
        config = config_lib.resolve(load(name))
        build = config_lib.to_dict(config)["build"]
        first = builds.setdefault((config.data.name, config.data.variant), (name, build))
        assert build == first[1], f"{name} and {first[0]}"


def test_there_is_a_configuration_for_each_data_set():
    assert {"synthetic", "dfew", "ferv39k", "mafw", "video_folder"} <= set(FILES)


def test_the_argument_of_a_configuration_file_names_fold_and_task():
    data = config_lib.resolve(load("dfew", "2")).data
    assert (data.train_split, data.test_split) == ("fold1+fold3+fold4+fold5", "fold2")
    config = config_lib.resolve(load("mafw", "3,compound"))
    assert config.data.variant == config.build["task"] == "compound"
    assert config.data.test_split == "fold3"
    assert config_lib.resolve(load("mafw", "3")).data.variant == "single"
    with pytest.raises(ValueError, match=r"fold: expected one of 1, 2, 3, 4, 5, got '6'"):
        load("dfew", "6")


@pytest.mark.parametrize("name", FILES)
def test_to_dict_and_back_through_json(name):
    config = config_lib.resolve(load(name))
    tree = config_lib.to_dict(config)
    assert config_lib.resolve(tree) == config
    assert config_lib.resolve(json.loads(json.dumps(tree))) == config


def test_to_dict_is_plain_where_the_build_options_are_nested():
    config = config_lib.resolve({"build": {"sizes": [1, 2], "more": {"deep": 3}}})
    tree = json.loads(json.dumps(config_lib.to_dict(config)))
    assert tree["build"] == {"sizes": [1, 2], "more": {"deep": 3}}


def test_the_result_is_frozen():
    config = config_lib.Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.data.frames = 3
    with pytest.raises((AttributeError, TypeError)):
        config.build["x"] = 3


def test_every_field_says_what_it_means():
    for section, field in all_fields():
        assert field.metadata["text"], f"{section}.{field.name}"


def test_each_field_says_whether_a_run_may_be_resumed_with_another_value():
    top = {f.name for f in dataclasses.fields(config_lib.Config)} - {*config_lib.SECTIONS, "auto"}
    paths = top | {f"{section}.{field.name}" for section, field in all_fields()}
    assert {path for path in paths if not config_lib.affects_training(path)} == FREE
    assert not config_lib.affects_training("build.source_dir")
    for unknown in ("removed", "data.removed", "removed.setting"):
        assert config_lib.affects_training(unknown)


def test_the_choices_are_those_that_the_code_knows():
    (method,) = (f for f in dataclasses.fields(config_lib.Loss) if f.name == "method")
    assert set(config_lib.choices(method)) == losses.METHODS.keys()
    (trunk,) = (f for f in dataclasses.fields(config_lib.Model) if f.name == "trunk")
    assert set(config_lib.choices(trunk)) == set(trunks.NAMES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"batchsize": 3}}, r"data.batchsize: no such setting. Did you mean 'batch_size'\?"),
        ({"modell": {"width": 8}}, r"config.modell: no such setting. Did you mean 'model'\?"),
        ({"sed": 3}, r"Did you mean 'seed'\?"),
        ({"clips": {"zzz": 3}}, "no such setting. Known: kind, number, eval_number, frames, min_span"),
        ({"data": 3}, "config.data: expected a section, got 3"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_an_error_that_names_the_right_one(settings, message):
    with pytest.raises(ValueError, match=message):
        config_lib.resolve(settings)


@pytest.mark.e2e
def test_a_misspelt_flag_is_an_error_that_names_the_right_one():
    command = [
        sys.executable, "-m", "rdfer_jax.main", "--config=configs/synthetic.py",
        "--config.data.batchsize=3", "--workdir=unused",
    ]  # fmt: skip
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "Did you mean 'batch_size'?" in said, said
    assert not (ROOT / "unused").exists()


@pytest.mark.parametrize(
    ("section", "field"),
    [pytest.param(s, f, id=f"{s}.{f.name}") for s, f in all_fields() if {"low", "high"} & {*f.metadata}],
)  # fmt: skip
def test_numbers_outside_their_limits_are_errors(section, field):
    kind = type(field.default)
    for limit, beyond in (("low", -1), ("high", 1)):
        if limit in field.metadata:
            value = kind(field.metadata[limit] + beyond)
            with pytest.raises(
                ValueError, match=rf"config.{section}.{field.name}: expected a value in"
            ):
                changed(**{section: {field.name: value}})
    if kind is float:
        with pytest.raises(ValueError, match=r"expected a value in .*, got nan"):
            changed(**{section: {field.name: float("nan")}})


@pytest.mark.parametrize(
    ("section", "field"),
    [pytest.param(s, f, id=f"{s}.{f.name}") for s, f in all_fields() if config_lib.choices(f)],
)
def test_a_word_that_is_no_choice_is_an_error_that_lists_them(section, field):
    words = ", ".join(config_lib.choices(field))
    with pytest.raises(ValueError, match=f"expected one of {words}, got 'other'"):
        changed(**{section: {field.name: "other"}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"frames": 3.0}}, "config.data.frames: expected int, got 3.0"),
        ({"data": {"frames": True}}, "expected int, got True"),
        ({"data": {"dir": 3}}, "expected str, got 3"),
        ({"key": {"enabled": 1}}, "expected bool, got 1"),
        ({"augment": {"flip": "often"}}, "expected float, got 'often'"),
        ({"augment": {"flip": True}}, "expected float, got True"),
        ({"augment": {"mean": (0.5, 0.5)}}, r"expected 3 numbers, got \(0.5, 0.5\)"),
        ({"augment": {"std": "abc"}}, "expected 3 numbers, got 'abc'"),
        ({"augment": {"crop_area": 0.5}}, "expected 2 numbers, got 0.5"),
        ({"seed": "0"}, "expected int, got '0'"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        config_lib.resolve(settings)


def test_a_whole_number_does_for_a_float_and_a_list_for_a_tuple():
    config = config_lib.resolve({"augment": {"flip": 1, "crop_area": [0.5, 1]}})
    assert config.augment.flip == 1.0 and isinstance(config.augment.flip, float)
    assert config.augment.crop_area == (0.5, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"augment": {"crop_area": (0.9, 0.5)}},
            r"config.augment.crop_area: expected .*, got \(0.9, 0.5\)",
        ),
        ({"augment": {"crop_area": (0.0, 0.5)}}, "config.augment.crop_area"),
        ({"augment": {"crop_area": (0.5, 1.5)}}, "config.augment.crop_area"),
        ({"augment": {"crop_aspect": (2.0, 1.0)}}, "config.augment.crop_aspect"),
        ({"augment": {"std": (0.2, 0.0, 0.2)}}, "config.augment.std"),
        (
            {"model": {"width": 100, "long_heads": 3}},
            "config.model.width: expected a multiple of .* = 6, got 100",
        ),
        (
            {"agreement": {"threshold_kind": "running", "memory_decay": 0.0}},
            "config.agreement.memory_decay: .*threshold_kind = 'running' needs .*, got 0",
        ),
        (
            {"agreement": {"remember": 0.5, "gradient": True}},
            "config.agreement.gradient: expected False .*, got True",
        ),
        (
            {"agreement": {"threshold_kind": "mixture", "score": "support"}},
            "config.agreement.score: expected 'odds' .*, got 'support'",
        ),
        (
            {"augment": {"per": "clip"}, "model": {"name": "resnet_lstm"}},
            "config.augment.per: expected 'video' .*'resnet_lstm'.*, got 'clip'",
        ),
        (
            {"loss": {"method": "elr"}, "agreement": {"memory_decay": 0.0}},
            "config.agreement.memory_decay: config.loss.method = 'elr' needs .*, got 0",
        ),
        (
            {"loss": {"method": "forward"}, "agreement": {"memory_decay": 0.0}},
            "config.agreement.memory_decay: config.loss.method = 'forward' needs .*, got 0",
        ),
        (
            {"loss": {"limit_share": "sure_half"}, "agreement": {"memory_decay": 0.0}},
            "config.loss.limit_share = 'sure_half': expected config.agreement.memory_decay above 0",
        ),
        (
            {"loss": {"refurbish": "posterior"}, "agreement": {"memory_decay": 0.0}},
            "config.loss.refurbish = 'posterior' needs the memory",
        ),
        (
            {"agreement": {"score": "posterior", "memory_decay": 0.0}},
            "config.agreement.memory_decay: config.agreement.score = 'posterior' needs .*, got 0",
        ),
        (
            {"agreement": {"score": "posterior", "threshold_kind": "mixture"}},
            "config.agreement.score: expected 'odds' .*, got 'posterior'",
        ),
        (
            {"loss": {"method": "self_calibrated"}},
            "config.agreement.threshold_kind: expected 'running' for .*'self_calibrated'.*, got 'quantile'",
        ),
        (
            {"optim": {"evaluate": "teacher"}},
            "config.optim.evaluate = 'teacher': expected config.agreement.teacher_decay above 0",
        ),
        ({"optim": {"average_from": "soon"}}, "config.optim.average_from: expected a duration"),
        ({"model": {"streams": "short"}}, "config.model.streams = 'short': .*key.enabled to False"),
        ({"model": {"streams": "long"}}, "config.model.streams = 'long': .*key.enabled to False"),
        ({"clips": {"kind": "windows"}}, "config.clips.kind = 'windows': .*key.enabled to False"),
        (
            {"clips": {"frames": 65}},
            "config.clips.frames: expected at most config.data.frames = 64, got 65",
        ),
        (
            {"key": {"frames": 65}},
            "config.key.frames: expected at most config.data.frames = 64, got 65",
        ),
        (
            {"model": {"trunk": "r3d_18"}, "clips": {"frames": 10}},
            "config.clips.frames: expected a multiple of 4.*, got 10",
        ),
        (
            {"model": {"trunk": "r3d_18"}, "key": {"frames": 6}},
            "config.key.frames: expected a multiple of 4.*, got 6",
        ),
        (
            {"model": {"trunk": "r2plus1d_18"}, "clips": {"frames": 10}},
            "'r2plus1d_18' reads 4 frames",
        ),
        (
            {"model": {"name": "m3dfel"}},
            "config.model.trunk: expected 'r3d_18' .*'m3dfel', got 'resnet18'",
        ),
        (
            {"model": {"name": "m3dfel", "trunk": "r3d_18"}, "clips": {"frames": 4}},
            "config.clips.frames: expected at least 8.*, got 4",
        ),
        (
            {"model": {"name": "m3dfel", "trunk": "r3d_18"}, "clips": {"frames": 10}},
            "config.clips.frames: expected a multiple of 4.*, got 10",
        ),
        (
            {"model": {"name": "resnet_lstm", "trunk": "r3d_18"}},
            "expected a trunk that reads single frames.*, got 'r3d_18'",
        ),
        (
            {"model": {"name": "resnet_lstm", "trunk": "r2plus1d_18"}},
            "expected a trunk that reads single frames.*, got 'r2plus1d_18'",
        ),
        (
            {"train": {"duration": "50 %"}},
            "config.train.duration: expected steps or epochs, got '50 %'",
        ),
        (
            {"train": {"duration": "0 steps"}},
            "config.train.duration: expected a positive duration, got '0 steps'",
        ),
        (
            {"train": {"eval_every": "0 epochs"}},
            "config.train.eval_every: expected a positive duration",
        ),
        (
            {"train": {"save_every": "often"}},
            "config.train.save_every: expected a duration such as .*, got 'often'",
        ),
        ({"loss": {"robust_from": "-1 steps"}}, "config.loss.robust_from"),
        ({"optim": {"warmup": "5"}}, "config.optim.warmup"),
        (
            {"data": {"fold": "0/5"}},
            "config.data.fold: expected a fold such as 1/5 or 5/5, got '0/5'",
        ),
        (
            {"data": {"frames": 30, "snippet": 4}},
            "config.data.frames: expected a multiple of config.data.snippet = 4, got 30",
        ),
        (
            {"data": {"snippet": 4}, "clips": {"frames": 6}},
            "config.clips.frames: expected a multiple of config.data.snippet = 4.*, got 6",
        ),
        (
            {"data": {"snippet": 8}},
            "config.key.frames: expected a multiple of config.data.snippet = 8.*, got 4",
        ),
        (
            {"data": {"snippet": 2}, "model": {"trunk": "r3d_18"}},
            "config.data.snippet: expected 1 or a multiple of 4.*'r3d_18'.*, got 2",
        ),
        ({"data": {"stride": 4}}, "config.data.stride: expected 1 for .*snippet = 1.*, got 4"),
        (
            {"clips": {"kind": "snippets"}},
            "config.clips.kind = 'snippets': .*key.enabled to False",
        ),
        (
            {
                "data": {"snippet": 8},
                "clips": {"kind": "snippets", "frames": 16},
                "key": {"enabled": False},
            },
            "config.clips.frames: expected config.data.snippet = 8 for .*, got 16",
        ),
        (
            {
                "data": {"snippet": 16},
                "clips": {"kind": "snippets", "number": 2, "eval_number": 5},
                "key": {"enabled": False},
            },
            "config.clips.eval_number: expected at most .* = 4 for .*, got 5",
        ),
        ({"predict": {"fps": 0.1}}, "config.predict.fps: expected 0 or a value in"),
        ({"train": {"record_every": "0 steps"}}, "config.train.record_every: expected a positive"),
    ],
)
def test_contradictions_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        changed(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": {"method": "elr"}, "agreement": {"memory_decay": 0.7}},
        {"model": {"streams": "short"}, "key": {"enabled": False}},
        {"model": {"streams": "long"}, "key": {"enabled": False}},
        {"clips": {"kind": "windows"}, "key": {"enabled": False}},
        {
            "data": {"snippet": 16, "stride": 4},
            "clips": {"kind": "snippets", "number": 2, "eval_number": 4},
            "key": {"enabled": False},
        },
    ],
)
def test_what_an_error_advises_helps(settings):
    config = changed(**settings)
    for section, fields in settings.items():
        for field, value in fields.items():
            assert getattr(getattr(config, section), field) == value


def test_a_seed_must_fit_32_bits():
    assert config_lib.resolve({"seed": 2**32 - 1}).seed == 2**32 - 1
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=r"config.seed: expected a value in"):
            config_lib.resolve({"seed": seed})


@pytest.mark.parametrize(("name", "trunk"), [("m3dfel", "r3d_18"), ("resnet_lstm", "resnet18")])
def test_the_key_settings_do_not_concern_a_baseline(name, trunk):
    settings = {"clips": {"kind": "windows"}, "key": {"enabled": True, "frames": 65}}
    changed(model={"name": name, "trunk": trunk, "streams": "short"}, **settings)
    with pytest.raises(ValueError, match="key"):
        changed(**settings)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("500 steps", 500),
        ("1 step", 1),
        ("3 epochs", 21),
        ("1 epoch", 7),
        ("2.5 epochs", 18),
        ("0.1 epochs", 1),
        ("50 %", 50),
        ("0.5 %", 1),
        ("7%", 7),
        ("0 steps", 0),
        ("100 %", 100),
        (" 3  epochs ", 21),
    ],
)
def test_durations_become_steps_rounded_up(duration, expected):
    assert config_lib.steps(duration, steps_per_epoch=7, total_steps=100) == expected


def test_durations_do_not_suffer_from_binary_fractions():
    assert config_lib.steps("0.07 epochs", steps_per_epoch=100) == 7
    assert config_lib.steps("29 %", steps_per_epoch=1, total_steps=100) == 29


@pytest.mark.parametrize(
    "duration", ["", "3", "three epochs", "-1 steps", "3 days", "1 2 steps", "nan %"]
)
def test_what_is_no_duration_is_an_error(duration):
    with pytest.raises(ValueError, match="expected a duration such as"):
        config_lib.steps(duration, steps_per_epoch=7, total_steps=100)


def test_a_share_of_an_unknown_length_is_an_error():
    with pytest.raises(
        ValueError, match="expected steps or epochs, got '50 %', a share of the run"
    ):
        config_lib.steps("50 %", steps_per_epoch=7)


def test_fold_splits():
    assert config_lib.fold_splits("5") == ("fold1+fold2+fold3+fold4", "fold5")
    assert config_lib.fold_splits("1", 3) == ("fold2+fold3", "fold1")
    with pytest.raises(ValueError, match=r"fold: expected one of .*, got '0'"):
        config_lib.fold_splits("0")
