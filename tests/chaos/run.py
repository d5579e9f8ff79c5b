"""Chaos: corrections are acknowledged while everything around them is killed; then none is lost and none counts twice.

    python -m tests.chaos.run [--count 100000] [--kafka] [--kills 4] [--away 150] [--full 60] [--folder FOLDER]

The real service and feedback programs, each killed with SIGKILL; the log (a Kafka broker of the run's own, or the
embedded one) killed, and away for a while; the outbox's disk full for a while, and the service killed in that state.
Ends with 1 and keeps its folder where anything differs from what the acknowledgements promise.
"""

import argparse
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from core.errors import Retryable
from core.eventlog import open_log
from core.events import INTERACTIONS
from core.examples import ExampleStore
from tests.chaos.disk import Disk, SmallFileSystem, disk_at
from tests.chaos.oracle import Logged, differences, read_log
from tests.chaos.programs import Program
from tests.chaos.writers import Writers
from tests.contracts.conftest import KafkaOutage, SqliteOutage
from tests.feedback.harness import LABELS, publish, settings_for
from tests.support import free_port, wait_until

_STEP_LIMIT_S: Final = 300.0
_DISK_MIB: Final = 96


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of what."""

    count: int = 100_000
    kafka: bool = False
    #: of the service, of the consumer, and of the broker, each
    kills: int = 4
    #: seconds that the log is away, and that the disk is full
    away_s: float = 150.0
    full_s: float = 60.0
    threads: int = 16
    seed: int = 0
    drain_s: float = 1_800.0


@dataclass(kw_only=True)
class Report:
    """What happened."""

    facts: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def show(self) -> str:
        """As lines of text."""
        faults = [f"FAULT: {fault}" for fault in self.faults] or ["0 lost, 0 doubled"]
        return "\n".join([*(f"{name}: {value}" for name, value in self.facts.items()), *faults])


class Chaos:
    """One run in one folder."""

    def __init__(self, folder: Path, plan: Plan, disk: Disk, outage: KafkaOutage | SqliteOutage) -> None:
        self._plan, self._disk, self._outage = plan, disk, outage
        self._home = folder / "home"
        self._port = free_port()
        environment = {
            "RATCHET_HOME": str(self._home),
            "RATCHET_LOG_URL": outage.url,
            "RATCHET_PORT": str(self._port),
            "RATCHET_FEEDBACK_PORT": "0",
            "RATCHET_DEVICE": "cpu",
            "RATCHET_JOIN_TIMEOUT_S": "86400",
            "OMP_NUM_THREADS": "1",
        }
        self._service = Program("service", environment, folder)
        self._feedback = Program("feedback", environment, folder)
        self._writers = Writers(self._port, seed=plan.seed, total=plan.count, labels=LABELS, threads=plan.threads)
        self._settings = settings_for(self._home, log_url=outage.url)
        self._facts: dict[str, Any] = {"log": outage.url, "disk": disk.kind}
        self._log_kills = 0
        self._refused_when_full = 0

    def run(self) -> Report:
        """All of it."""
        publish(self._home, "v-0001")
        self._outage.up()
        try:
            self._service.start()
            self._feedback.start()
            wait_until(self._is_ready, timeout_s=120, every_s=0.1, what="the service")
            self._writers.start()
            began = time.monotonic()
            self._play()
            seconds = time.monotonic() - began
            self._facts |= {"seconds": round(seconds, 1), "acknowledged a second": round(self._plan.count / seconds, 1)}
            self._drain()
            return self._judge()
        finally:
            self._writers.stop()
            self._service.stop(5)
            self._feedback.stop(5)
            self._outage.end()

    def _play(self) -> None:
        """One act after the other, each in the midst of a share of the corrections that is its own."""
        acts = self._acts()
        share = self._plan.count / (len(acts) + 1)
        for number, act in enumerate(acts):
            self._writers.allow(int((number + 0.1) * share))
            self._await_acknowledged(int((number + 0.1) * share))
            self._writers.allow(int((number + 1) * share))
            act()
            self._await_acknowledged(int((number + 1) * share))
        self._writers.allow(self._plan.count)
        self._await_acknowledged(self._plan.count)

    def _acts(self) -> list[Callable[[], None]]:
        """The disk first: later its files have pages to write over, and it takes long until it must refuse."""
        acts: list[Callable[[], None]] = []
        for number in range(self._plan.kills):
            acts += [self._kill_service if number else self._fill_disk, self._kill_consumer, self._kill_log]
        return [*acts, self._take_log_away, self._kill_both]

    def _kill_service(self) -> None:
        self._service.kill()
        self._service.start()

    def _kill_consumer(self) -> None:
        self._feedback.kill()
        self._feedback.start()

    def _kill_both(self) -> None:
        self._service.kill()
        self._feedback.kill()
        self._feedback.start()
        self._service.start()

    def _kill_log(self) -> None:
        self._outage.down()
        self._log_kills += 1
        self._outage.up()

    def _take_log_away(self) -> None:
        """All that is said meanwhile must be acknowledged all the same."""
        before = len(self._writers.acknowledged)
        self._outage.down()
        self._log_kills += 1
        self._sleep(self._plan.away_s)
        self._facts["acknowledged while the log was away"] = len(self._writers.acknowledged) - before
        self._outage.up()

    def _fill_disk(self) -> None:
        """Nothing may be acknowledged that cannot be kept; killed and started in that state, neither.

        In a long run the log is away, too: what is drained makes room for what comes.
        """
        if self._plan.kills > 1:
            self._outage.down()
            self._log_kills += 1
        self._disk.fill(self._service.family())
        before = self._writers.answers[503]
        if isinstance(self._disk, SmallFileSystem):
            self._sleep(self._plan.full_s / 2)
            self._kill_service()
            wait_until(self._answers, timeout_s=120, every_s=0.1, what="a service on a full disk")
        self._sleep(self._plan.full_s)
        self._refused_when_full += self._writers.answers[503] - before
        self._disk.free(self._service.family())
        if self._plan.kills > 1:
            self._outage.up()

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._watch()
            time.sleep(0.1)

    def _watch(self) -> None:
        self._service.watch()
        self._feedback.watch()
        if self._writers.faults:
            raise AssertionError(f"a writer met what may not be: {self._writers.faults[:3]}")

    def _await_acknowledged(self, count: int) -> None:
        def enough() -> bool:
            self._watch()
            return len(self._writers.acknowledged) >= count

        wait_until(enough, timeout_s=_STEP_LIMIT_S + self._plan.count / 100, every_s=0.05, what=f"{count} acknowledged")

    def _is_ready(self) -> bool:
        return self._status("/readyz") == 200

    def _answers(self) -> bool:
        return self._status("/livez") != 0

    def _status(self, path: str) -> int:
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}{path}", timeout=5).status_code
        except httpx.HTTPError:
            return 0

    def _drain(self) -> None:
        """Nobody helps: outbox and log empty by themselves. Then what waits for its prediction is given up."""
        began = time.monotonic()
        with self._store() as store, closing(open_log(self._outage.url)) as log:

            def drained() -> bool:
                self._watch()
                if self._waiting() or store.outbox_size():
                    return False
                positions = store.positions(self._settings.consumer, INTERACTIONS)
                with suppress(Retryable):
                    return all(positions.get(part, 0) == end for part, end in log.ends(INTERACTIONS).items())
                return False

            wait_until(drained, timeout_s=self._plan.drain_s, every_s=0.2, what="the backlog to drain")
            self._facts["seconds to drain"] = round(time.monotonic() - began, 1)
            self._feedback.stop()
            self._feedback.start(RATCHET_JOIN_TIMEOUT_S="0.1")
            wait_until(lambda: not store.pending().count, timeout_s=120, every_s=0.2, what="the last to be given up")

    def _waiting(self) -> int:
        path = next((self._home / "outbox").glob("*.db"))
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM waiting").fetchone()[0])

    @contextmanager
    def _store(self) -> Iterator[ExampleStore]:
        with closing(ExampleStore(self._settings.example_store_url, self._settings.model)) as store:
            yield store

    def _judge(self) -> Report:
        with self._store() as store, closing(open_log(self._outage.url)) as log:
            logged: Logged = read_log(log)
            faults = differences(self._plan.seed, self._writers.acknowledged, logged, store)
            outcomes = store.outcome_counts()
        if not self._refused_when_full:
            faults.append("nothing was refused while the disk was full")
        ends = self._service.own_ends + self._feedback.own_ends
        if ends:
            faults.append(f"a program ended by itself {ends} times: see its log")
        answers = {status or "none": count for status, count in sorted(self._writers.answers.items())}
        self._facts |= {
            "acknowledged": len(self._writers.acknowledged), "outcomes": outcomes, "answers": answers,
            "kills": {"service": self._service.kills, "consumer": self._feedback.kills, "log": self._log_kills},
            "refused while the disk was full": self._refused_when_full,
            "doubled in the log, counted once": logged.doubled,
            "predictions recorded": len(logged.predictions),
        }  # fmt: skip
        return Report(facts=self._facts, faults=faults)


def run(folder: Path, plan: Plan) -> Report:
    """One run with everything below a folder. Raises AssertionError where it could not be played to the end."""
    with ExitStack() as stack:
        disk = stack.enter_context(disk_at(folder / "home" / "outbox", mib=_DISK_MIB))
        outage = KafkaOutage(folder) if plan.kafka else SqliteOutage(folder)
        return Chaos(folder, plan, disk, outage).run()


def main() -> None:
    """Run it as told and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="corrections")
    parser.add_argument("--kafka", action="store_true", help="on a Kafka broker of its own (Java, Maven)")
    parser.add_argument("--kills", type=int, default=4, help="of each program")
    parser.add_argument("--away", type=float, default=150.0, help="seconds that the log is away")
    parser.add_argument("--full", type=float, default=60.0, help="seconds that the disk is full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where; else a temporary folder")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="ratchet-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        count=chosen.count,
        kafka=chosen.kafka,
        kills=chosen.kills,
        away_s=chosen.away,
        full_s=chosen.full,
        seed=chosen.seed,
    )
    try:
        report = run(folder.resolve(), plan)
    except AssertionError as error:
        report = Report(faults=[str(error)])
    sys.stdout.write(report.show() + "\n")
    if report.faults:
        sys.exit(f"chaos: failed; everything is kept in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
