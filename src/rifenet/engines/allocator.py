"""What the process holds of memory that it has freed: glibc keeps it by default, more in each hour of mixed work."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's numbers of them
_LARGE = 2**20


def give_back_memory() -> None:
    """Has freed memory go back to the system, where the C library is glibc.

    Pictures and maps are allocated apart, as glibc itself stops doing once it has freed a few of them, and threads
    share two heaps, so that a small object that stays does not keep the large ones around it.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library has no such function
        library = ctypes.CDLL(None)
        for option, value in ((_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE), (_ARENA_MAX, 2)):
            library.mallopt(option, value)
