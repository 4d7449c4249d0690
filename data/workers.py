"""Worker processes that map a function over items in order, and never outlive the build."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import cv2

from rdfer_jax.processes import exit_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

#: With fewer items per worker, starting the workers takes longer than they save.
_ITEMS_PER_WORKER = 8
#: Number of items per worker that are submitted ahead of the one that is waited for.
_AHEAD = 4


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    cv2.setNumThreads(1)  # there is already one process per core
    exit_with_parent()


@contextlib.contextmanager
def _interrupt_afterwards() -> Iterator[None]:
    """Delays Ctrl-C until the end of the block.

    A worker process whose start is interrupted gets only a part of its data and prints a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    interrupts = []
    before = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt


class Pool:
    """Maps a function over items in new processes; results come in order. Use as a context manager.

    Processes are spawned, not forked, and only if there are enough items. With few items, or one core,
    the work is done in this process.

    Attributes:
      workers: maximum number of processes; by default one per core.
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers or os.cpu_count() or 1
        self._executor: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], total: int
    ) -> Iterator[Result]:
        """Yields function(item) for each item, in order.

        Args:
          function: a function at the top level of a module, since it is pickled by name.
          items: its arguments.
          total: number of items, which decides whether to start processes.
        """
        workers = min(self.workers, total // _ITEMS_PER_WORKER)
        if self._executor is None and workers >= 2:
            self._executor = concurrent.futures.ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_start_worker
            )
        if self._executor is None:
            yield from map(function, items)
            return
        remaining = iter(items)
        pending: collections.deque[concurrent.futures.Future[Result]] = collections.deque()

        def submit(count: int) -> None:
            assert self._executor is not None
            for item in itertools.islice(remaining, count):
                with _interrupt_afterwards():  # submitting may start a process
                    pending.append(self._executor.submit(function, item))

        submit(_AHEAD * self.workers)
        while pending:
            result = pending.popleft().result()
            submit(1)
            yield result
