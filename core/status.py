"""What each program is doing, in a small file below ``home``, for ``ratchet up`` and ``ratchet status``.

A program writes only its own file. The files carry no truth: they may be missing or old, and nothing decides by them.
"""

import os
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import AwareDatetime, Field, ValidationError

from core.events import Record, now

PROGRAMS: Final = ("service", "feedback", "trainer")
_MIN_INTERVAL_S: Final = 0.2


class ProgramStatus(Record):
    """One program's word on itself."""

    program: str
    pid: int = Field(gt=0, lt=2**31)
    state: str
    detail: str = ""
    #: steps done and steps in all of the present piece of long work
    done: int | None = None
    total: int | None = None
    facts: dict[str, Any] = Field(default_factory=dict)
    at: AwareDatetime = Field(default_factory=now)

    def age_s(self, at: datetime) -> float:
        """Seconds since it was written."""
        return (at - self.at).total_seconds()

    def is_alive(self) -> bool:
        """True if its process exists."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class StatusFile:
    """Writes one program's status; too frequent progress is left out. Thread-safe."""

    def __init__(self, home: Path, program: str) -> None:
        self._path = _path(home, program)
        self._program = program
        self._written = 0.0
        self._state = ""
        self._lock = threading.Lock()

    def write(
        self, state: str, detail: str = "", *, done: int | None = None, total: int | None = None, **facts: Any
    ) -> None:
        """Say what is being done now. A folder that cannot be written to is no reason to stop working."""
        with self._lock:
            soon = time.monotonic() - self._written < _MIN_INTERVAL_S
            if soon and state == self._state and done != total:
                return
            status = ProgramStatus(
                program=self._program, pid=os.getpid(), state=state, detail=detail, done=done, total=total, facts=facts
            )
            part = self._path.with_suffix(f".{os.getpid()}")
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                part.write_text(status.model_dump_json(), encoding="utf-8")
                part.replace(self._path)
            except OSError:
                return
            self._written, self._state = time.monotonic(), state


def read_status(home: Path, program: str) -> ProgramStatus | None:
    """A program's last word, None where there is none that can be read."""
    try:
        return ProgramStatus.model_validate_json(_path(home, program).read_bytes())
    except (OSError, ValidationError):
        return None


def _path(home: Path, program: str) -> Path:
    return home / "status" / f"{program}.json"
