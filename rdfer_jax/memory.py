"""How this process deals with memory that it has freed."""

import ctypes

#: From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed() -> bool:
    """Lets the process keep what it frees for the next step, instead of giving it back to the system.

    XLA on a CPU takes the temporaries of every step anew, some ten megabytes, which glibc by default maps
    and unmaps each time: the system then clears every page again (docs/performance.md). Only with glibc.

    Returns:
      Whether that could be had.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
