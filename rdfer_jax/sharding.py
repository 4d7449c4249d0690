"""The mesh of devices, and how arrays lie on it."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

#: The one axis of the mesh: videos of a batch are spread along it.
DATA_AXIS = "data"


def split_cpu(count: int) -> None:
    """Makes several devices of a CPU, at most one for each core that this process may use.

    Many operations of a small network are too small to use several cores well; two halves of a batch side
    by side do. To be called before JAX looks for its devices. XLA_FLAGS, where it says how many, is obeyed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if count and not given:
        jax.config.update("jax_num_cpu_devices", min(count, cores or 1))


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of one axis over all devices of all processes, or over those given.

    The axis type is Auto: Explicit, the default of jax.make_mesh, breaks Linen's dropout.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Every device holds its share of the first axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def local_batch_size(batch_size: int, mesh: Mesh, field: str) -> int:
    """Returns how many examples of a batch this process has to load.

    Args:
      batch_size: examples over all devices.
      mesh: the devices.
      field: name of the setting, for the message.

    Raises:
      ValueError: the batch cannot be spread evenly over the devices.
    """
    if batch_size % mesh.size:
        raise ValueError(
            f"{field} = {batch_size} cannot be spread evenly over {mesh.size} devices: "
            f"take a multiple of {mesh.size}"
        )
    return batch_size // jax.process_count()
