"""Compiles the train step ahead of time for a TPU that you do not have, and reports its memory and cost.

    python -m benchmarks.tpu --config=configs/dfew.py --topology=v5e:2x4 [--json=PATH]
        [--pretrain] [--config.data.batch_size=256 ...]

libtpu contains the TPU compiler and runs on any x86-64 Linux machine: `pip install 'rdfer-jax[tpu]'`. It
builds the same program that a real slice would run. So the report shows whether the step compiles, whether
it fits into memory, and which collectives it runs; times are estimates. A full-size step takes minutes.

A topology is a chip and a grid: v4:2x2x2, v5e:2x4, v5e:16x16, v5p:4x4x4, v6e:4x4, or any other that libtpu
supports. No TPU is used, so several instances can run at once, also next to a program that uses a TPU;
libtpu's lock file is ignored.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags
from jax.experimental import topologies
from jax.stages import Compiled

from benchmarks import fit, hlo
from rdfer_jax import sharding


class Chip(NamedTuple):
    """Hardware limits of one chip, from Google's data sheets (cloud.google.com/tpu/docs).

    Attributes:
      hbm_bytes: memory.
      flops_per_second: peak in bfloat16.
      bytes_per_second: memory bandwidth.
    """

    hbm_bytes: float
    flops_per_second: float
    bytes_per_second: float


CHIPS = {
    "v4": Chip(32 * fit.GIB, 275e12, 1228e9),
    "v5e": Chip(16 * fit.GIB, 197e12, 819e9),
    "v5p": Chip(95 * fit.GIB, 459e12, 2765e9),
    "v6e": Chip(32 * fit.GIB, 918e12, 1640e9),
}


class TPUError(fit.CompilerError):
    """The step cannot be compiled for a TPU."""


def topology_devices(topology: str) -> Sequence[jax.Device]:
    """Returns the devices of a slice, to compile for; they cannot run programs.

    Args:
      topology: such as "v5e:2x4".

    Raises:
      TPUError: libtpu is not installed, or does not support the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise TPUError("the TPU compiler is not installed: pip install 'rdfer-jax[tpu]'")
    # Nothing runs on a TPU, so no lock is needed; with the lock, a second process would fail.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # These two silence libtpu's warning that this is not a Google Cloud machine.
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
            f"libtpu does not know the topology '{topology}': {fit.first_line(error)}\n"
            "It takes a chip and a grid of chips, such as v4:2x2x2, v5e:2x4, v5p:4x4x4 or v6e:4x4."
        ) from error
    return description.devices


def analyze(compiled: Compiled, chip: Chip | None, num_videos: int) -> dict[str, Any]:
    """Returns the memory, cost and time estimates of an executable.

    Args:
      compiled: of one step, for TPU.
      chip: limits of each device; None if unknown.
      num_videos: videos in a step, over all devices.

    Returns:
      The fields of the JSON report, in bytes, FLOPs and seconds. All are for one chip, except
      videos_per_second. Unknown numbers are None.
    """
    cost: Any = compiled.cost_analysis()
    held = fit.memory(compiled)
    compute_seconds = memory_seconds = roofline_seconds = fits = None
    if chip is not None:
        fits = held["total"] <= chip.hbm_bytes
        compute_seconds = cost["flops"] / chip.flops_per_second
        memory_seconds = cost["bytes accessed"] / chip.bytes_per_second
        roofline_seconds = max(compute_seconds, memory_seconds)
    optimal_seconds = cost.get("optimal_seconds", 0.0)
    text = compiled.as_text() or ""
    return {
        "memory": held,
        "hbm_bytes": None if chip is None else chip.hbm_bytes,
        "fits": fits,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "loops": hlo.count_loops(text),
        "collectives": hlo.collectives(text),
        # The compiler's estimate is negative for large programs; it is left out then.
        "compiler_seconds": optimal_seconds if optimal_seconds > 0 else None,
        "compute_seconds": compute_seconds,
        "memory_seconds": memory_seconds,
        "roofline_seconds": roofline_seconds,
        "videos_per_second": num_videos / roofline_seconds if roofline_seconds else None,
    }


def table(report: dict[str, Any]) -> str:
    """Returns a report as text."""
    memory, hbm_bytes = report["memory"], report["hbm_bytes"]
    rows = [
        ("slice", f"{report['topology']}, {report['num_chips']} chips"),
        ("batch", f"{report['num_videos']} videos a step"),
        ("compiled in", f"{report['compile_wall_seconds']:.1f} s"),
        ("", ""),
        *fit.memory_rows(memory),
        (
            "memory of a chip",
            "unknown" if hbm_bytes is None else f"{hbm_bytes / fit.GIB:.0f} GiB",
        ),
        ("fits", {True: "yes", False: "NO", None: "unknown"}[report["fits"]]),
        ("", ""),
        ("computes", fit.short_number(report["flops"], "FLOP")),
        ("reads and writes", fit.short_number(report["bytes_accessed"], "B")),
        ("loops, one iteration counted", str(report["loops"])),
        *fit.collective_rows(report["collectives"]),
        ("", ""),
        ("minimum compute time", _milliseconds(report["compute_seconds"])),
        ("minimum memory time", _milliseconds(report["memory_seconds"])),
        ("roofline, the larger of the two", _milliseconds(report["roofline_seconds"])),
        ("compiler's estimate", _milliseconds(report["compiler_seconds"])),
        ("throughput at the roofline", _rate(report["videos_per_second"])),
    ]
    return fit.aligned("The train step, on each chip:", rows)


def _milliseconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{1000 * seconds:.3f} ms"


def _rate(videos_per_second: float | None) -> str:
    return "none" if videos_per_second is None else f"{videos_per_second:,.0f} videos/s, all chips"


def run(
    make_step: fit.MakeStep,
    topology: str,
    num_videos: int,
) -> dict[str, Any]:
    """Compiles a step for a topology and returns the report.

    Args:
      make_step: mesh -> (jitted step, its abstract arguments with shardings).
      topology: such as "v5e:2x4".
      num_videos: videos in a step, over all devices.

    Raises:
      TPUError: libtpu is missing, does not know the topology, or the step does not fit.
    """
    devices = topology_devices(topology)
    compiled, seconds = fit.compile_step(*make_step(sharding.make_mesh(devices)))
    chip = CHIPS.get(topology.partition(":")[0])
    return {
        "topology": topology,
        "device_kind": devices[0].device_kind,
        "num_chips": len(devices),
        "num_videos": num_videos,
        "compile_wall_seconds": seconds,
        **analyze(compiled, chip, num_videos),
    }


if __name__ == "__main__":
    fit.define_flags()
    flags.DEFINE_string("topology", "v5e:2x4", "Chip and grid of chips to compile for.")
    app.run(lambda _: fit.command(run, table, flags.FLAGS.topology))
