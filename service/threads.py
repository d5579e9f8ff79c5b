"""A thread that does one step again and again and outlives every failure of it; and one that gives way to the others."""

import contextlib
import os
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from core.logs import get_logger
from service.metrics import INTERNAL_ERRORS

_AFTER_FAILURE_S: Final = 1.0
_LOW_PRIORITY: Final = 5  # of a contended core a quarter: it holds the interpreter's lock now and then, and must get on
T = TypeVar("T")
_log = get_logger()


class Loop:
    """Calls ``step`` until stopped; a step says how many seconds to wait before the next."""

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self._name = name
        self._step = step
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True from the start to the end."""
        return self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        """True once :meth:`stop` was called."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """End the wait for the next step."""
        if not self._wake.is_set():  # to set it again costs a lock
            self._wake.set()

    def pause(self, seconds: float) -> None:
        """Wait inside a step; only :meth:`stop` ends it early. Keeps :meth:`wake` from making a backoff a busy loop."""
        self._stopping.wait(seconds)

    def stop(self, timeout_s: float) -> bool:
        """End after the present step; False if that takes longer than ``timeout_s``."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                wait = self._step()
            except Exception:
                INTERNAL_ERRORS.inc()
                _log.exception("a step failed", thread=self._name)
                self.pause(_AFTER_FAILURE_S)
                continue
            if wait > 0:
                self._wake.wait(wait)
            self._wake.clear()


def at_low_priority(call: Callable[[], T]) -> T:
    """Call in a thread that the lanes and the event loop go before; returns or raises what the call does.

    Linux gives every thread a niceness of its own. Elsewhere there is only the process's, and nothing is changed. The
    thread is a new one each time: without privileges a niceness can be raised and never lowered again.
    """
    done: Future[T] = Future()
    thread = threading.Thread(target=_run_at_low_priority, args=(call, done), name="load", daemon=True)
    thread.start()
    try:
        return done.result()
    finally:
        thread.join()


def _run_at_low_priority(call: Callable[[], T], done: Future[T]) -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, max(_LOW_PRIORITY, os.getpriority(os.PRIO_PROCESS, thread)))
    try:
        done.set_result(call())
    except BaseException as error:
        done.set_exception(error)


class Backoff:
    """Growing waits between attempts, spread by chance so that many clients do not come back at once."""

    def __init__(self, *, first_s: float = 0.1, longest_s: float = 10.0) -> None:
        self._first, self._longest, self._next = first_s, longest_s, first_s

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        wait = self._next * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it
        self._next = min(self._next * 2, self._longest)
        return wait

    def succeeded(self) -> None:
        """Begin anew."""
        self._next = self._first
