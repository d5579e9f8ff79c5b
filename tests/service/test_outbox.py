"""The outbox: what was acknowledged survives and reaches the log in order; a full disk is said and got over."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from core.errors import BadRecord, NotDurable
from core.eventlog import open_log
from core.eventlog.base import EventLog, LogRecord, NewRecord
from core.events import INTERACTIONS
from service.drainer import Drainer
from service.outbox import Outbox, OutboxFile
from tests.service.serving import champion, interactions, serving, settings_for
from tests.support import wait_until

BIG = 50_000_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    """A log of one partition, so that the order of all records can be told."""
    opened = open_log(f"sqlite:///{tmp_path / 'log.db'}", partitions=1)
    yield opened
    opened.close()


def records(log: EventLog) -> list[LogRecord]:
    return log.read(INTERACTIONS, {0: 0}, limit=1_000_000)


def put_all(outbox: Outbox, keys: Sequence[str], size: int = 10) -> list[str]:
    """Put records one after the other; returns the keys that were kept."""

    async def run() -> list[str]:
        kept = []
        for key in keys:
            try:
                await outbox.put(INTERACTIONS, key, b"x" * size)
            except NotDurable:
                continue
            kept.append(key)
        return kept

    return asyncio.run(run())


def drain(path: Path, log: EventLog) -> None:
    """Start a drainer, as a program does at its start, and wait until it is done."""
    drainer = Drainer(path, log, max_bytes=BIG)
    drainer.start()
    file = OutboxFile(path, max_bytes=BIG)
    wait_until(lambda: file.backlog().count == 0, timeout_s=20)
    file.close()
    drainer.stop(5)


def test_what_was_acknowledged_survives_sigkill_and_reaches_the_log_in_order(tmp_path: Path, log: EventLog) -> None:
    path = tmp_path / "outbox" / "service.db"
    command = [sys.executable, "-m", "tests.service.outbox_worker", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        acknowledged = [worker.stdout.readline().strip() for _ in range(300)]
        worker.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in worker.stdout if line.endswith("\n")]
    drain(path, log)
    found = [record.key for record in records(log)]
    assert set(acknowledged) <= set(found)
    assert len(found) == len(set(found))
    for number in range(8):
        mine = [int(key.split("-")[1]) for key in found if key.startswith(f"{number}-")]
        assert mine == list(range(len(mine)))


def test_many_at_once_share_a_commit(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", max_bytes=BIG)
    commits = []
    outbox.start(lambda: commits.append(1))

    async def run() -> None:
        await asyncio.gather(*(outbox.put(INTERACTIONS, str(n), b"x") for n in range(500)))

    asyncio.run(run())
    outbox.stop(5)
    assert 1 <= len(commits) < 50
    assert OutboxFile(tmp_path / "o.db", max_bytes=BIG).backlog().count == 500


def test_a_full_file_refuses_and_takes_again_once_it_is_drained(tmp_path: Path, log: EventLog) -> None:
    path = tmp_path / "o.db"
    outbox = Outbox(path, max_bytes=200_000)
    outbox.start(lambda: None)
    keys = [str(n) for n in range(40)]
    kept = put_all(outbox, keys, size=10_000)
    assert 5 < len(kept) < 40
    assert kept == keys[: len(kept)]
    drain(path, log)
    assert put_all(outbox, ["after"]) == ["after"]
    drain(path, log)
    outbox.stop(5)
    assert [record.key for record in records(log)] == [*kept, "after"]


def test_a_place_that_cannot_be_written_to_refuses_and_takes_again(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file where the folder should be")
    outbox = Outbox(tmp_path / "outbox" / "o.db", max_bytes=BIG)
    outbox.start(lambda: None)
    assert put_all(outbox, ["a", "b"]) == []
    (tmp_path / "outbox").unlink()
    assert put_all(outbox, ["c"]) == ["c"]
    outbox.stop(5)


def put_named(outbox: Outbox, names: Sequence[str | None]) -> None:
    async def run() -> None:
        for name in names:
            await outbox.put(INTERACTIONS, "k", b"x", name=name)

    asyncio.run(run())


def test_a_record_is_found_by_its_name_from_any_process_until_the_log_has_it(tmp_path: Path, log: EventLog) -> None:
    path = tmp_path / "o.db"
    mine, other = Outbox(path, max_bytes=BIG), Outbox(path, max_bytes=BIG)
    mine.start(lambda: None)
    put_named(mine, ["a", None, "b"])
    mine.stop(5)
    assert [other.holds(name) for name in ("a", "b", "c", "k")] == [True, True, False, False]
    drain(path, log)
    assert [other.holds(name) for name in ("a", "b")] == [False, False]
    other.stop(5)
    assert len(records(log)) == 3


OLD_SCHEMA = """
CREATE TABLE waiting (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, at REAL NOT NULL
);
CREATE TABLE refused (
    seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, at REAL NOT NULL,
    reason TEXT NOT NULL
);
"""


def test_a_full_file_from_before_there_were_names_is_drained_and_taken_into_use(tmp_path: Path, log: EventLog) -> None:
    path = tmp_path / "o.db"
    old = sqlite3.connect(path)
    old.executescript(OLD_SCHEMA)
    rows = [(INTERACTIONS, str(n), b"x" * 10_000, 1.0) for n in range(30)]
    old.executemany("INSERT INTO waiting (topic, key, value, at) VALUES (?, ?, ?, ?)", rows)
    old.commit()
    old.close()
    size = path.stat().st_size
    several = [Outbox(path, max_bytes=size) for _ in range(4)]
    threads = [threading.Thread(target=outbox.holds, args=("a",)) for outbox in several]
    for thread in threads:  # all of them find the old file
        thread.start()
    for thread in threads:
        thread.join()
    assert sqlite3.connect(path).execute("SELECT count(name), count(*) FROM waiting").fetchone() == (0, 30)
    drain(path, log)
    several[0].start(lambda: None)
    put_named(several[0], ["a"])
    assert several[1].holds("a")
    for outbox in several:
        outbox.stop(5)
    assert [record.key for record in records(log)] == [str(n) for n in range(30)]


def test_after_the_end_nothing_is_acknowledged(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", max_bytes=BIG)
    outbox.start(lambda: None)
    outbox.stop(5)
    assert put_all(outbox, ["late"]) == []


def test_a_record_that_could_not_be_forgotten_is_not_sent_again(tmp_path: Path, log: EventLog) -> None:
    path = tmp_path / "o.db"
    outbox = Outbox(path, max_bytes=BIG)
    outbox.start(lambda: None)
    put_all(outbox, ["a", "b"])
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("CREATE TRIGGER keep BEFORE DELETE ON waiting BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    drainer = Drainer(path, log, max_bytes=BIG)
    drainer.start()
    wait_until(lambda: len(records(log)) == 2)
    put_all(outbox, ["c"])
    wait_until(lambda: len(records(log)) == 3)
    time.sleep(0.5)
    blocker.execute("DROP TRIGGER keep")
    wait_until(lambda: drainer.backlog.count == 0 and OutboxFile(path, max_bytes=BIG).backlog().count == 0)
    blocker.close()
    drainer.stop(5)
    outbox.stop(5)
    assert [record.key for record in records(log)] == ["a", "b", "c"]


def test_of_two_drainers_one_drains_and_the_other_takes_over(tmp_path: Path, log: EventLog) -> None:
    path = tmp_path / "o.db"
    outbox = Outbox(path, max_bytes=BIG)
    outbox.start(lambda: None)
    first, second = (Drainer(path, log, max_bytes=BIG) for _ in range(2))
    first.start()
    put_all(outbox, ["a"])
    wait_until(lambda: len(records(log)) == 1)
    second.start()
    put_all(outbox, [f"b{n}" for n in range(50)])
    wait_until(lambda: len(records(log)) == 51)
    first.stop(5)
    put_all(outbox, ["c"])
    wait_until(lambda: len(records(log)) == 52)
    time.sleep(0.2)
    assert len(records(log)) == 52
    second.stop(5)
    outbox.stop(5)


class Picky:
    """The log, but some records are none of its business for good, as one too large is for a broker."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def append(self, topic: str, new: Sequence[NewRecord]) -> None:
        """Append all, or none if there is a bad one."""
        if any(record.key.startswith("bad") for record in new):
            raise BadRecord("the record is too large")
        self._log.append(topic, new)


def test_a_record_that_the_log_refuses_for_good_holds_nothing_up(tmp_path: Path, log: EventLog) -> None:
    path = tmp_path / "o.db"
    outbox = Outbox(path, max_bytes=BIG)
    outbox.start(lambda: None)
    put_all(outbox, ["a", "bad1", "b", "bad2", "c"])
    drain(path, Picky(log))  # type: ignore[arg-type]
    outbox.stop(5)
    assert [record.key for record in records(log)] == ["a", "b", "c"]
    rows = sqlite3.connect(path).execute("SELECT key, reason FROM refused ORDER BY seq").fetchall()
    assert rows == [("bad1", "the record is too large"), ("bad2", "the record is too large")]


def test_with_the_log_away_predictions_and_feedback_go_on_and_follow_later(home: Path) -> None:
    champion(home, "v-0001")
    (home / "logs").write_text("a file where the log's folder should be")
    settings = settings_for(home, log_url=f"sqlite:///{home / 'logs' / 'log.db'}", log_partitions=1)
    with serving(settings) as served:
        made = [served.predict()["prediction_id"] for _ in range(5)]
        told = []
        for name in made:
            response = served.client.post("/v1/feedback", json={"prediction_id": name, "label": "beta"})
            assert response.status_code == 202
            told.append(response.json()["feedback_id"])
        wait_until(lambda: gauge(served.client.get("/metrics").text, "ratchet_outbox_records") == 5)
        page = served.client.get("/metrics").text
        assert gauge(page, "ratchet_outbox_age_seconds") > 0
        assert gauge(page, "ratchet_prediction_records_pending") == 5
        (home / "logs").unlink()
        (home / "logs").mkdir()
        wait_until(lambda: gauge(served.client.get("/metrics").text, "ratchet_outbox_records") == 0, timeout_s=20)
        wait_until(lambda: gauge(served.client.get("/metrics").text, "ratchet_prediction_records_pending") == 0)
    events = interactions(settings)
    assert [event.prediction_id for event in events if event.type == "prediction"] == made
    assert [event.feedback_id for event in events if event.type == "feedback"] == told


def test_a_full_outbox_is_503_for_feedback_alone(home: Path) -> None:
    champion(home, "v-0001")
    (home / "logs").write_text("a file where the log's folder should be")
    settings = settings_for(home, log_url=f"sqlite:///{home / 'logs' / 'log.db'}", outbox_max_bytes=1_000_000)
    with serving(settings) as served:
        text = "x" * 40_000
        answers = [served.client.post("/v1/feedback", json={"text": text, "label": "beta"}) for _ in range(30)]
        kept = [answer.json()["feedback_id"] for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code != 202]
        assert kept
        assert refused
        for answer in refused:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_durable")
            assert answer.headers["retry-after"] == "1"
        served.predict()
        (home / "logs").unlink()
        (home / "logs").mkdir()
        body = {"text": "again", "label": "beta"}
        last = wait_until(
            lambda: (answer := served.client.post("/v1/feedback", json=body)).status_code == 202 and answer,
            timeout_s=20,
        )
    found = {event.feedback_id for event in interactions(settings) if event.type == "feedback"}
    assert set(kept) | {last.json()["feedback_id"]} <= found


def gauge(page: str, name: str) -> float:
    """A sample of a metrics page."""
    return next(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))
