"""Batches on the host -> batches on the devices, a few ahead of the step."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
from jax.sharding import Mesh

from rdfer_jax import sharding
from rdfer_jax.pipeline.loader import Element
from rdfer_jax.types import Batch

DEVICE_KEYS = ("frames", "label", "index", "mask")


def feed(
    batches: grain.IterDataset[Element], mesh: Mesh, prefetch: int
) -> grain.IterDataset[tuple[Batch, dict[str, Any]]]:
    """Places batches on the devices in a thread of its own.

    Args:
      batches: this process's rows of each global batch.
      mesh: the devices; the global batch is spread along its axis.
      prefetch: batches that wait on the devices.

    Returns:
      What `placer` makes of each.
    """
    return grain.experimental.ThreadPrefetchIterDataset(
        batches.map(placer(mesh)), prefetch_buffer_size=prefetch
    )


def placer(mesh: Mesh) -> Callable[[Element], tuple[Batch, dict[str, Any]]]:
    """Returns what places a batch on the devices, spread along the mesh's axis, without waiting for it.

    It takes this process's rows of a global batch, and returns the global Batch and what stays on the
    host: a dict with this process's rows of everything else, clip_id and votes for example.
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
    """Ends the threads and processes behind an iterator, where it has any."""
    if hasattr(iterator, "close"):
        iterator.close()
