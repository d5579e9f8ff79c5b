"""When requests are meant to be sent, and a timer fine enough to send them then."""

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

_CLOCK_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = 0o4000 | 0o2000000
_ABSOLUTE: Final = 1


def schedule(rate: float, seconds: float, *, poisson: bool, seed: int, limit: int) -> NDArray[np.float64]:
    """Seconds after the start at which requests are meant to be sent, ascending, at most ``limit``.

    Poisson arrivals are what many independent users make; constant ones are the kindest to a server.
    """
    count = min(limit, int(rate * seconds * 1.2) + 50) if poisson else min(limit, int(rate * seconds))
    if poisson:
        times = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, size=count))
        return times[times < seconds]
    return np.arange(count, dtype=np.float64) / rate


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Alarm:
    """Calls back at a time of the monotonic clock: by a timerfd on Linux, since uvloop's own timers know milliseconds only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._file >= 0:
            loop.add_reader(self._file, self._ring)

    def set(self, at: float) -> None:
        """Ring at ``at`` seconds of ``time.monotonic``, at once where that is past."""
        if self._file < 0:
            self._handle = self._loop.call_later(max(0.0, at - time.monotonic()), self._callback)
            return
        whole = int(at)
        value = _TimeSpec(whole, max(1, int((at - whole) * 1e9)))
        spec = _TimerSpec(_TimeSpec(0, 0), value)
        if self._libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def close(self) -> None:
        """Never ring again."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._file, 8)
        self._callback()
