"""Workarounds for the libraries below us, in one place so that they can be removed.

Each names the problem, the version it was last seen with, and when it can be deleted.
"""

import atexit
import contextlib
import ctypes
import functools
import logging
import multiprocessing
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory

# --- glibc: memory of a training step on CPU ------------------------------------------------------

#: Options of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
#: Number of malloc arenas. The default is eight per core, and memory that a short-lived thread frees in
#: one arena cannot be used by the next thread, which has another one.
ARENAS = 2


def tune_glibc_malloc() -> bool:
    """Makes the process keep freed memory for the next training step.

    Problem: on a CPU, XLA allocates the temporaries of every step anew, tens of megabytes. By default
    glibc maps and unmaps them each time, so the kernel clears every page again, which costs up to 20 %
    of a small step (docs/evidence/performance.md). Few arenas keep the process small
    (docs/evidence/reliability.md). Environment variables do the same (MALLOC_MMAP_MAX_,
    MALLOC_TRIM_THRESHOLD_, MALLOC_ARENA_MAX), but glibc reads them before the program starts.

    Seen with: jaxlib 0.10.2, glibc 2.36. Delete when: XLA's CPU client reuses its temporaries between
    steps, or CPU speed no longer matters.

    Returns:
      Whether glibc accepted the options; False with another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: ARENAS}
    return all([mallopt(option, value) for option, value in options.items()])


# --- Grain: shared memory of worker processes ------------------------------------------------------

#: Where Linux keeps shared memory segments. Other systems have no such folder; nothing is done there.
SHARED_MEMORY = pathlib.Path("/dev/shm")
_SEGMENT = re.compile(r"rd([0-9a-f]+)_")


def segment_prefix(pid: int) -> str:
    """Returns the prefix of the names of the segments that belong to a process."""
    return f"rd{pid:x}_"


def name_segments_after_parent() -> None:
    """Puts the parent's process id into the names of the segments that this worker process creates.

    Problem: Grain leaves batches in /dev/shm when iteration stops before the end of the data, as in
    every training run, and all of them when the process is killed: gigabytes, until the next reboot.
    With the owner's process id in the name, `remove_stale_segments` can delete them. Python has no
    public way to choose the name. Python itself retries if a name is taken. The leading slash must stay:
    without it the resource tracker sees two different names for one segment.

    Seen with: grain 0.2.18, Python 3.11. Delete when: Grain unlinks the segments of unread
    batches and of killed processes (google/grain issue 398 is related).
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None and SHARED_MEMORY.is_dir():
        shared_memory._SHM_NAME_PREFIX = f"/{segment_prefix(parent.pid)}"  # type: ignore[attr-defined]


@functools.cache
def remove_stale_segments() -> None:
    """Deletes the segments of ended processes now, and those of this process when it exits.

    See `name_segments_after_parent`. A process in another container with the same /dev/shm counts as
    ended, because its id is not in this container's /proc.
    """
    _remove_segments(lambda owner: not pathlib.Path(f"/proc/{owner}").exists())
    this = os.getpid()
    atexit.register(_remove_segments, lambda owner: owner == this)


def _remove_segments(is_stale: Callable[[int], bool]) -> None:
    """Deletes the segments whose owner's process id is stale."""
    for path in SHARED_MEMORY.glob("rd*_*") if SHARED_MEMORY.is_dir() else ():
        match = _SEGMENT.match(path.name)
        if match and is_stale(int(match[1], 16)):
            with contextlib.suppress(OSError):  # deleted meanwhile, or another user's
                # Through Python's class, so that its resource tracker knows and does not warn.
                segment = shared_memory.SharedMemory(path.name)
                segment.close()
                segment.unlink()


# --- JAX and Grain: errors that have no class of their own -----------------------------------------

_LOST_PEER = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")


def reports_lost_peer(error: BaseException) -> bool:
    """Returns whether the text of an error from JAX says that another process does not answer.

    Problem: JAX raises RuntimeError, ValueError or JaxRuntimeError for a lost process as for much else.
    Use it only in a job of several processes; see `training.preemption.is_peer_failure`.

    Seen with: jax 0.10.2. Delete when: JAX has an exception class for lost processes.
    """
    return any(sign in str(error) for sign in _LOST_PEER)


def reports_killed_worker(error: BaseException) -> bool:
    """Returns whether the text of an error from Grain says that a worker process was killed.

    Problem: Grain raises a plain RuntimeError.

    Seen with: grain 0.2.18. Delete when: Grain has an exception class for killed workers.
    """
    return "Worker process was terminated" in str(error)


# --- Orbax: stack traces of errors that we report ourselves ----------------------------------------


@contextlib.contextmanager
def silence_orbax() -> Iterator[None]:
    """Turns off the absl logger in a with block around a save.

    Problem: Orbax's background threads log the stack trace of an error that it also raises, so a full
    disk fills the terminal with traces before our one-line message.

    Seen with: orbax-checkpoint 0.12.8. Delete when: Orbax only raises the error.
    """
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
