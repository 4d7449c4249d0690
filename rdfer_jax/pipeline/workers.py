"""Start-up of the worker processes that read and decode."""

import multiprocessing
import os
import threading

import cv2

from rdfer_jax import workarounds


def start_worker(worker: int, count: int) -> None:
    """Prepares a worker process; Grain calls it once in each, with its number and their count."""
    del worker, count
    cv2.setNumThreads(1)  # the parallelism comes from the processes
    workarounds.name_segments_after_parent()
    exit_with_parent()


def exit_with_parent() -> None:
    """Makes this process exit when its parent process ends, even if the parent is killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
