"""Compiles the train step for TPUs that are not there, and says what they would make of it.

    python -m benchmarks.tpu --config=configs/dfew.py --topology=v5e:2x4 [--json=PATH]
        [--config.data.batch_size=256 ...]

libtpu carries the TPU compiler, which runs on any x86-64 Linux machine: `pip install
'rdfer-jax[tpu]'`. The program it makes is the one that a real slice would run, so this tells
whether the step compiles, whether it fits in memory, and which collectives it runs; the times are
estimates. Full size takes some minutes.

A topology is a chip and its grid: v4:2x2x2, v5e:2x4, v5e:16x16, v5p:4x4x4, v6e:4x4, or any other
that libtpu knows. No TPU is used, so several of these may run at once, also beside a program that
holds a TPU: libtpu's lock file, which keeps two programs off the same chips, is disregarded.
"""

import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags
from etils import epath
from jax.experimental import topologies
from jax.stages import Compiled
from ml_collections import config_flags

from rdfer_jax import config as config_lib
from rdfer_jax import sharding
from rdfer_jax.training.setup import ModelSetup

GIB = 2**30


class Chip(NamedTuple):
    """What one chip has, from Google's data sheets (cloud.google.com/tpu/docs).

    Attributes:
      hbm_bytes: its memory.
      flops_per_second: its peak, bfloat16.
      bytes_per_second: of its memory.
    """

    hbm_bytes: float
    flops_per_second: float
    bytes_per_second: float


CHIPS = {
    "v4": Chip(32 * GIB, 275e12, 1228e9),
    "v5e": Chip(16 * GIB, 197e12, 819e9),
    "v5p": Chip(95 * GIB, 459e12, 2765e9),
    "v6e": Chip(32 * GIB, 918e12, 1640e9),
}

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class CompilerError(Exception):
    """What was asked for cannot be compiled; the message says why and what to do."""


class TPUError(CompilerError):
    """It cannot be compiled for a TPU."""


def topology_devices(topology: str) -> Sequence[jax.Device]:
    """Returns the devices of a slice, for a mesh to compile for; nothing can run on them.

    Args:
      topology: such as "v5e:2x4".

    Raises:
      TPUError: libtpu is not installed, or does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise TPUError("the TPU compiler is not installed: pip install 'rdfer-jax[tpu]'")
    # Nothing runs on a TPU here, so no lock on one is needed; otherwise a second process fails.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # These two only silence libtpu's complaint that the machine is none of Google's.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    chip, _, grid = topology.partition(":")
    options: dict[str, Any] = {}
    if chip == "v4":
        options["chip_config_name"] = "megacore"  # One device a chip, as JAX sees a real v4.
    if grid and set(grid) <= set("1x"):
        options["chips_per_host_bounds"] = (1, 1, 1)  # libtpu expects hosts of four chips.
    try:
        if not grid:
            raise ValueError("it names no grid")
        description = topologies.get_topology_desc(topology, "tpu", **options)
    except (RuntimeError, ValueError) as error:
        raise TPUError(
            f"libtpu does not know the topology '{topology}': {_first_line(error)}\n"
            "It takes a chip and a grid of chips, such as v4:2x2x2, v5e:2x4, v5p:4x4x4 or v6e:4x4."
        ) from error
    return description.devices


def compile_step(
    step: Any, arguments: Sequence[Any], options: Mapping[str, Any] | None = None
) -> tuple[Compiled, float]:
    """Compiles a jitted function; the shardings of its arguments name the devices.

    Args:
      step: what jax.jit returned.
      arguments: trees of jax.ShapeDtypeStruct with shardings.
      options: of XLA, by name.

    Returns:
      The executable, and the seconds that tracing and compiling took.

    Raises:
      TPUError: the program does not fit in a chip's memory.
    """
    start = time.monotonic()
    try:
        compiled = step.lower(*arguments).compile(compiler_options=dict(options or {}))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TPUError(f"the step does not fit in a chip's memory: {_first_line(error)}") from error
    return compiled, time.monotonic() - start


def analyze(compiled: Compiled, chip: Chip | None, num_videos: int) -> dict[str, Any]:
    """Says what an executable needs and how long it may take.

    Args:
      compiled: of one step, for TPU.
      chip: what each device is; None where its data sheet is not known here.
      num_videos: videos in a step, over all devices.

    Returns:
      What goes into the JSON, in bytes, FLOPs and seconds, all for one chip but for
      videos_per_second. Numbers that cannot be had are None.
    """
    cost: Any = compiled.cost_analysis()
    held = memory(compiled)
    compute_seconds = memory_seconds = roofline_seconds = fits = None
    if chip is not None:
        fits = held["total"] <= chip.hbm_bytes
        compute_seconds = cost["flops"] / chip.flops_per_second
        memory_seconds = cost["bytes accessed"] / chip.bytes_per_second
        roofline_seconds = max(compute_seconds, memory_seconds)
    optimal_seconds = cost.get("optimal_seconds", 0.0)
    hlo = compiled.as_text() or ""
    return {
        "memory": held,
        "hbm_bytes": None if chip is None else chip.hbm_bytes,
        "fits": fits,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "loops": count_loops(hlo),
        "collectives": collectives(hlo),
        # The compiler's own estimate comes out negative for large programs: then it is none.
        "compiler_seconds": optimal_seconds if optimal_seconds > 0 else None,
        "compute_seconds": compute_seconds,
        "memory_seconds": memory_seconds,
        "roofline_seconds": roofline_seconds,
        "videos_per_second": num_videos / roofline_seconds if roofline_seconds else None,
    }


def memory(compiled: Compiled) -> dict[str, int]:
    """Returns the bytes of one device that an executable needs, by what for, and in total."""
    stats: Any = compiled.memory_analysis()
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "reused": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    # Outputs that reuse donated arguments are in both of the first two.
    return parts | {"total": sum(parts.values()) - 2 * parts["reused"]}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class Instruction(NamedTuple):
    """One line of HLO text: `%name = type opcode(operands), attributes`."""

    computation: str
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


_COMPUTATION = re.compile(r"(?:ENTRY )?%(\S+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%(\S+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)([a-z0-9]*)\[([\d,<=]*)\]")


def instructions(hlo: str) -> Iterator[Instruction]:
    """Yields the instructions of an HLO module's text, with those of all its computations."""
    computation = ""
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        elif match := _INSTRUCTION.match(line):
            type_, rest = _split_type(match[2])
            opcode, _, rest = rest.partition("(")
            operands, _, attributes = rest.partition(")")
            names = tuple(re.findall(r"%([^\s,)]+)", operands))
            yield Instruction(computation, match[1], type_, opcode.strip(), names, attributes)


def _split_type(text: str) -> tuple[str, str]:
    """Splits 'type opcode(...' after the type, which may be a tuple of tuples."""
    if not text.startswith("("):
        type_, _, rest = text.partition(" ")
        return type_, rest
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[: position + 1], text[position + 1 :]
    return text, ""


def type_bytes(type_: str) -> int:
    """Returns the bytes of an HLO type, such as `(f32[2,3]{1,0:T(8,128)}, pred[])`, unpadded."""
    total = 0
    for kind, width, _, dimensions in _ARRAY.findall(type_):
        if kind in ("token", "opaque"):
            continue
        bits = 8 if kind == "pred" else int(width)
        for dimension in filter(None, dimensions.split(",")):
            bits *= int(dimension.removeprefix("<="))
        total += -(-bits // 8)
    return total


def _elements(type_: str) -> list[str]:
    """Returns the types in a tuple type, not looking into tuples inside of it."""
    if not type_.startswith("("):
        return [type_]
    found, depth, start = [], 0, 1
    for position, character in enumerate(type_):
        depth += (character in "([{") - (character in ")]}")
        if (depth == 1 and character == ",") or not depth:
            found.append(type_[start:position])
            start = position + 1
    return found


def collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Counts the collectives of a compiled module by kind.

    An asynchronous collective counts once, whichever way it is written: as a pair of -start and
    -done, or, on TPU, as several fusions that each hold a copy of it. An all-reduce of which each
    chip keeps only its slice, which TPU fuses, is a reduce-scatter. A collective in a loop's body
    counts once, however often the loop turns.

    Args:
      hlo: the text of a compiled module.

    Returns:
      For each kind that occurs, its count and the bytes on one chip: of what goes in or what
      comes out, whichever is larger.
    """
    found: dict[str, dict[str, int]] = {}
    sizes: dict[str, int] = {}
    seen = set()
    for instruction in instructions(hlo):
        sizes[instruction.name] = type_bytes(instruction.type)
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        if (identity := _asynchronous_identity(instruction)) is not None:
            if identity in seen:
                continue
            seen.add(identity)
        if instruction.computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        operand_bytes = sum(sizes.get(name, 0) for name in instruction.operands)
        if instruction.opcode.endswith("-start"):
            # Its result holds the operands, the results and flags, each an element.
            result_bytes = max(map(type_bytes, _elements(instruction.type)))
        else:
            result_bytes = type_bytes(instruction.type)
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += max(operand_bytes, result_bytes)
    return dict(sorted(found.items()))


def _asynchronous_identity(instruction: Instruction) -> tuple[str, ...] | None:
    """Names the collective of which a TPU fusion holds one of several copies, or returns None."""
    chain = re.search(r'chain_id="(\w+)"', instruction.attributes)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return (instruction.opcode, chain[1], channel[1] if channel else "") if chain else None


def count_loops(hlo: str) -> int:
    """Counts the while loops of a module, whose bodies FLOPs, bytes and collectives count once."""
    return sum(instruction.opcode == "while" for instruction in instructions(hlo))


def table(report: dict[str, Any]) -> str:
    """Returns a report as text for people."""
    memory, hbm_bytes = report["memory"], report["hbm_bytes"]
    rows = [
        ("slice", f"{report['topology']}, {report['num_chips']} chips"),
        ("batch", f"{report['num_videos']} videos a step"),
        ("compiled in", f"{report['compile_wall_seconds']:.1f} s"),
        ("", ""),
        *memory_rows(memory),
        (
            "memory of a chip",
            "not known here" if hbm_bytes is None else f"{hbm_bytes / GIB:.0f} GiB",
        ),
        ("fits", {True: "yes", False: "NO", None: "not known"}[report["fits"]]),
        ("", ""),
        ("computes", _short(report["flops"], "FLOP")),
        ("reads and writes", _short(report["bytes_accessed"], "B")),
        ("loops, counted as one turn", str(report["loops"])),
        *collective_rows(report["collectives"]),
        ("", ""),
        ("least time to compute", _milliseconds(report["compute_seconds"])),
        ("least time to move bytes", _milliseconds(report["memory_seconds"])),
        ("roofline, the larger", _milliseconds(report["roofline_seconds"])),
        ("compiler's estimate", _milliseconds(report["compiler_seconds"])),
        ("at the roofline", _rate(report["videos_per_second"])),
    ]
    return aligned("The train step, on each chip:", rows)


Row = tuple[str, str]


def aligned(title: str, rows: Sequence[Row]) -> str:
    """Returns a title and, below each other, names and values."""
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}".rstrip() for name, value in rows]
    return "\n".join([title, "", *lines])


def memory_rows(held: Mapping[str, int]) -> list[Row]:
    """What `memory` returns, for people."""
    return [(f"memory: {name}", f"{size / GIB:.3f} GiB") for name, size in held.items()]


def collective_rows(found: Mapping[str, Mapping[str, int]]) -> list[Row]:
    """What `collectives` returns, for people."""
    return [
        (kind, f"{entry['count']}, together {_short(entry['bytes'], 'B')}")
        for kind, entry in found.items()
    ]


def _short(value: float, unit: str) -> str:
    """Writes a number with a decimal prefix, such as 2.572 TFLOP."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3f} {prefix}{unit}"
    return f"{value:.0f} {unit}"


def _milliseconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{1000 * seconds:.3f} ms"


def _rate(videos_per_second: float | None) -> str:
    return "none" if videos_per_second is None else f"{videos_per_second:,.0f} videos/s, all chips"


def run(
    make_step: Callable[[jax.sharding.Mesh], tuple[Any, Sequence[Any]]],
    topology: str,
    num_videos: int,
) -> dict[str, Any]:
    """Compiles a step for a topology and returns the report.

    Args:
      make_step: from a mesh to a jitted step and its abstract arguments, with shardings.
      topology: such as "v5e:2x4".
      num_videos: videos in a step, over all devices.

    Raises:
      TPUError: libtpu is missing, does not know the topology, or the step does not fit.
    """
    devices = topology_devices(topology)
    compiled, seconds = compile_step(*make_step(sharding.make_mesh(devices)))
    chip = CHIPS.get(topology.partition(":")[0])
    return {
        "topology": topology,
        "device_kind": devices[0].device_kind,
        "num_chips": len(devices),
        "num_videos": num_videos,
        "compile_wall_seconds": seconds,
        **analyze(compiled, chip, num_videos),
    }


def define_flags() -> None:
    """Defines the flags of both command lines: not at import, where they would clash with others."""
    config_flags.DEFINE_config_file(
        "config", None, "file with the settings, such as configs/dfew.py", lock_config=True
    )
    flags.DEFINE_integer("num_classes", 7, "classes of the data set, which is not read")
    flags.DEFINE_integer(
        "num_train", 10_000, "videos to train on: rows of the memory of predictions, if it is on"
    )
    flags.DEFINE_string("json", None, "file to write the report to; may be gs://")
    flags.mark_flag_as_required("config")


def command(
    run: Callable[..., dict[str, Any]], table: Callable[[dict[str, Any]], str], chips: str
) -> None:
    """Compiles the train step, prints the table, writes the JSON.

    Args:
      run: what compiles it, such as this module's.
      table: what makes text of its report.
      chips: what to compile for, as the user says it.
    """
    options = flags.FLAGS
    jax.config.update("jax_platforms", "cpu")
    try:
        config = config_lib.resolve(options.config)
        report = run(
            lambda mesh: ModelSetup(
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


if __name__ == "__main__":
    define_flags()
    flags.DEFINE_string("topology", "v5e:2x4", "chip and grid of chips to compile for")
    app.run(lambda _: command(run, table, flags.FLAGS.topology))
