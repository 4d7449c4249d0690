"""Shared by benchmarks.tpu and benchmarks.gpu: does the train step compile and fit into memory?

Both compile the train step ahead of time for devices that this machine does not have. This module has their
command line, the compilation, and the parts that their reports have in common.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath
from jax.stages import Compiled
from ml_collections import config_flags

from rdfer_jax import config as config_lib
from rdfer_jax import paths
from rdfer_jax.training.pretrain import PretrainModelSetup
from rdfer_jax.training.setup import ModelSetup

flags.disclaim_key_flags()  # --help lists a flag under the script that asks for it

GIB = 2**30
Row = tuple[str, str]
MakeStep = Callable[[jax.sharding.Mesh], tuple[Any, Sequence[Any]]]


class CompilerError(Exception):
    """The step cannot be compiled; the message gives the reason and what to do."""


def compile_step(
    step: Any, arguments: Sequence[Any], options: Mapping[str, Any] | None = None
) -> tuple[Compiled, float]:
    """Compiles a jitted function for the devices in the shardings of its arguments.

    Args:
      step: a result of jax.jit.
      arguments: trees of jax.ShapeDtypeStruct with shardings.
      options: XLA compiler options.

    Returns:
      The executable, and the seconds for tracing and compiling.

    Raises:
      CompilerError: the program does not fit in the device's memory.
    """
    start = time.monotonic()
    try:
        compiled = step.lower(*arguments).compile(compiler_options=dict(options or {}))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise CompilerError(
            f"the step does not fit in a chip's memory: {first_line(error)}"
        ) from error
    return compiled, time.monotonic() - start


def memory(compiled: Compiled) -> dict[str, int]:
    """Returns the bytes that an executable needs on one device, by purpose and in total."""
    stats: Any = compiled.memory_analysis()
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "reused": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    # Outputs that reuse donated arguments are counted twice in the sum.
    return parts | {"total": sum(parts.values()) - 2 * parts["reused"]}


def first_line(error: Exception) -> str:
    """Returns the first line of an error message."""
    return str(error).partition("\n")[0]


def aligned(title: str, rows: Sequence[Row]) -> str:
    """Returns a title and a two-column list of names and values."""
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}".rstrip() for name, value in rows]
    return "\n".join([title, "", *lines])


def memory_rows(held: Mapping[str, int]) -> list[Row]:
    """Returns the result of `memory` as rows of a report."""
    return [(f"memory: {name}", f"{size / GIB:.3f} GiB") for name, size in held.items()]


def collective_rows(found: Mapping[str, Mapping[str, int]]) -> list[Row]:
    """Returns the result of `hlo.collectives` as rows of a report."""
    return [
        (kind, f"{entry['count']}, in total {short_number(entry['bytes'], 'B')}")
        for kind, entry in found.items()
    ]


def short_number(value: float, unit: str) -> str:
    """Formats a number with a decimal prefix, such as 2.572 TFLOP."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3f} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def define_flags() -> None:
    """Defines the flags of both command lines; not at import, to avoid clashes with other programs."""
    config_flags.DEFINE_config_file(
        "config", None, "Settings file, such as configs/dfew.py.", lock_config=True
    )
    flags.DEFINE_integer("num_classes", 7, "Number of classes; the data set is not read.")
    flags.DEFINE_integer(
        "num_train",
        10_000,
        "Number of training videos, which is the size of the prediction memory, if enabled.",
    )
    flags.DEFINE_bool("pretrain", False, "Compile the step of rdfer pretrain.")
    paths.DEFINE_path("json", None, "File to write the report to; may be gs://.")
    flags.mark_flag_as_required("config")


def command(
    run: Callable[..., dict[str, Any]], table: Callable[[dict[str, Any]], str], chips: str
) -> None:
    """Compiles the train step, prints the table, writes the JSON.

    Args:
      run: (make_step, devices, num_videos) -> report.
      table: report -> text.
      chips: devices to compile for, as given on the command line.
    """
    options = flags.FLAGS
    jax.config.update("jax_platforms", "cpu")
    try:
        config = config_lib.resolve(options.config)
        setup = PretrainModelSetup if options.pretrain else ModelSetup
        report = run(
            lambda mesh: setup(
                config, mesh, options.num_classes, options.num_train
            ).abstract_step(),
            chips,
            config.data.batch_size,
        )
    except (CompilerError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(table(report))
    if options.json:
        path = epath.Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")
