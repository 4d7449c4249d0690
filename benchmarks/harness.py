"""What benchmarks and experiments share: settings from a file, the machine in words, tables and JSON.

Pure helpers: nothing here measures anything.
"""

import ast
import importlib.util
import json
import math
import os
import platform
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rdfer_jax import config as config_lib
from rdfer_jax.config import Config
from rdfer_jax.training.run_dir import commit as commit


def load(path: str, overrides: Mapping[str, Any]) -> Config:
    """Returns the settings of a config file with some of them overridden.

    Args:
      path: a Python file with `get_config`, such as configs/dfew.py; "configs/dfew.py:3" passes it "3".
      overrides: values by the path of the setting, such as {"loss.method": "gce"}.

    Raises:
      ValueError: a setting is unknown, or its value is invalid.
    """
    file, _, argument = path.partition(":")
    get_config = runpy.run_path(file)["get_config"]
    settings = (get_config(argument) if argument else get_config()).to_dict()
    for name, value in overrides.items():
        *parents, last = name.split(".")
        section = settings
        for parent in parents:
            section = section.setdefault(parent, {})  # `resolve` reports an unknown section
            if not isinstance(section, dict):
                raise ValueError(f"config.{name}: {parent} is a setting, not a section")
        section[last] = value
    return config_lib.resolve(settings)


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Parses "name=value" strings, such as those of --set; a value that is no Python literal is text."""
    settings: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            settings[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            settings[name] = value
    return settings


def hardware() -> str:
    """Returns the devices and the number of usable cores, such as "1 cpu (x86_64), 2 cores, jax 0.10.2"."""
    import jax

    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else platform.machine()
    return (
        f"{jax.device_count()} {device.platform} ({kind}), {cores()} cores, jax {jax.__version__}"
    )


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_torch() -> bool:
    """Returns whether PyTorch is installed; prints how to install it if not."""
    if importlib.util.find_spec("torch") is not None:
        return True
    print(
        "PyTorch is not installed, so the comparison is skipped: pip install -e '.[torch]'",
        file=sys.stderr,
    )
    return False


def line(texts: Sequence[str]) -> str:
    """Returns a row of a Markdown table."""
    return "| " + " | ".join(texts) + " |"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; the first row is the header."""
    head, *rest = rows
    return "\n".join(map(line, [head, ["---"] * len(head), *rest]))


def to_json(report: Any) -> str:
    """Returns a report as JSON; non-finite numbers, such as the interval of a single seed, become null."""
    return json.dumps(_finite(report), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
