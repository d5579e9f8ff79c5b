"""The real programs as processes that can be killed and started again at any moment."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path(__file__).resolve().parents[2]


class Program:
    """``python -m cli NAME``; its output goes to a file."""

    def __init__(self, name: str, environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self._environment = {**os.environ, **environment}
        self._log = logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        #: how often it ended although nobody had killed it
        self.own_ends = 0

    def start(self, **environment: str) -> None:
        """Start it; what is given replaces parts of its environment."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cli", self.name],
                env=self._environment | environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL for it and all that it has started, as when a machine loses its power."""
        self._end_all()
        self.kills += 1

    def watch(self) -> None:
        """Start it again where it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            self.own_ends += 1
            self._end_all()
            self.start()

    def stop(self, grace_s: float = 20.0) -> None:
        """End it in peace, or by force after ``grace_s`` seconds."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        deadline = time.monotonic() + grace_s
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self._end_all()

    def family(self) -> list[psutil.Process]:
        """The process and all that it has started."""
        if self._process is None:
            return []
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _end_all(self) -> None:
        if self._process is None:
            return
        family = self.family()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in family:  # whoever has left the session
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        psutil.wait_procs(family, timeout=5)
        self._process = None
