"""The process in which versions are tried: each in a child of its own, under limits, so that no version can hurt the service.

Started once by the service (trial.py) with everything imported; then it forks for every version it is told to try. It is
not multiprocessing's forkserver, whose children import the main program again: in a BentoML worker, BentoML itself.

It reads one JSON line for each trial and writes one for its result. When its standard input ends, the service is gone and
so is it. It has one thread, no sockets, and little claim on the processor.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, Final

from core.bundle import TOKENIZER, ModelBundle
from core.errors import RatchetError
from core.known_answers import rehearse
from core.runtime import Servable, shared_tokenizer
from core.sessions import wants_gpu
from service.warmup import TRIAL_SHAPES, time_of_one, warm_up

NICENESS: Final = 7  # of a contended core a sixth; with 10 a busy machine keeps a trial twice as long
_PR_SET_PDEATHSIG: Final = 1
_PATIENCE: Final = 20  # so many times its limit a trial may last when it is the machine that keeps it waiting
_CUDA_BYTES: Final = 8 * 2**30
"""What CUDA's own libraries may take of the host's memory for themselves, whatever the model's size."""
_MOST_TOLD: Final = 64 * 1024  # bytes
_LONGEST_REASON: Final = 2000  # characters, of which JSON makes twelve bytes at worst


def main() -> None:
    """Serve trials until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which then ends this
    os.nice(NICENESS)
    rehearse()  # what is done and imported for the first time is then done for all children
    gc.freeze()  # children share these pages; the collector would write to them
    for line in sys.stdin:
        request = json.loads(line)
        report = attempt(request)
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        if "seconds" in report:
            remember_tokenizer(Path(request["directory"]))


def remember_tokenizer(directory: Path) -> None:
    """Read the tokenizer of a version that has passed: most later ones have the same, and their children find it here."""
    # The service may have moved on and removed the folder; tokenizers raises its own kinds.
    with contextlib.suppress(Exception):
        bundle = ModelBundle.open(directory, names=())
        entry = bundle.manifest.files[TOKENIZER]
        shared_tokenizer(bundle.path(TOKENIZER), entry.sha256, bundle.manifest.max_tokens)


def attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Try one version in a child process.

    Args:
        request: ``directory`` of the bundle, ``device``, and what the child may take: bytes of ``memory`` and of
            ``gpu_memory`` (0: no limit), ``seconds`` without those in which it waits for a processor; whether it is ``early``.

    Returns:
        ``seconds`` that one text takes, ``memory`` that was taken and ``cpu`` time; or why it is ``refused``; or why the
        trial could not be held: ``unavailable``.
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.close(reader)
            _be_the_child(request, writer, errors)  # does not return
        os.close(writer)
        told, fault = _listen(reader, child, request["seconds"])
        os.close(reader)
        _, status, usage = os.wait4(child, 0)
        if not told and not fault:
            fault = {"refused": _why_it_ended(status, request, errors)}
        return {"cpu": usage.ru_utime + usage.ru_stime, **(fault or _parsed(told))}


def _parsed(told: bytes) -> dict[str, Any]:
    """What the child told. Foreign code ran in it: if that cannot be read, the version is to blame."""
    try:
        document = json.loads(told)
    except ValueError:
        document = None
    if isinstance(document, dict) and ("refused" in document or {"seconds", "memory"} <= document.keys()):
        return document
    return {"refused": f"its trial ended with words that cannot be read: {told[:100]!r}"}


def _listen(reader: int, child: int, limit_s: float) -> tuple[bytes, dict[str, str]]:
    """What the child says until it ends, and the fault where it had to be ended. Ends with the service, child included."""
    told, began = b"", time.monotonic()
    stdin = sys.stdin.fileno()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(stdin, 0)  # its end is always reported
    while True:
        taken = time.monotonic() - began
        own = taken - _waited(child)
        if own > limit_s or taken > limit_s * _PATIENCE:
            os.kill(child, signal.SIGKILL)
            if own > limit_s:
                return b"", {"refused": f"it hangs: no end after {limit_s:g} s"}
            return b"", {"unavailable": f"the machine is too busy: {own:.1f} s of {taken:.0f} s for the trial"}
        ready = dict(poll.poll(max(0.01, limit_s - own) * 1000))
        if stdin in ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            sys.exit(0)
        if ready:
            chunk = os.read(reader, _MOST_TOLD)
            if not chunk:
                return told, {}
            told += chunk


def _waited(process: int) -> float:
    """Seconds that a process wanted a processor and got none; 0 where the system does not say."""
    try:
        with open(f"/proc/{process}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _be_the_child(request: dict[str, Any], writer: int, errors: IO[bytes]) -> None:
    """Try the version, tell, and end: nothing of this process's own may run after it."""
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard, target in ((0, nothing), (1, nothing), (2, errors.fileno())):
            os.dup2(target, standard)
        _limit(request)
        if request["early"]:
            _give_way()
        os.write(writer, json.dumps(_try(request)).encode()[:_MOST_TOLD])
    except MemoryError:
        os.write(writer, json.dumps({"refused": _too_much_memory(request)}).encode())
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    finally:
        os._exit(0)


def _give_way() -> None:
    """Run only where a processor would be idle.

    Niceness shares a processor out by the second; a nice process still keeps one that wakes waiting for some milliseconds,
    and every request wakes several threads. There is no way back, but a trial that nobody waits for is ended and held
    again once somebody does.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(10)


def _limit(request: dict[str, Any]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # if its parent is killed, so is it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kind, name, more = resource.RLIMIT_AS, "VmSize", 0
    if wants_gpu(request["device"]):
        # CUDA maps far more addresses than it uses: there, only what can be written to counts.
        kind, name, more = resource.RLIMIT_DATA, "VmData", _CUDA_BYTES
    limit = _mapped(name) + int(request["memory"]) + more
    resource.setrlimit(kind, (limit, limit))


def _try(request: dict[str, Any]) -> dict[str, Any]:
    directory = Path(request["directory"])
    before = _mapped("VmRSS")
    try:
        bundle = ModelBundle.open(directory, names=())  # the service has just verified the digests
        servable = Servable.load(bundle, device=request["device"], gpu_memory_bytes=request["gpu_memory"])
        warm_up(servable, TRIAL_SHAPES)
        seconds = time_of_one(servable)
    except RatchetError as error:
        text = str(error)
        if _is_of_memory(text):
            text = f"{text}; {_too_much_memory(request)}"
        return {"refused": text[:_LONGEST_REASON]}
    return {"seconds": seconds, "memory": max(0, _mapped("VmHWM") - before)}


def _mapped(name: str) -> int:
    """Bytes of this process's memory of a kind that /proc names; 0 where there is no /proc."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            line = next(line for line in file if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return 0
    return int(line.split()[1]) * 1024


def _why_it_ended(status: int, request: dict[str, Any], errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read()[-2000:].decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("note:")]
    last = f": {said[-1][:300]}" if said else ""
    if not os.WIFSIGNALED(status):
        return f"it ends the process that loads it, with code {os.waitstatus_to_exitcode(status)}{last}"
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return f"it was killed, as the system does when memory runs out; {_too_much_memory(request)}"
    memory = f"; {_too_much_memory(request)}" if _is_of_memory(last) else ""
    return f"it crashes the process that loads it ({signal.Signals(number).name}){last}{memory}"


def _is_of_memory(text: str) -> bool:
    """ONNX Runtime, Rust and Python say in different words that there is no more memory."""
    return "alloc" in text.lower() or "memory" in text.lower()


def _too_much_memory(request: dict[str, Any]) -> str:
    return f"it may take {request['memory'] / 2**20:.0f} MiB of memory"


if __name__ == "__main__":
    main()
