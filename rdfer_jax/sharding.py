"""The device mesh, and the layout of arrays on it."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

#: The only axis of the mesh; batches are sharded along it.
DATA_AXIS = "data"
#: Arrays with fewer elements are not worth the communication.
LEAST_SPLIT = 2**14


def split_cpu(count: int) -> None:
    """Splits the CPU into several JAX devices, at most one per core that this process may use.

    Many operations of a small network are too small for several cores, but parts of a batch can run in
    parallel. Call it before JAX initializes its devices. A device count in XLA_FLAGS has precedence.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    is_set = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if count and not is_set:
        jax.config.update("jax_num_cpu_devices", min(count, cores or 1))


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis over the given devices, by default all devices of all processes.

    The axis type is Auto: Explicit, the default of jax.make_mesh, breaks Linen's dropout.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which every device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def split_parameters(mesh: Mesh, tree: Any) -> Any:
    """Returns the shardings in which every device holds a part of each large array (FSDP).

    Args:
      mesh: the devices.
      tree: of arrays, or anything with a shape.

    Returns:
      A tree of shardings: the longest axis that can be split evenly is. Arrays of fewer than LEAST_SPLIT
      elements, and those without such an axis, are whole on every device.
    """

    def layout(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if math.prod(leaf.shape) < LEAST_SPLIT or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, DATA_AXIS))

    return jax.tree.map(layout, tree)


def local_batch_size(batch_size: int, mesh: Mesh, field: str) -> int:
    """Returns the number of examples per batch that this process loads.

    Args:
      batch_size: examples per batch, over all devices.
      mesh: the devices.
      field: name of the setting, for messages.

    Raises:
      ValueError: the batch size is not a multiple of the number of devices.
    """
    if batch_size % mesh.size:
        raise ValueError(
            f"{field}: expected a multiple of the number of devices, {mesh.size}, got {batch_size}"
        )
    return batch_size // jax.process_count()
