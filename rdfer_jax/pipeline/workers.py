"""Start-up of the worker processes that read and decode."""

import cv2

from rdfer_jax import processes, workarounds


def start_worker(worker: int, count: int) -> None:
    """Prepares a worker process; Grain calls it once in each, with its number and their count."""
    del worker, count
    cv2.setNumThreads(1)  # the parallelism comes from the processes
    workarounds.name_segments_after_parent()
    processes.exit_with_parent()
