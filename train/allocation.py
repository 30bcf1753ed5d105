"""Memory that a training step frees stays with the process.

A step on a CPU takes and frees hundreds of megabytes.  The GNU C library gives large blocks back to the system, which
clears every page when the next step asks for it again.
"""

import ctypes
from typing import Final

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
"""Parameters of `mallopt`."""

_LARGEST: Final = 2**31 - 1
_PAD: Final = 2**28
"""Bytes by which the heap grows at the least."""


def keep_freed_memory() -> bool:
    """Lets the C library keep all memory of this process until it ends; whether the library can.

    One heap for all threads: the heaps of others are of limited size.  To be called before anything large is allocated.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _PAD), (_ARENA_MAX, 1))
    accepted = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(accepted)
