"""What reading processes must not leave behind: themselves, and shared memory.

Grain leaves some batches in /dev/shm when reading ends before the data do, as training always does, and
all of them when the process is killed; at full size that is gigabytes, until the machine is restarted. So
the segments carry the number of the process that they are for, and are removed when it ends, or, if it was
killed, when the next one starts to read.
"""

import atexit
import contextlib
import functools
import multiprocessing
import os
import pathlib
import re
import threading
from collections.abc import Callable
from multiprocessing import shared_memory

#: Where Linux keeps the segments; other systems have no such folder, and nothing is done there.
FOLDER = pathlib.Path("/dev/shm")
_NAME = re.compile(r"rd([0-9a-f]+)_")


def mark() -> None:
    """Makes this process, which reads for its parent, give its segments the parent's number."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None and FOLDER.is_dir():
        # There is no public way to say so. Python tries other names if one is taken. Without the slash
        # its resource tracker would take the segment that is removed for another than was made.
        shared_memory._SHM_NAME_PREFIX = f"/{prefix(parent.pid)}"  # type: ignore[attr-defined]


def prefix(pid: int) -> str:
    """How the names of the segments begin that are for a process."""
    return f"rd{pid:x}_"


def end_with_parent() -> None:
    """Makes this process end when its parent does, however that ends; otherwise it would wait for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@functools.cache
def leave_nothing() -> None:
    """Removes the segments of processes that are no more, and, when this process ends, its own."""
    _remove(lambda owner: not pathlib.Path(f"/proc/{owner}").exists())
    this = os.getpid()
    atexit.register(_remove, lambda owner: owner == this)


def _remove(is_left: Callable[[int], bool]) -> None:
    """Removes the segments for whose process is_left(its number) is true."""
    for path in FOLDER.glob("rd*_*") if FOLDER.is_dir() else ():
        match = _NAME.match(path.name)
        if match and is_left(int(match[1], 16)):
            with contextlib.suppress(OSError):  # another was faster, or it is another user's
                # By its object, so that Python's resource tracker hears of it and does not warn.
                segment = shared_memory.SharedMemory(path.name)
                segment.close()
                segment.unlink()
