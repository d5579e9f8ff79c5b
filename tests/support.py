"""What tests of several rooms need."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, timeout_s: float = 10.0, every_s: float = 0.02, what: str = "") -> T:
    """The first true value of ``condition``, asked again and again.

    Raises:
        AssertionError: there was none within ``timeout_s`` seconds; it shows the last value and ``what`` was awaited.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}; the last value was {value!r}")
        time.sleep(every_s)
    return value
