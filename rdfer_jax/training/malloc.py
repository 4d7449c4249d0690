"""How this process deals with memory that it has freed."""

import ctypes

#: From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
#: Pools that threads take memory from. By default eight for each core, and what a short-lived thread frees
#: in one of them is of no use to the next thread, which has another.
ARENAS = 2


def keep_freed() -> bool:
    """Lets the process keep what it frees for the next step, instead of giving it back to the system.

    XLA on a CPU takes the temporaries of every step anew, some ten megabytes, which glibc by default maps
    and unmaps each time: the system then clears every page again (docs/performance.md). Few pools keep
    what is held, and what it grows by with every checkpoint, small (docs/reliability.md). Only with glibc.

    Returns:
      Whether that could be had.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    wanted = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: ARENAS}
    return all([mallopt(option, value) for option, value in wanted.items()])
