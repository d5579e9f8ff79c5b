"""The three programs as child processes: started, watched, started again when they die, ended together."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import RatchetError

_GRACE_S: Final = 25.0
_MAX_BACKOFF_S: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1
_BAD_SETTINGS: Final = 2


class ProgramFailed(RatchetError):
    """A program cannot work with its settings."""


@dataclass(kw_only=True)
class Child:
    """One program: its process, its log, and when it may be started again."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    deaths: int = 0
    restart_at: float | None = None


class Children:
    """All programs of one ``ratchet up``."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = {**os.environ, **environment}
        self._logs = logs
        self._children: dict[str, Child] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str) -> None:
        """Start a program for the first time."""
        log = self._logs / f"{name}.log"
        process = self._spawn(name, log)
        self._children[name] = Child(name=name, process=process, log=log, started=time.monotonic())

    def watch(self) -> list[str]:
        """Start again what has died, with growing patience; returns a sentence for each event.

        Raises:
            ProgramFailed: a program ended with exit code 2: its settings cannot work, and starting it again would not help.
        """
        return [event for child in self._children.values() for event in self._watch(child)]

    def _watch(self, child: Child) -> list[str]:
        if child.restart_at is not None:
            if time.monotonic() < child.restart_at:
                return []
            child.restart_at, child.started = None, time.monotonic()
            child.process = self._spawn(child.name, child.log)
            return [f"{child.name} is started again"]
        code = child.process.poll()
        if code is None:
            return []
        _signal_group(child.process, signal.SIGKILL)  # what it may have left behind, a worker that holds the port, say
        if code == _BAD_SETTINGS:
            raise ProgramFailed(f"{child.name} ended: {_last_line(child.log)}")
        child.deaths = child.deaths + 1 if time.monotonic() - child.started < 60 else 1
        wait = min(0.5 * 2.0 ** min(child.deaths, 10), _MAX_BACKOFF_S)
        child.restart_at = time.monotonic() + wait
        return [f"{child.name} died ({_describe(code)}), see {child.log}; it is started again in {wait:g} s"]

    def stop(self) -> None:
        """End all programs: the service first, so that nothing new is accepted while the others finish."""
        alive = [child for child in self._children.values() if child.restart_at is None]
        for together in (alive[:1], alive[1:]):
            for child in together:
                _signal_process(child.process, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_S
            for child in together:
                with suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.1, deadline - time.monotonic()))
                _signal_group(child.process, signal.SIGKILL)
                child.process.wait()

    def _spawn(self, name: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-m", "cli", name],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is ours to pass on, in order
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # no threads before
            )


def _end_with_parent() -> None:
    """In the child: have the kernel send SIGTERM when ``ratchet up`` itself is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_process(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _describe(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-5:]) if lines else "it said nothing"
