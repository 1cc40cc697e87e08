"""What the process holds of memory that it has freed: glibc keeps it by default, more in each hour of mixed work."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # glibc's numbers of them
_LARGE = 2**20
_KEPT = 64 * 2**20


def give_back_memory() -> None:
    """Has freed memory go back to the system, where the C library is glibc.

    Pictures and maps are allocated apart, as glibc itself stops doing once it has freed a few of them, and threads
    share two heaps, so that a small object that stays does not keep the large ones around it. Up to 64 MiB at the end
    of a heap stay with the process: a network frees and takes as much for each photo, and the system would have to hand
    out each page anew, which takes as long as the network itself.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library has no such function
        library = ctypes.CDLL(None)
        options = {_MMAP_THRESHOLD: _LARGE, _TRIM_THRESHOLD: _KEPT, _TOP_PAD: _KEPT, _ARENA_MAX: 2}
        for option, value in options.items():
            library.mallopt(option, value)
