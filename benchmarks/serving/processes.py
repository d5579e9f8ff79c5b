"""Servers as child processes: started on a free loopback port, awaited, paused, measured, and always ended."""

import contextlib
import ctypes
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path(__file__).resolve().parents[2]
HOST: Final = "127.0.0.1"
_PR_SET_PDEATHSIG: Final = 1
_MIB: Final = 2**20


class ServerFailed(Exception):
    """A server did not start, or has ended."""


@dataclass(kw_only=True)
class Running:
    """A server that answers."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def family(self) -> list[psutil.Process]:
        """The process and all that it has started."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def rss_mib(self) -> float:
        """Resident memory in MiB of the largest process, the one that answers: the trial of a version comes and goes."""
        largest = 0
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                largest = max(largest, process.memory_info().rss)
        return largest / _MIB

    def cpu_s(self) -> float:
        """CPU seconds of the whole family so far."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def pause(self) -> None:
        """Take no time from whoever is measured meanwhile."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        self._signal(signal.SIGCONT)

    def ask(self, method: str, path: str, body: bytes = b"", *, timeout_s: float = 10.0) -> tuple[int, bytes]:
        """One request; status and body. Raises OSError or HTTPException."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample in ``/metrics``; 0 where there is none."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            sample = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if sample and sample[1] == name and wanted == set(filter(None, (sample[2] or "").split(","))):
                return float(sample[3])
        return 0.0

    def _signal(self, number: signal.Signals) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


@contextmanager
def server(
    command: Sequence[str], environment: Mapping[str, str], *, port: int, log: Path, probe: tuple[str, bytes]
) -> Iterator[Running]:
    """Start a server and wait until it answers ``probe`` (path, body) with 200; it ends with the block.

    Raises:
        ServerFailed: it ended, or did not answer within a minute; the message has the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # no threads before
        )  # fmt: skip
    running = Running(process=process, port=port, log=log)
    try:
        _await_answer(running, *probe)
        yield running
    finally:
        end(running)


def end(running: Running, grace_s: float = 10.0) -> None:
    """End a server and everything that it started."""
    family = running.family()
    running.resume()
    with contextlib.suppress(ProcessLookupError):
        running.process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(grace_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.process.pid, signal.SIGKILL)
    for process in family:  # whoever has left the session
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, timeout=5)
    running.process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def end_on_signals() -> None:
    """Let SIGTERM unwind as Ctrl-C does, so that every block above ends its server."""

    def unwind(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, unwind)


def _await_answer(running: Running, path: str, body: bytes, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    status = 0
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            raise ServerFailed(
                f"it ended with code {running.process.returncode}; see {running.log}:\n{_end_of(running.log)}"
            )
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = running.ask("POST" if body else "GET", path, body, timeout_s=30.0)
            if status == 200:
                return
        time.sleep(0.1)
    raise ServerFailed(f"no answer from {path} in {timeout_s:g} s (last status {status}):\n{_end_of(running.log)}")


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def _end_with_parent() -> None:
    """In the child: have the kernel send SIGTERM when the benchmark itself is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
