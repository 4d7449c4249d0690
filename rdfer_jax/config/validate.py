"""Conversion between a ConfigDict and the validated dataclasses."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import config_dict

from rdfer_jax import hints, paths
from rdfer_jax.config.sections.base import Section
from rdfer_jax.config.sections.data import Clips
from rdfer_jax.config.sections.method import Agreement
from rdfer_jax.config.sections.network import CLIP_TRUNKS, FIXED_CLIPS, VITS
from rdfer_jax.config.sections.whole import Config
from rdfer_jax.setting_types import AUTO, or_auto

#: Methods that need the memory.
MEMORY_METHODS = ("elr", "forward", "self_calibrated", "ssr")
#: Methods that judge labels by predictions, and therefore need those of unmixed videos.
JUDGING_METHODS = ("agreement", "scn", "small_loss", *MEMORY_METHODS)
#: The sections of Config, by name.
SECTIONS: dict[str, type[Section]] = {
    field.name: field.type
    for field in dataclasses.fields(Config)
    if isinstance(field.type, type) and issubclass(field.type, Section)
}


def default() -> config_dict.ConfigDict:
    """Returns an unlocked ConfigDict with every setting at its default."""
    settings = config_dict.ConfigDict(to_dict(Config()))
    for section, kind in SECTIONS.items():
        for field in dataclasses.fields(kind):
            value = settings[section][field.name]
            if field.metadata["auto"] and not isinstance(value, str):
                del settings[section][field.name]
                settings[section][field.name] = or_auto(value, type(value))
    return settings


def resolve(settings: Mapping[str, Any]) -> Config:
    """Validates settings and returns them as frozen dataclasses.

    Args:
      settings: a ConfigDict or nested mappings; missing settings get their defaults.

    Raises:
      ValueError: a setting is unknown, has the wrong type, is outside its limits, or contradicts
        another one.
    """
    settings = (
        settings.to_dict() if isinstance(settings, config_dict.ConfigDict) else dict(settings)
    )
    values: dict[str, Any] = {}
    auto: list[str] = []
    for name, value in settings.items():
        if name in SECTIONS:
            values[name], chosen = _resolve_section(name, value)
            auto += chosen
        elif name == "build":
            values[name] = config_dict.FrozenConfigDict(value)
        elif value == AUTO and _may_be_auto(Config, name):
            auto.append(name)
        else:
            values[name] = _checked(Config, name, value, name)
    config = Config(**values, auto=tuple(sorted(auto)))
    if not config.auto:  # else once the values are known
        for name in SECTIONS:
            getattr(config, name).check()
        _check_together(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the settings as nested dicts of plain values, ready for JSON."""
    tree = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    tree |= {name: dataclasses.asdict(tree[name]) for name in SECTIONS}
    tree["build"] = config_dict.ConfigDict(config.build).to_dict()
    for path in tree.pop("auto"):
        set_value(tree, path, AUTO)
    return tree


def set_value(tree: Any, path: str, new: Any) -> None:
    """Sets a setting of nested dicts, or of a ConfigDict, by its path, such as "data.frames" or "seed"."""
    *parents, name = path.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[name] = new


def choices(field: dataclasses.Field) -> tuple[str, ...]:
    """Returns the words a setting may take, or () if it is not a choice."""
    return typing.get_args(field.type) if typing.get_origin(field.type) is Literal else ()


def affects_training(path: str) -> bool:
    """Returns whether a setting changes what is learned; "data.frames" for config.data.frames.

    A setting that this version does not know counts as one that does.
    """
    section, _, name = path.partition(".")
    if not _declared(Config, section).get("affects_training", True):
        return False
    return section not in SECTIONS or _declared(SECTIONS[section], name).get(
        "affects_training", True
    )


def _declared(kind: type, name: str) -> Mapping[str, Any]:
    """Returns the metadata of a setting; empty if there is no such setting."""
    return next((f.metadata for f in dataclasses.fields(kind) if f.name == name), {})


def _resolve_section(name: str, values: Mapping[str, Any]) -> tuple[Section, list[str]]:
    """Returns a section, and the paths of its settings that are "auto"."""
    if not isinstance(values, Mapping):
        raise ValueError(f"config.{name}: expected a section, got {values!r}")
    kind = SECTIONS[name]
    auto = [key for key, value in values.items() if value == AUTO and _may_be_auto(kind, key)]
    fixed = {k: _checked(kind, k, v, f"{name}.{k}") for k, v in values.items() if k not in auto}
    return kind(**fixed), [f"{name}.{key}" for key in auto]


def _may_be_auto(kind: type, key: str) -> bool:
    return _declared(kind, key).get("auto", False)


def _checked(kind: type, key: str, value: Any, path: str) -> Any:
    """Returns the value of a setting in its own type, checked against its declaration."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if key not in fields or (kind is Config and key == "auto"):
        raise ValueError(f"config.{path}: no such setting. {hints.suggest(key, fields)}")
    field, standard = fields[key], fields[key].default
    expected = type(standard)
    if isinstance(standard, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else value
        numbers = isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
        if not numbers or len(value) != len(standard):
            raise ValueError(f"config.{path}: expected {len(standard)} numbers, got {value!r}")
    elif expected is float and type(value) is int:
        value = float(value)
    elif type(value) is not expected:
        raise ValueError(f"config.{path}: expected {expected.__name__}, got {value!r}")
    if field.metadata.get("path"):
        value = _expanded(value, path)
    allowed = choices(field)
    if allowed and value not in allowed:
        raise ValueError(f"config.{path}: expected one of {', '.join(allowed)}, got {value!r}")
    low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
    if isinstance(value, int | float) and not low <= value <= high:
        raise ValueError(f"config.{path}: expected a value in [{low}, {high}], got {value!r}")
    return value


def _expanded(value: str, path: str) -> str:
    try:
        return paths.expand(value)
    except ValueError as error:
        raise ValueError(f"config.{path}: {error}") from None


def _check_together(config: Config) -> None:
    """Raises a ValueError if settings of different sections contradict each other."""
    _check_loss(config)
    _check_agreement(config.agreement)
    _check_rare_classes(config)
    _check_network(config)
    _check_recipe(config)
    _check_frames(config)


def _check_loss(config: Config) -> None:
    """Raises a ValueError if the method lacks a memory, thresholds or a teacher."""
    if config.loss.method in MEMORY_METHODS and not config.agreement.memory_decay:
        raise ValueError(
            f"config.agreement.memory_decay: config.loss.method = {config.loss.method!r} needs the memory "
            "of earlier predictions; expected a value above 0, such as 0.7 as in the ELR paper, got 0"
        )
    if config.loss.limit_share != "none" and not config.agreement.memory_decay:
        raise ValueError(
            f"config.loss.limit_share = {config.loss.limit_share!r}: expected "
            "config.agreement.memory_decay above 0, got 0, so there is no memory to estimate the share from"
        )
    if config.loss.refurbish == "posterior" and not config.agreement.memory_decay:
        raise ValueError(
            "config.agreement.memory_decay: config.loss.refurbish = 'posterior' needs the memory of "
            "earlier predictions; expected a value above 0, such as 0.8, got 0"
        )
    if config.loss.method == "self_calibrated" and config.agreement.threshold_kind != "running":
        raise ValueError(
            "config.agreement.threshold_kind: expected 'running' for config.loss.method = "
            f"'self_calibrated', whose videos set their own thresholds, got "
            f"{config.agreement.threshold_kind!r}"
        )
    if config.optim.evaluate == "teacher" and not config.agreement.teacher_decay:
        raise ValueError(
            "config.optim.evaluate = 'teacher': expected config.agreement.teacher_decay above 0, such as "
            "0.99, got 0, so there is no teacher"
        )


def _check_network(config: Config) -> None:
    """Raises a ValueError if the network cannot read such clips."""
    clips, key, model = config.clips, config.key, config.model
    uses_key = model.name == "rdfer"
    if config.optim.layer_decay < 1 and model.trunk not in VITS:
        raise ValueError(
            f"config.optim.layer_decay: expected 1 for config.model.trunk = {model.trunk!r}, which is no "
            f"vision transformer, got {config.optim.layer_decay}"
        )
    if config.augment.per == "clip" and not uses_key:
        raise ValueError(
            "config.augment.per: expected 'video' for config.model.name = "
            f"{model.name!r}, which reads all clips from one buffer, got 'clip'"
        )
    if uses_key and key.enabled and model.streams != "both":
        raise ValueError(
            f"config.model.streams = {model.streams!r}: re-sampling needs both streams; set "
            "config.key.enabled to False"
        )
    if uses_key and key.enabled and clips.kind != "views":
        raise ValueError(
            f"config.clips.kind = {clips.kind!r}: re-sampling uses the long-term features of the first "
            "clip, and only views cover the whole video; set config.key.enabled to False"
        )


def _check_recipe(config: Config) -> None:
    """Raises a ValueError if the batch cannot be mixed or split, or the frames not be cut."""
    if config.data.batch_size % config.optim.accumulate:
        raise ValueError(
            f"config.optim.accumulate: expected a divisor of config.data.batch_size = "
            f"{config.data.batch_size}, got {config.optim.accumulate}"
        )
    if config.augment.eval_crops > 1 and config.data.image_size < config.augment.size:
        raise ValueError(
            f"config.augment.eval_crops: expected 1, because config.data.image_size = "
            f"{config.data.image_size} is below config.augment.size = {config.augment.size}, got "
            f"{config.augment.eval_crops}"
        )
    for name in ("mixup", "cutmix"):
        if not getattr(config.augment, name) or config.loss.method not in JUDGING_METHODS:
            continue
        if not config.agreement.teacher_decay:
            raise ValueError(
                f"config.augment.{name}: expected config.agreement.teacher_decay above 0, such as 0.99, "
                "because only a teacher sees the videos unmixed and can judge their labels, got 0"
            )
        if config.loss.method == "ssr":
            raise ValueError(
                f"config.augment.{name}: expected 0 for config.loss.method = 'ssr', which remembers the "
                f"features of each video, got {getattr(config.augment, name)}"
            )


def _check_frames(config: Config) -> None:
    """Raises a ValueError if numbers of frames do not fit together."""
    clips, model, buffer, snippet = (
        config.clips,
        config.model,
        config.data.frames,
        config.data.snippet,
    )
    together = CLIP_TRUNKS.get(model.trunk, 1)
    frames = {"clips": clips.frames}
    if model.name == "rdfer" and config.key.enabled:
        frames["key"] = config.key.frames
    for section, count in frames.items():
        if count > buffer:
            raise ValueError(
                f"config.{section}.frames: expected at most config.data.frames = {buffer}, got {count}"
            )
        if count % snippet:
            raise ValueError(
                f"config.{section}.frames: expected a multiple of config.data.snippet = {snippet}, "
                f"because clips are made of whole snippets, got {count}"
            )
        if count % together:
            raise ValueError(
                f"config.{section}.frames: expected a multiple of {together}, because config.model.trunk = "
                f"{model.trunk!r} reads {together} frames at a time, got {count}"
            )
    if model.trunk in FIXED_CLIPS and frames.get("key", clips.frames) != clips.frames:
        raise ValueError(
            f"config.key.frames: expected config.clips.frames = {clips.frames}, because "
            f"config.model.trunk = {model.trunk!r} reads clips of one length, got {frames['key']}"
        )
    if clips.kind == "snippets":
        _check_snippets(clips, buffer // snippet, snippet)
    if snippet > 1 and snippet % together:
        raise ValueError(
            f"config.data.snippet: expected 1 or a multiple of {together}, because config.model.trunk = "
            f"{model.trunk!r} reads {together} frames at a time, got {snippet}"
        )
    if model.name == "m3dfel" and clips.frames < 8:
        raise ValueError(
            "config.clips.frames: expected at least 8, because config.model.name = 'm3dfel' compares "
            f"instances of 4 frames, got {clips.frames}"
        )


def _check_snippets(clips: Clips, snippets: int, frames: int) -> None:
    """Raises a ValueError if the snippets of a buffer cannot be its clips."""
    if clips.frames != frames:
        raise ValueError(
            f"config.clips.frames: expected config.data.snippet = {frames} for config.clips.kind = "
            f"'snippets', got {clips.frames}"
        )
    for name in ("number", "eval_number"):
        if getattr(clips, name) > snippets:
            raise ValueError(
                f"config.clips.{name}: expected at most config.data.frames / config.data.snippet = "
                f"{snippets} for config.clips.kind = 'snippets', got {getattr(clips, name)}"
            )


def _check_agreement(settings: Agreement) -> None:
    """Raises a ValueError if the thresholds need a memory, or scores that it cannot give."""
    kind = settings.threshold_kind
    if not settings.memory_decay and kind in ("mixture", "running"):
        raise ValueError(
            f"config.agreement.memory_decay: config.agreement.threshold_kind = {kind!r} needs the memory "
            "of earlier predictions; expected a value above 0, such as 0.6, got 0"
        )
    if settings.remember_clips and not settings.memory_decay:
        raise ValueError(
            "config.agreement.remember_clips: expected False without a memory "
            "(config.agreement.memory_decay 0), got True"
        )
    if settings.score == "posterior" and not settings.memory_decay:
        raise ValueError(
            "config.agreement.memory_decay: config.agreement.score = 'posterior' needs the memory to "
            "estimate a noise matrix; expected a value above 0, such as 0.6, got 0"
        )
    if settings.memory_decay and settings.remember and settings.gradient:
        raise ValueError(
            "config.agreement.gradient: expected False with config.agreement.remember above 0, because no "
            "gradient flows through what is remembered, got True"
        )
    if kind == "mixture" and settings.score != "odds":
        raise ValueError(
            "config.agreement.score: expected 'odds' for config.agreement.threshold_kind = 'mixture', "
            f"which needs the scores of all training videos, got {settings.score!r}"
        )


def _check_rare_classes(config: Config) -> None:
    """Raises a ValueError if settings for rare classes contradict each other, or others."""
    settings = config.agreement
    if config.loss.logit_adjustment and config.data.sampling == "balanced":
        raise ValueError(
            "config.loss.logit_adjustment: expected 0 with config.data.sampling = 'balanced', which makes "
            f"all classes equally frequent already, got {config.loss.logit_adjustment}"
        )
    if settings.prior_correction and not (settings.memory_decay and settings.score == "odds"):
        raise ValueError(
            "config.agreement.prior_correction: expected 0 without a memory (config.agreement.memory_decay "
            "= 0) or with a score other than 'odds' (config.agreement.score), got "
            f"{settings.prior_correction}"
        )
    if settings.protect_below and settings.protect_threshold < settings.noise_threshold:
        raise ValueError(
            "config.agreement.protect_threshold: expected at least config.agreement.noise_threshold = "
            f"{settings.noise_threshold}, got {settings.protect_threshold}"
        )


def uses_class_prior(config: Config) -> bool:
    """Returns whether a setting needs the shares of the classes among the training labels."""
    return bool(config.loss.logit_adjustment or config.agreement.protect_below)
