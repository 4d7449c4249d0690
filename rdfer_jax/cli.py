"""The command line: commands, their flags, their help, and how arguments are parsed.

Imports neither JAX nor TFDS, so that help and usage errors are immediate.
"""

import dataclasses
import re
import textwrap
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

# setting_types tells ml_collections how to read its types.
from rdfer_jax import config_files, hints, paths, setting_types  # noqa: F401


class UsageError(ValueError):
    """The command line is wrong; the message says what to type instead."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command: its name, help text, type (str, Path, int, float or bool) and default."""

    name: str
    text: str
    kind: type = str
    default: Any = None
    required: bool = False


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: one line of help, and its flags."""

    text: str
    flags: tuple[Flag, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """A parsed command line.

    Attributes:
      command: a key of COMMANDS.
      flags: the value of each flag of the command; `config` is a ConfigDict or None.
    """

    command: str
    flags: types.SimpleNamespace


_CONFIG = Flag(
    "config", "settings: a name such as dfew or dfew:2, or a file such as my.py", required=True
)
_WORKDIR = Flag("workdir", "folder of the run; may be gs://", Path, required=True)
_NETWORK = Flag(
    "workdir",
    "folder of a run or export; default: the network that comes with the package",
    Path,
)
_RUNTIME = Flag(
    "runtime",
    "what runs the network: auto, jax, or onnx (ONNX Runtime)",
    default="auto",
)
_COMPILE_CACHE = Flag(
    "compile_cache",
    "folder of compiled programs, or none; default: in your cache folder",
    Path,
)
_CHECKPOINT = Flag("checkpoint", "last, best, or a step number", default="last")
_CLUSTER = (
    Flag("multihost", "run as one of several processes of a cluster (TPU pod, Slurm)", bool, False),
    Flag("coordinator", "host:port of process 0, if there is no cluster manager"),
    Flag("processes", "number of processes, with --coordinator", int),
    Flag("process", "index of this process, with --coordinator", int),
)


def _output(text: str, required: bool = False) -> Flag:
    return Flag("output", text, Path, required=required)


COMMANDS = {
    "train": Command("train on a data set, then evaluate", (_CONFIG, _WORKDIR, *_CLUSTER)),
    "pretrain": Command(
        "pretrain a video transformer on the faces of a data set, without its labels",
        (_CONFIG, _WORKDIR, *_CLUSTER),
    ),
    "eval": Command(
        "evaluate a checkpoint of a run on the test split",
        (_CONFIG, _WORKDIR, _CHECKPOINT, *_CLUSTER),
    ),
    "crossval": Command(
        "train one run per fold and predict every clip out of fold",
        (
            _CONFIG,
            _WORKDIR,
            Flag("folds", "number of folds, for a data set without folds of its own", int, 5),
            *_CLUSTER,
        ),
    ),
    "check": Command(
        "look for problems in a data set, before or after it is built",
        (_CONFIG, _output("file for the result: .html with pictures, or .json; default: none")),
    ),
    "build": Command("build a data set from its original files", (_CONFIG,)),
    "predict": Command(
        "recognize expressions in your own videos",
        (
            _NETWORK,
            Flag(
                "input",
                "a video, a folder of videos, or a text file that lists videos",
                Path,
                required=True,
            ),
            _output(
                "folder for the results; default: WORKDIR/predict, or predict without --workdir"
            ),
            _CHECKPOINT,
            _RUNTIME,
            _COMPILE_CACHE,
            dataclasses.replace(
                _CONFIG,
                text="configuration whose predict section to use; default: the run's",
                required=False,
            ),
            Flag("force", "predict videos again whose results are there", bool, False),
        ),
    ),
    "web": Command(
        "serve a page that predicts in the browser, on this computer only",
        (
            Flag("dir", "folder of the page, as rdfer export wrote it", Path, required=True),
            Flag("port", "port to listen on; 0 for any that is free", int, 8000),
        ),
    ),
    "export": Command(
        "write a network as files that run without this package, or as a page for browsers",
        (
            Flag(
                "workdir",
                "folder of the run; default: the network that comes with the package",
                Path,
            ),
            _output("folder for the files; needed unless --web is given"),
            Flag("web", "folder for a page that runs the network in a browser", Path),
            Flag(
                "onnxruntime",
                "npm package onnxruntime-web, .tgz or folder; default: in your cache folder",
                Path,
            ),
            _CHECKPOINT,
            Flag("formats", "stablehlo, onnx, or both", default="stablehlo,onnx"),
            Flag("quantize", "none, or int8: weights of the ONNX file as int8", default="none"),
            dataclasses.replace(
                _CONFIG,
                text="configuration whose predict section to describe; default: the run's",
                required=False,
            ),
        ),
    ),
    "live": Command(
        "recognize expressions in a camera, a network stream, or a file played as if live",
        (
            Flag("input", "number of a camera, rtsp://..., or a video file", default="0"),
            _NETWORK,
            _output("CSV file with a row for each face at each stride; default: none"),
            _CHECKPOINT,
            _RUNTIME,
            _COMPILE_CACHE,
            Flag("show", "open a window, if this OpenCV can", bool, False),
            dataclasses.replace(
                _CONFIG,
                text="configuration whose predict section to use; default: the run's",
                required=False,
            ),
        ),
    ),
    "audit": Command(
        "find mislabeled and hard clips, after crossval",
        (
            _WORKDIR,
            _output("folder for the results; default: WORKDIR/audit"),
            Flag(
                "precision",
                "share of the listed labels that must be wrong, such as 0.9; default: no promise",
                float,
            ),
            Flag("reviewed", "CSV file with your decisions on the sample of the audit page", Path),
            Flag("force", "accept predictions of clips that the run was trained on", bool, False),
        ),
    ),
    "report": Command(
        "write an HTML report of a run",
        (_WORKDIR, _output("HTML file; default: WORKDIR/report.html")),
    ),
    "relabel": Command(
        "write labels for a second training from what a run believes of its training videos",
        (
            _WORKDIR,
            _output("CSV file with the labels; may be gs://", required=True),
            Flag("score", "odds or posterior: what makes a label doubtful", default="odds"),
            Flag("threshold", "score above which a label is replaced; default: 0.6 or 0.5", float),
        ),
    ),
    "inject": Command(
        "write wrong labels for a data set, to measure robustness against them",
        (
            _CONFIG,
            _output("CSV file with the labels; may be gs://", required=True),
            Flag(
                "rate", "share of wrong labels, in [0, 1); kinds random1 and worst have none", float
            ),
            Flag(
                "kind",
                "symmetric, confusion, fer2013, crema_d, instance, votes",
                default="confusion",
            ),
            Flag("seed", "seed of the random choice of labels", int, 0),
            Flag("expect", "sha256 of the file; any other is refused; with votes, random1, worst"),
        ),
    ),
}
_HELP = ("-h", "--help", "-help", "--helpfull", "--helpshort")


def parse(words: Sequence[str]) -> Call | str:
    """Parses the words after the name of the program.

    The command is the first word, or the value of --mode; without either it is train.

    Returns:
      The call, or the text to print if the user asks for help.

    Raises:
      UsageError: the command, a flag or a value is wrong, or a required flag is missing.
      FileNotFoundError: there is no such configuration.
    """
    wants_help = any(word in _HELP for word in words)
    name, rest = _split_command([word for word in words if word not in _HELP])
    if wants_help or not words:
        return command_help(name) if name else overview()
    name = name or "train"
    return Call(name, _parse_flags(name, rest))


def overview() -> str:
    """Returns the help text of the program."""
    lines = [
        "Facial expression recognition in video, robust to wrong training labels.",
        "",
        "usage: rdfer COMMAND [--flag=value ...]",
        "",
        "commands:",
        *_columns([(name, command.text) for name, command in COMMANDS.items()]),
        "",
        "rdfer COMMAND --help lists the flags of a command.",
        "example: rdfer train --config=synthetic --workdir=runs/mine",
    ]
    return "\n".join(lines)


def command_help(name: str) -> str:
    """Returns the help text of a command."""
    command = COMMANDS[name]
    needed = "".join(f" --{flag.name}=..." for flag in command.flags if flag.required)
    lines = [f"usage: rdfer {name}{needed} [--flag=value ...]", "", command.text, "", "flags:"]
    rows = []
    for flag in command.flags:
        note = " (required)" if flag.required else ""
        if flag.kind is not bool and flag.default is not None:
            note = f" (default: {flag.default})"
        rows.append((f"--{flag.name}" + ("" if flag.kind is bool else "=..."), flag.text + note))
        if flag.name == "config":
            names = textwrap.wrap(f"names: {', '.join(config_files.names())}", 70)
            rows += [("", line) for line in names]
            rows.append(
                ("--config.SECTION.NAME=...", "override a setting, such as --config.data.dir=/data")
            )
    return "\n".join([*lines, *_columns(rows)])


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(left) for left, _ in rows)
    return [f"  {left:{width}}  {right}" for left, right in rows]


def _split_command(words: list[str]) -> tuple[str, list[str]]:
    """Returns the command, or "" if none is given, and the other words."""
    named, rest = _take("mode", words)
    if rest and not rest[0].startswith("-"):
        named, rest = [rest[0], *named], rest[1:]
    for name in named:
        if name not in COMMANDS:
            raise UsageError(f"unknown command {name!r}. {hints.suggest(name, COMMANDS)}")
    if len(set(named)) > 1:
        raise UsageError(f"several commands are given: {', '.join(named)}; give one")
    return (named[0] if named else ""), rest


def _take(name: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits words into the values of a flag, from `--name=value` or `--name value`, and the rest."""
    values, rest = [], []
    remaining = iter(words)
    for word in remaining:
        match = re.fullmatch(rf"--?{name}(?:=(.*))?", word, re.DOTALL)
        if not match:
            rest.append(word)
        elif (value := match[1] if match[1] is not None else next(remaining, None)) is None:
            raise UsageError(f"--{name} needs a value")
        else:
            values.append(value)
    return values, rest


def _parse_flags(command: str, words: list[str]) -> types.SimpleNamespace:
    """Returns the values of the flags of a command."""
    known = COMMANDS[command].flags
    values = flags.FlagValues()
    result: dict[str, Any] = {flag.name: flag.default for flag in known}
    config: ConfigDict | None = None
    if "config" in result:
        configs, words = _take("config", words)
        if configs:
            _check_once("config", configs)
            config = config_files.load(configs[-1])
            _define_settings(config, words, values)
    for flag in known:
        if flag.name != "config":
            _check_once(flag.name, _take(flag.name, words)[0] if flag.kind is not bool else ())
            _DEFINE[flag.kind](flag.name, flag.default, flag.text, flag_values=values)
    try:
        positional = values(["rdfer", *words])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UsageError(_unknown_flag(command, error.flagname, config)) from None
    except flags.Error as error:
        raise UsageError(_plain(str(error))) from None
    if positional:
        raise UsageError(
            f"unexpected argument {positional[0]!r}: rdfer {command} takes only flags, --name=value"
            + (
                "; for several videos, --input is their folder, or a list of them"
                * ("input" in result)
            )
        )
    for flag in known:
        if flag.name in values:
            result[flag.name] = values[flag.name].value
        if flag.required and result[flag.name] is None:
            raise UsageError(f"rdfer {command} needs --{flag.name}: {flag.text}")
        if flag.kind is Path and result[flag.name] == "":  # as of a variable that is not set
            raise UsageError(f"--{flag.name} is empty; give a path, or leave the flag out")
    return types.SimpleNamespace(**result)


def _check_once(name: str, values: Sequence[str]) -> None:
    """Raises UsageError for a flag with several values, of which only the last one would count."""
    if len(set(values)) > 1:
        raise UsageError(f"--{name} is given twice, as {values[0]} and {values[1]}; give one")


_DEFINE: dict[type, Any] = {
    str: flags.DEFINE_string,
    Path: paths.DEFINE_path,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}


def _define_settings(config: ConfigDict, words: Sequence[str], values: flags.FlagValues) -> None:
    """Defines the flag `config`, with a flag for each setting that the words override."""
    for word in words:
        if match := re.match(r"--?(?:no)?config\.([^=]*)", word):
            _check_setting(config, match[1])
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=["rdfer", *words]
        )
    except (flags.Error, AttributeError, KeyError) as error:
        raise UsageError(_plain(str(error))) from None


#: What Python says of a value of another type, and what it means.
_TYPES = {
    r"(invalid literal for int\(\) with base 10|could not convert string to float): .*; (?=expected)": "",
    r"invalid literal for int\(\) with base 10: .*": "expected a whole number",
    r"could not convert string to float: .*": "expected a number",
    r"\('Non-boolean argument to boolean flag', [^)]*\); ": "",
    r"\('Non-boolean argument to boolean flag', [^)]*\)": "expected True or False",
}


def _plain(message: str) -> str:
    """Returns an error of absl in words for users."""
    for pattern, meaning in _TYPES.items():
        message = re.sub(pattern, meaning, message)
    return message


def _check_setting(config: ConfigDict, path: str) -> None:
    """Raises UsageError if there is no such setting."""
    section: Any = config
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(section, ConfigDict) or part not in section:
            names = list(section) if isinstance(section, ConfigDict) else []
            prefix = ".".join(["config", *parts[:depth]])
            raise UsageError(
                f"--config.{path}: {prefix} has no setting {part!r}. {hints.suggest(part, names)}"
            )
        section = section[part]
    if isinstance(section, ConfigDict):
        raise UsageError(
            f"--config.{path} is a section: set one of its settings, by name. {hints.suggest('', section)}"
        )


def _setting_called(name: str, config: ConfigDict | None) -> str:
    """Returns the flag of the setting of a name, without its dashes; empty if there is none, or several."""
    found = [
        f"config.{section}.{name}"
        for section, settings in (config or {}).items()
        if isinstance(settings, ConfigDict) and name in settings
    ]
    return found[0] if len(found) == 1 else ""


def _unknown_flag(command: str, name: str, config: ConfigDict | None) -> str:
    """Returns the message for a flag that the command does not have."""
    base = name.partition(".")[0]
    own = [flag.name for flag in COMMANDS[command].flags]
    if base == "config" and "config" in own:
        return f"--{name} needs --config, the settings that it changes, such as --config=dfew"
    users = [f"rdfer {other}" for other, c in COMMANDS.items() if base in {f.name for f in c.flags}]
    if users:
        return f"rdfer {command} has no flag --{base}; it belongs to {', '.join(users)}"
    close = hints.closest(base, own) or _setting_called(base, config)
    if "." in name and "config" in own:
        close = f"config.{name}"
    hint = f"Did you mean --{close}? " if close else ""
    return f"rdfer {command} has no flag --{base}. {hint}It has {', '.join(f'--{n}' for n in own)}"
