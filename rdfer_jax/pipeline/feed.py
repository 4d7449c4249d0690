"""Transfer of batches from the host to the devices, a few steps ahead."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
from jax.sharding import Mesh

from rdfer_jax import sharding
from rdfer_jax.pipeline.loader import Element
from rdfer_jax.types import Batch

DEVICE_KEYS = ("frames", "label", "index", "mask", "votes")


def feed(
    batches: grain.IterDataset[Element], mesh: Mesh, prefetch: int
) -> grain.IterDataset[tuple[Batch, dict[str, Any]]]:
    """Transfers batches to the devices, in a separate thread.

    Args:
      batches: this process's rows of each global batch.
      mesh: the devices; the global batch is sharded along its axis.
      prefetch: number of batches to transfer in advance.

    Returns:
      For each batch, what the function of `placer` returns.
    """
    return grain.experimental.ThreadPrefetchIterDataset(
        batches.map(placer(mesh)), prefetch_buffer_size=prefetch
    )


def placer(mesh: Mesh) -> Callable[[Element], tuple[Batch, dict[str, Any]]]:
    """Returns a function that transfers a batch to the devices, asynchronously.

    It takes this process's rows of a global batch, and returns the global Batch, sharded along the mesh's
    axis, and a dict with this process's rows of all fields but the frames, which stay on the host.
    """
    layout = sharding.split_batch(mesh)

    def place(element: Element) -> tuple[Batch, dict[str, Any]]:
        arrays = {
            key: jax.make_array_from_process_local_data(layout, element[key]) for key in DEVICE_KEYS
        }
        if "is_flipped" in element:
            arrays["flipped"] = jax.make_array_from_process_local_data(
                layout, element["is_flipped"]
            )
        return Batch(**arrays), {key: value for key, value in element.items() if key != "frames"}

    return place


def close(iterator: Iterator) -> None:
    """Stops the threads and worker processes of an iterator, if it has any."""
    if hasattr(iterator, "close"):
        iterator.close()
