"""Compiles the train step ahead of time for GPUs that you do not have, and reports its memory.

    python -m benchmarks.gpu --config=configs/dfew.py --gpus=h200:1 [--json=PATH]
        [--config.data.batch_size=256 ...]

JAX's CUDA plugin contains the compiler and runs on any x86-64 Linux machine without a driver: `pip install
'rdfer-jax[cuda12]'`. The report shows whether the step compiles, the memory of its arrays, the types and
layouts of its convolutions, and its collectives. There are no times, and cuDNN's workspace is not counted,
because cuDNN chooses its algorithms by timing them on the GPU. On a machine with a GPU, use
`benchmarks.step` instead.

--gpus is a model and the number of GPUs in one machine: a100:1, h100:8, h200:1.
"""

import collections
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags
from jax.experimental import topologies

from benchmarks import fit, hlo
from rdfer_jax import sharding


class Gpu(NamedTuple):
    """The properties of a GPU that the compiler uses, from NVIDIA's data sheets and CUDA device queries.

    Attributes:
      name: as reported by the driver.
      capability: major version of the compute capability.
      memory: in bytes.
      bandwidth: of the memory, in bytes per second.
      cores: multiprocessors.
      lanes: floating-point units of each of them.
      shared: bytes of shared memory of each of them.
      cache: bytes of the L2 cache.
      clock: in GHz.
    """

    name: str
    capability: int
    memory: int
    bandwidth: int
    cores: int
    lanes: int
    shared: int
    cache: int
    clock: float


GPUS: Mapping[str, Gpu] = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB",
        8,
        85_100_068_864,
        2_039_040_000_000,
        108,
        64,
        167_936,
        41_943_040,
        1.41,
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3",
        9,
        84_942_979_072,
        3_352_320_000_000,
        132,
        128,
        233_472,
        52_428_800,
        1.98,
    ),
    "h200": Gpu(
        "NVIDIA H200", 9, 151_397_597_184, 4_800_000_000_000, 132, 128, 233_472, 52_428_800, 1.98
    ),
}

#: Use cuBLAS for matrix products: XLA chooses among its own kernels by timing them, and its default without
#: timing does not support every shape.
OPTIONS = {"xla_gpu_enable_triton_gemm": False}

#: A GpuTargetConfigProto of XLA (xla/stream_executor/device_description.proto).
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {optin}
  shared_memory_per_core: {gpu.shared}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  cuda_compute_capability {{ major: {gpu.capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{gpu.name}"
"""


class GPUError(fit.CompilerError):
    """The step cannot be compiled for a GPU."""


def devices(gpus: str) -> tuple[Gpu, Sequence[jax.Device]]:
    """Returns GPUs to compile for; they cannot run programs.

    Args:
      gpus: such as "h200:1".

    Raises:
      GPUError: the model is not in GPUS, or the compiler is not installed.
    """
    kind, _, number = gpus.partition(":")
    if kind not in GPUS or not number.isdecimal() or not int(number):
        raise GPUError(
            f"--gpus={gpus}: expected {', '.join(GPUS)}, a colon and a number, such as h200:1"
        )
    # The plugin's check of the driver would fail without one.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    gpu = GPUS[kind]
    target = _TARGET.format(gpu=gpu, optin=gpu.shared - 1024)
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=target, topology=f"1x1x{number}"
        )
    except (NotImplementedError, RuntimeError) as error:
        raise GPUError(
            "the compiler for GPUs is not installed: pip install 'rdfer-jax[cuda12]' "
            f"({str(error).partition(chr(10))[0]})"
        ) from error
    return gpu, topology.devices


_CONVOLUTION = re.compile(
    r"= \(?(?P<type>\w+)\[.*dim_labels=(?P<labels>\S+),.*"
    r'custom_call_target="__cudnn\$conv(?P<what>\w+)"'
)


def convolutions(text: str) -> dict[str, int]:
    """Counts cuDNN's convolutions by direction, number of axes, type and layout.

    Args:
      text: of a compiled module.

    Returns:
      Such as {"forward, 2-D bf16 b01f": 20}; b is the batch, f the channels, 0 and 1 rows and columns.
    """
    found: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        if match := _CONVOLUTION.search(line):
            layout = match["labels"].partition("_")[0]
            what = re.sub("(?<!^)(?=[A-Z])", " ", match["what"]).lower()
            found[f"{what}, {len(layout) - 2}-D {match['type']} {layout}"] += 1
    return dict(sorted(found.items()))


def run(make_step: fit.MakeStep, gpus: str, num_videos: int) -> dict[str, Any]:
    """Compiles a step for GPUs and returns the report.

    Args:
      make_step: mesh -> (jitted step, its abstract arguments with shardings).
      gpus: such as "h200:1".
      num_videos: videos in a step, over all GPUs.

    Raises:
      CompilerError: as `devices` says, or the step does not fit.
    """
    gpu, found = devices(gpus)
    step, arguments = make_step(sharding.make_mesh(found))
    compiled, seconds = fit.compile_step(step, arguments, OPTIONS)
    memory, text = fit.memory(compiled), compiled.as_text() or ""
    return {
        "gpus": gpus,
        "name": gpu.name,
        "num_videos": num_videos,
        "compile_wall_seconds": seconds,
        "memory": memory,
        "memory_of_a_gpu": gpu.memory,
        "fits": memory["total"] <= gpu.memory,
        "convolutions": convolutions(text),
        "loops": hlo.count_loops(text),
        "collectives": hlo.collectives(text),
    }


def table(report: Mapping[str, Any]) -> str:
    """Returns a report as text."""
    rows = [
        ("GPUs", f"{report['gpus']}, {report['name']}"),
        ("batch", f"{report['num_videos']} videos a step"),
        ("compiled in", f"{report['compile_wall_seconds']:.1f} s"),
        ("", ""),
        *fit.memory_rows(report["memory"]),
        ("memory of a GPU", f"{report['memory_of_a_gpu'] / fit.GIB:.1f} GiB"),
        ("fits, without cuDNN workspace", "yes" if report["fits"] else "NO"),
        ("", ""),
        *((f"convolution {what}", str(count)) for what, count in report["convolutions"].items()),
        ("loops", str(report["loops"])),
        *fit.collective_rows(report["collectives"]),
    ]
    return fit.aligned("The train step, on each GPU:", rows)


if __name__ == "__main__":
    fit.define_flags()
    flags.DEFINE_string("gpus", "h200:1", "Model and number of the GPUs to compile for.")
    app.run(lambda _: fit.command(run, table, flags.FLAGS.gpus))
