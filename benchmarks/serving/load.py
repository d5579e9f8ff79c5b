"""The load generator: a process of its own that sends requests in a closed or an open loop and says how long they took.

    python -m benchmarks.serving.load SPEC.json RESULT.json

Closed loop: each connection sends its next request when it has its answer. It finds what a server can do, but it slows
down with the server: while the server stalls, the requests that would have suffered are never sent (Tene's "coordinated
omission"). Open loop: the times of sending are drawn beforehand, and latency counts from the time at which a request was
*meant* to be sent, whether or not a connection was free then; so a stall is felt by all who would have come meanwhile.

Why its own: wrk and oha are closed loops without per-answer checks, wrk2 (constant rate, corrected) has no Poisson arrivals
and keeps no answers, and none is a Python package that `make bench` could pin. What it costs is measured, not assumed:
``cpu_share`` is the part of one core that it used, ``late_ms`` how late it was itself.
"""

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.arrivals import Alarm, schedule
from benchmarks.serving.stats import latency_summary, quantile
from benchmarks.serving.wire import Connection, request_message

HOST: Final = "127.0.0.1"
_MOST_CONNECTIONS: Final = 4096
_MOST_SECONDS: Final = 3600.0
_SWEEP_S: Final = 0.25
_AGAIN_S: Final = 0.02  # before a lost connection is opened anew


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send. Only to this machine, and never without an end."""

    port: int
    path: str
    #: JSON Lines; each line is the body of a request, sent in this order, again from the start at the end
    bodies: str
    connections: int
    #: measured seconds, after ``warmup_s`` that are not
    seconds: float
    warmup_s: float = 0.5
    #: requests a second; None: a closed loop
    rate: float | None = None
    poisson: bool = True
    #: open loop, all connections busy: True drops the request and counts it, False sends it as soon as one is free
    drop: bool = False
    timeout_s: float = 30.0
    max_requests: int = 2_000_000
    seed: int = 0
    #: begins at this body
    first: int = 0
    #: file for every request's times (.npz): what, intended, sent, done, status
    records: str | None = None
    #: file for the answers, a line each in the order of ``records``
    answers: str | None = None

    def check(self) -> None:
        """Raise ValueError for what could hurt the machine."""
        if not 1 <= self.connections <= _MOST_CONNECTIONS:
            raise ValueError(f"connections must be from 1 to {_MOST_CONNECTIONS}, got {self.connections}")
        if not 0 < self.seconds + self.warmup_s <= _MOST_SECONDS:
            raise ValueError(f"seconds must be above 0 and at most {_MOST_SECONDS:g}, got {self.seconds}")
        if self.rate is not None and not 0 < self.rate <= 100_000:
            raise ValueError(f"rate must be above 0 and at most 100000, got {self.rate}")


class Generator:
    """One run of a load."""

    def __init__(self, load: Load, messages: Sequence[bytes]) -> None:
        load.check()
        self._load = load
        self._messages = messages
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._backlog: deque[int] = deque()
        self._intended: NDArray[np.float64] | array[float] = array("d")
        self._next = self._begun = self._under_way = 0
        self._stopping = False
        self._over = asyncio.Event()
        self._answers: BinaryIO | None = None
        self.what, self.status = array("q"), array("i")
        self.intended, self.sent, self.done = array("d"), array("d"), array("d")
        self.errors: Counter[str] = Counter()
        self.dropped = self.not_sent = 0
        self.start = self.cpu_s = 0.0

    async def run(self) -> dict[str, Any]:
        """Send it all; returns the summary."""
        with contextlib.ExitStack() as files:
            if self._load.answers:
                self._answers = files.enter_context(Path(self._load.answers).open("wb"))
            await self._connect_all()
            sweeping = asyncio.create_task(self._sweep())
            try:
                await (self._open_loop() if self._load.rate else self._closed_loop())
            finally:
                sweeping.cancel()
                self._stopping = True
                for connection in list(self._all):
                    connection.close()
        if self._load.records:
            np.savez(self._load.records, allow_pickle=False, **self._columns())
        return self.summary()

    # the two loops

    async def _closed_loop(self) -> None:
        self.start = time.monotonic() + self._load.warmup_s
        cpu = self._watch_cpu()
        first, self._idle = self._idle, []
        for connection in first:
            self._send_next(connection)
        await asyncio.sleep(self.start + self._load.seconds - time.monotonic())
        self._stopping = True
        self.cpu_s = await cpu
        await self._drain()

    async def _open_loop(self) -> None:
        load = self._load
        assert load.rate is not None
        times = schedule(
            load.rate, load.warmup_s + load.seconds, poisson=load.poisson, seed=load.seed, limit=load.max_requests
        )
        begin = time.monotonic() + 0.01
        self.start = begin + load.warmup_s
        self._intended = begin + times
        cpu = self._watch_cpu()
        alarm = Alarm(self._loop, lambda: self._send_due(alarm))
        alarm.set(begin)
        try:
            await asyncio.sleep(begin + load.warmup_s + load.seconds - time.monotonic())
            self._stopping = True
            self.cpu_s = await cpu
            await self._drain()
        finally:
            alarm.close()

    def _send_due(self, alarm: Alarm) -> None:
        now = time.monotonic()
        while self._next < len(self._intended) and self._intended[self._next] <= now:
            number = self._next
            self._next += 1
            if self._idle:
                self._send(self._idle.pop(), number, now)
            elif self._load.drop:
                self.dropped += 1
            else:
                self._backlog.append(number)
        if self._next < len(self._intended):
            alarm.set(float(self._intended[self._next]))

    async def _drain(self) -> None:
        """Wait for the answers that are due, no longer than a request may take."""
        if self._under_way or self._backlog:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._load.timeout_s + 1.0)
        self.not_sent += len(self._backlog)
        for connection in list(self._all):
            if connection.busy:
                connection.abort("no answer before the end")

    def _watch_cpu(self) -> "asyncio.Task[float]":
        async def watch() -> float:
            await asyncio.sleep(self.start - time.monotonic())
            before = time.process_time()
            await asyncio.sleep(self.start + self._load.seconds - time.monotonic())
            return time.process_time() - before

        return asyncio.create_task(watch())

    # one request

    def _send_next(self, connection: Connection) -> None:
        """Closed loop: the next request at once."""
        if self._stopping or self._begun >= self._load.max_requests:
            self._idle.append(connection)
            return
        number = self._begun
        now = time.monotonic()
        self._intended.append(now)  # type: ignore[union-attr]  # an array in this mode
        self._send(connection, number, now)

    def _send(self, connection: Connection, number: int, now: float) -> None:
        if not connection.is_open:  # closed by the server while idle
            self._backlog.appendleft(number)
            self._all.discard(connection)
            self._reopen()
            return
        self._begun += 1
        self._under_way += 1
        connection.send(number, self._messages[(self._load.first + number) % len(self._messages)], now)

    def _on_done(self, connection: Connection, status: int, body: bytes, error: str) -> None:
        now = time.monotonic()
        number = connection.request
        self._under_way -= 1
        self.what.append((self._load.first + number) % len(self._messages))
        self.intended.append(self._intended[number])
        self.sent.append(connection.sent_at)
        self.done.append(now)
        self.status.append(status)
        if error:
            self.errors[error] += 1
        if self._answers is not None:
            self._answers.write(body.replace(b"\n", b" ") + b"\n")
        if connection.is_open:
            self._free(connection)
        else:
            self._all.discard(connection)
            self._reopen()
        if self._stopping and not self._under_way and not self._backlog:
            self._over.set()

    def _free(self, connection: Connection) -> None:
        """A connection can take a request."""
        if self._backlog:
            self._send(connection, self._backlog.popleft(), time.monotonic())
        elif self._load.rate is None:
            self._send_next(connection)
        else:
            self._idle.append(connection)

    # connections

    async def _connect_all(self) -> None:
        for start in range(0, self._load.connections, 64):  # a listen queue is short
            count = min(64, self._load.connections - start)
            await asyncio.gather(*(self._connect() for _ in range(count)))
        self._idle = list(self._all)

    async def _connect(self) -> Connection:
        _, connection = await self._loop.create_connection(lambda: Connection(self._on_done), HOST, self._load.port)
        self._all.add(connection)
        return connection

    def _reopen(self) -> None:
        if self._stopping:
            return

        async def again() -> None:
            await asyncio.sleep(_AGAIN_S)
            try:
                connection = await self._connect()
            except OSError as error:
                self.errors[f"cannot connect: {error.strerror}"] += 1
                self._reopen()
                return
            self._free(connection)

        task = asyncio.create_task(again())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _sweep(self) -> None:
        """End what takes too long, and replace idle connections that the server has closed."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            before = time.monotonic() - self._load.timeout_s
            for connection in list(self._all):
                if connection.busy and connection.sent_at < before:
                    connection.abort("timed out")
            lost = [connection for connection in self._idle if not connection.is_open]
            for connection in lost:
                self._idle.remove(connection)
                self._all.discard(connection)
                self._reopen()

    # the result

    def _columns(self) -> dict[str, NDArray[Any]]:
        names = ("what", "intended", "sent", "done", "status")
        return {name: np.array(getattr(self, name)) for name in names}

    def summary(self) -> dict[str, Any]:
        """What came of it; latencies are those of the good answers, in milliseconds."""
        seen = self._columns()
        end = self.start + self._load.seconds
        good = (seen["status"] >= 200) & (seen["status"] < 300)
        meant = (seen["intended"] >= self.start) & (seen["intended"] < end)
        answered = good & (seen["done"] >= self.start) & (seen["done"] < end)
        statuses = Counter(seen["status"][meant].tolist())
        lateness = (seen["sent"] - seen["intended"])[meant]
        return {
            "mode": "open" if self._load.rate else "closed",
            "connections": self._load.connections,
            "rate": self._load.rate,
            "seconds": self._load.seconds,
            "requests": int(meant.sum()),
            "good": int((good & meant).sum()),
            "throughput": round(int(answered.sum()) / self._load.seconds, 2),
            "latency_ms": latency_summary((seen["done"] - seen["intended"])[good & meant]),
            "service_ms": latency_summary((seen["done"] - seen["sent"])[good & meant]),
            "statuses": {str(status): count for status, count in sorted(statuses.items())},
            "errors": dict(self.errors.most_common(10)),
            "dropped": self.dropped,
            "not_sent": self.not_sent,
            "cpu_share": round(self.cpu_s / self._load.seconds, 4),
            "late_ms": round(quantile(lateness, 0.99) * 1e3, 3) if len(lateness) else 0.0,
        }


def generate(load: Load) -> dict[str, Any]:
    """Run a load in this process."""
    lines = Path(load.bodies).read_bytes().splitlines()
    messages = [request_message(f"{HOST}:{load.port}", load.path, line) for line in lines if line]
    if not messages:
        raise ValueError(f"{load.bodies} has no bodies")

    async def run() -> dict[str, Any]:
        return await Generator(load, messages).run()

    gc.disable()  # a pause of the generator would count as one of the server; it ends before that matters
    try:
        import uvloop  # noqa: PLC0415  # where there is one
    except ImportError:
        return asyncio.run(run())
    return uvloop.run(run())


class Running:
    """A load in its own process."""

    def __init__(self, process: "subprocess.Popen[bytes]", result: Path) -> None:
        self._process = process
        self._result = result

    @property
    def is_running(self) -> bool:
        """True until its end."""
        return self._process.poll() is None

    def result(self) -> dict[str, Any]:
        """Wait for the end; the summary. Raises RuntimeError where it failed."""
        if self._process.wait():
            raise RuntimeError(f"the load generator ended with code {self._process.returncode}")
        document: dict[str, Any] = json.loads(self._result.read_text(encoding="utf-8"))
        return document


@contextmanager
def started(load: Load) -> Iterator[Running]:
    """Start a load in its own process; it is ended with the block at the latest."""
    load.check()
    with tempfile.TemporaryDirectory(prefix="ratchet-load-") as folder:
        spec, result = Path(folder) / "spec.json", Path(folder) / "result.json"
        spec.write_text(json.dumps(asdict(load)), encoding="utf-8")
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.serving.load", str(spec), str(result)])
        try:
            yield Running(process, result)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def run_load(load: Load) -> dict[str, Any]:
    """Run a load in its own process, to its end."""
    with started(load) as running:
        return running.result()


def main(arguments: Sequence[str]) -> None:
    """Read the spec, run it, write the summary."""
    spec, result = map(Path, arguments)
    summary = generate(Load(**json.loads(spec.read_text(encoding="utf-8"))))
    result.write_text(json.dumps(summary), encoding="utf-8")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1:])
