"""The trial of a version before the service loads it: in another process, which may crash, hang or run out of memory.

This is the service's end of it; the other is trial_process.py. What a trial finds out is the version's fault, and a reason
to refuse it. If the trial itself cannot be held, that is nobody's fault: it is held again later.
"""

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from core.bundle import ModelBundle
from core.errors import TrialUnavailable, UnservableBundle
from core.logs import get_logger
from service.memory import trial_bytes

POSSIBLE: Final = hasattr(os, "fork")
"""False on Windows: versions are loaded untried there."""

_START_S: Final = 60.0  # imports, with little claim on a busy processor
_CODE: Final = "import sys; sys.path[:0] = sys.argv[1:]; from service.trial_process import main; main()"
_ROOT: Final = str(Path(__file__).resolve().parents[1])
_HARMLESS: Final = re.compile(
    "PATH|HOME|LANG|LC_.*|TZ|TMPDIR|LD_LIBRARY_PATH|VIRTUAL_ENV|PYTHON.*|(CUDA|NVIDIA|ORT|OMP|OPENBLAS)_.*|.*_NUM_THREADS"
)
"""Names of what the trial process needs or may know of its environment: a secret has any name but these."""
_log = get_logger()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a version that passed its trial takes."""

    #: processor time of one text
    seconds: float
    #: bytes of memory at the peak
    memory: int
    #: processor time of the whole trial
    cpu: float


class Trial:
    """Tries versions, one at a time. Thread-safe."""

    def __init__(self, *, device: str = "auto", gpu_memory_bytes: int = 0, timeout_s: float = 30.0) -> None:
        """Prepare; no process is started yet.

        Args:
            device: where models run, as for Servable.load.
            gpu_memory_bytes: what a version may allocate there on a GPU, as for Servable.load.
            timeout_s: seconds that a trial may take, without those in which it waits for a processor.
        """
        self._device = device
        self._gpu_memory_bytes = gpu_memory_bytes
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the process, so that the first trial does not wait for its imports; returns at once."""
        try:
            with self._lock:
                self._started()
        except TrialUnavailable as error:  # tried again with the first version
            _log.warning("no trial process", error=str(error))

    @property
    def process_id(self) -> int | None:
        """The process in which versions are tried; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def stop(self) -> None:
        """End the process, and with it a trial that is under way."""
        self._stopped = True
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def interrupt(self) -> None:
        """End the trial that is under way; to whoever holds it, it is unavailable."""
        process = self._process
        if process is not None:
            process.kill()

    def run(self, bundle: ModelBundle, *, available: int | None = None, early: bool = False) -> Report:
        """Load, check, warm up and time a bundle whose digests were verified.

        Args:
            bundle: the version.
            available: bytes of memory that there are, where that is known: a trial may not take more.
            early: nobody waits for it yet: it takes only what the others leave of the processor.

        Raises:
            UnservableBundle: it failed, and how.
            TrialUnavailable: the trial could not be held.
        """
        most = trial_bytes(bundle.manifest)
        request = {
            "directory": str(bundle.directory),
            "device": self._device,
            "gpu_memory": self._gpu_memory_bytes,
            "memory": min(most, available) if available is not None else most,
            "seconds": self._timeout_s,
            "early": early,
        }
        with self._lock:
            report = self._ask(request)
        if unavailable := report.get("unavailable"):
            raise TrialUnavailable(f"{bundle.manifest.version} could not be tried: {unavailable}")
        if refused := report.get("refused"):
            version = bundle.manifest.version
            raise UnservableBundle(str(refused) if str(refused).startswith(version) else f"{version}: {refused}")
        return Report(seconds=report["seconds"], memory=report["memory"], cpu=report["cpu"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = self._started()
        # The trial process keeps the time itself; this is for the day when it, too, hangs.
        deadline = time.monotonic() + _START_S + 25 * self._timeout_s
        try:
            assert process.stdin is not None  # noqa: S101 - both were asked for
            assert process.stdout is not None  # noqa: S101
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(_line(process.stdout, deadline))
        except (OSError, ValueError) as error:
            self._process = None
            _end(process)
            raise TrialUnavailable(f"the trial of {request['directory']} could not be held: {error}") from error
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        process = self._process
        if process is not None and process.poll() is None:
            return process
        if process is not None:
            _log.warning("the trial process has ended; starting another", code=process.returncode)
            _end(process)
        self._process = None
        if self._stopped:
            raise TrialUnavailable("the service is ending")
        try:
            # Python closes all other files in it, so it holds no socket of the service.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-P", "-c", _CODE, _ROOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
            )
        except OSError as error:
            raise TrialUnavailable(f"the trial process cannot be started: {error}") from error
        return self._process


def _environment() -> dict[str, str]:
    """Of this one's what holds no secret, and one thread for whatever would start several."""
    kept = {name: value for name, value in os.environ.items() if _HARMLESS.fullmatch(name)}
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    return {**kept, **one, "TOKENIZERS_PARALLELISM": "false"}


def _line(stream: IO[bytes], deadline: float) -> bytes:
    """One line; raises ValueError where there is none in time."""
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ValueError("it does not answer")
        chunk = os.read(stream.fileno(), 65536)
        if not chunk:
            raise ValueError("it has ended")
        line += chunk
    return line


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it at once and leave nothing of it behind: no pipe, no zombie."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:  # what was still to be written has nobody to read it
                continue
