"""The C library's allocator, kept from holding on to memory that swaps have freed."""

import contextlib
import ctypes
from typing import Final

from core.cores import usable_cores

# of malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LEAST: Final = 2
_MAPPED: Final = 256 * 1024
_KEPT: Final = 16 * 2**20


def limit_heaps() -> None:
    """At most one heap for each core, at least two, and what is large beside them; for threads that are started from now on.

    glibc takes eight heaps for each core, and each keeps its high-water mark; and after the first megabytes were freed it no
    longer maps such blocks apart, so that a model that was let go leaves a hole. 30 swaps took a process from 209 to 414 MiB,
    so limited it stayed between 214 and 231 (benchmarks/LOG.md). Trimming the heaps after every swap did as much, but kept
    every thread that allocates waiting for up to 40 ms. Where the C library is another, nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, max(_LEAST, usable_cores()))
        library.mallopt(_M_MMAP_THRESHOLD, _MAPPED)  # given back as soon as freed
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)  # set so, the one before it would make it 128 KiB
