"""Calls a function for many indices in worker processes, and yields the results in order.

Worker w of n calls indices w, w + n, w + 2n, ... and sends each result through its own pipe. So
the order needs no bookkeeping, and a worker ends by itself when its reader is gone, even when that
was killed.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import cv2

#: Results that a worker may be ahead of the reader.
_AHEAD = 8


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[int], Any], count: int, *, num_workers: int | None = None
) -> Iterator[Any]:
    """Yields `function(i)` for i from 0 to `count` - 1, in this order.

    Args:
      function: must pickle, and so must its results.
      count: number of calls.
      num_workers: number of processes; 0 calls in this process, None takes one for each core.

    Raises:
      RuntimeError: a call failed, with its traceback, or a worker died.
    """
    num_workers = min(num_cores() if num_workers is None else num_workers, count)
    if not num_workers:
        yield from map(function, range(count))
        return
    started: list[tuple[Any, Connection]] = []
    try:
        for worker in range(num_workers):
            started.append(_start(function, range(worker, count, num_workers)))
        for i in range(count):
            yield _receive(started[i % num_workers][1], i)
    finally:
        for process, reader in started:
            reader.close()
            process.terminate()
        for process, _ in started:
            process.join()


def _start(function: Callable[[int], Any], indices: range) -> tuple[Any, Connection]:
    """Starts a worker that shares no state with this process (JAX may be running in it)."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, indices, writer), daemon=True)
    with _without_main():
        process.start()
    writer.close()
    return process, reader


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keeps a new process from importing the main module, which may load JAX and whatever else."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _receive(reader: Connection, index: int) -> Any:
    try:
        is_good, result = reader.recv()
    except EOFError:
        raise RuntimeError(f"the worker process for clip {index} died (out of memory?)") from None
    if not is_good:
        raise RuntimeError(f"clip {index} failed in a worker process:\n{result}")
    return result


def _work(function: Callable[[int], Any], indices: range, writer: Connection) -> None:
    """The life of a worker: computes while a thread sends what is ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    cv2.setNumThreads(1)
    ready: queue.Queue = queue.Queue(_AHEAD)
    threading.Thread(target=_send, args=(writer, ready), daemon=True).start()
    for index in indices:
        try:
            ready.put((True, function(index)))
        except Exception:
            ready.put((False, traceback.format_exc()))
            break
    ready.put(None)
    ready.join()


def _send(writer: Connection, ready: queue.Queue) -> None:
    try:
        while (message := ready.get()) is not None:
            writer.send(message)
            ready.task_done()
    except OSError:  # nobody reads any more
        os._exit(1)
    writer.close()
    ready.task_done()
