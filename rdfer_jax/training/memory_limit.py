"""Will it fit? The memory that a compiled step needs, and the memory that there is. GB is 10^9 bytes."""

import logging
import math
import pathlib
import time
from typing import Any

import jax
from jax.sharding import Mesh

log = logging.getLogger(__name__)

#: Part of the free memory that a step may use: the rest is for the program, its data and fragments.
SHARE = 0.9
_GB = 1e9
_CGROUP = pathlib.Path("/sys/fs/cgroup")


class MemoryTooSmallError(ValueError):
    """A step needs more memory than there is; the message names the setting that would fit."""


def of_device(mesh: Mesh) -> int | None:
    """Returns the bytes of memory of a GPU or TPU, the same in all processes; None for others.

    None, too, for devices that are only described.
    """
    used = set(mesh.devices.flat)
    device = next((one for one in jax.local_devices() if one in used), None)
    if device is None or device.platform == "cpu":
        return None
    stats = _stats(device)
    return stats["bytes_limit"] if stats else None


def available(mesh: Mesh) -> int | None:
    """Returns the free bytes of a device; on a CPU, of this machine or container, divided by its devices.

    None if it is not known.
    """
    device = mesh.devices.flat[0]
    if device.platform != "cpu":
        stats = _stats(device) if device.process_index == jax.process_index() else None
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if stats else None
    free = _free_in_machine()
    return None if free is None else free // len(mesh.local_devices)


def _stats(device: jax.Device) -> dict[str, int] | None:
    """Returns what a device of this process says of its memory; None if it does not know its size."""
    stats = device.memory_stats()
    return stats if stats and "bytes_limit" in stats else None


def _free_in_machine() -> int | None:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return min(free, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit
        return free


def needed(compiled: jax.stages.Compiled) -> int | None:
    """Returns the bytes that an executable needs on a device besides its arguments; None if not known."""
    stats: Any = compiled.memory_analysis()
    if stats is None:
        return None
    return stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes


def compile_and_check(
    step: Any, arguments: tuple[Any, ...], mesh: Mesh, what: str, size: int
) -> None:
    """Compiles a jitted step, says how long it took, and checks its memory.

    The first call of the step with arguments like these then finds it compiled.

    Args:
      step: a result of jax.jit.
      arguments: of its calls, or their shapes.
      mesh: the devices.
      what: what it is, for messages, and the setting of its batch: "training step, config.data.batch_size".
      size: the batch size over all devices.

    Raises:
      MemoryTooSmallError: it needs more memory than there is.
    """
    name, _, setting = what.partition(", ")
    log.info("compiling the %s ...", name)
    start = time.monotonic()
    try:
        compiled = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryTooSmallError(
            f"the {name} does not fit in the memory of a device with {setting} = {size}; "
            f"{_advice(setting, size, mesh.size, 0.5)}"
        ) from None
    seconds = time.monotonic() - start
    want, have = needed(compiled), available(mesh)
    shown = "" if want is None else f"; it needs {want / _GB:.2g} GB of memory"
    log.info("compiled the %s in %.0f s%s", name, seconds, shown)
    if want is not None and have is not None and want > SHARE * have:
        advice = _advice(setting, size, mesh.size, SHARE * have / want)
        raise MemoryTooSmallError(
            f"the {name} needs {want / _GB:.3g} GB of memory with {setting} = {size}, and "
            f"{have / _GB:.3g} GB are free on each device; {advice}"
        )


def _advice(setting: str, size: int, devices: int, part: float) -> str:
    """Returns the setting that would fit, if the memory is proportional to the batch."""
    most = math.floor(size * part / devices)
    fitting = devices * 2 ** int(math.log2(most)) if most >= 1 else 0
    if 0 < fitting < size:
        return f"set {setting} to {fitting} or less"
    return (
        "a batch of one video per device is too large: lower config.data.frames and "
        "config.augment.size, or set config.model.trunk to resnet8_narrow"
    )
