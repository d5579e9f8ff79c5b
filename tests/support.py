"""What tests of several rooms need."""

import itertools
import os
import random
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

# Below the ports that a system gives to those who ask for any, and a thousand for each of the processes that run tests
# side by side: nobody can take a port between the moment at which it is found and that at which a program binds it.
_FIRST_PORT: Final = 20_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10 * 1_000
_PORTS: Final = itertools.cycle(random.SystemRandom().sample(range(_FIRST_PORT, _FIRST_PORT + 1_000), 1_000))


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on, for a program that a test starts; none comes twice in a row.

    Raises:
        AssertionError: a thousand ports in a row are taken.
    """
    for port in itertools.islice(_PORTS, 1_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError(f"none of the ports {_FIRST_PORT} to {_FIRST_PORT + 999} is free")


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
