"""What only the embedded event log can suffer, and how a log is chosen."""

import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadSettings, LogUnavailable
from core.eventlog import open_log
from core.eventlog.base import EventLog, NewRecord
from core.eventlog.sqlite import SqliteEventLog
from core.eventlog.sqlite_group import assignment


def fill(log: EventLog, *, key: str = "key") -> int:
    """Append batches of three until the log is out of reach; how many batches were acknowledged."""
    for count in range(10_000):
        try:
            log.append("topic", [NewRecord(key=key, value=b"%d" % count * 2000)] * 3)
        except LogUnavailable:
            return count
    raise AssertionError("it never filled up")


def values(log: EventLog) -> list[bytes]:
    """Every record of the one key."""
    return [record.value for record in log.read("topic", dict.fromkeys(log.ends("topic"), 0), limit=100_000)]


def whole_batches(count: int) -> list[bytes]:
    """What ``fill`` wrote."""
    return [b"%d" % n * 2000 for n in range(count) for _ in range(3)]


def test_a_full_file_refuses_whole_appends_and_works_again_with_room(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(SqliteEventLog(path, max_bytes=400_000)) as small:
        acknowledged = fill(small)
        assert acknowledged > 5
        with pytest.raises(LogUnavailable, match="full"):
            small.append("topic", [NewRecord(key="key", value=bytes(100_000))])
        assert values(small) == whole_batches(acknowledged)
    with closing(SqliteEventLog(path)) as roomy:
        roomy.append("topic", [NewRecord(key="key", value=b"after")])
        assert values(roomy) == [*whole_batches(acknowledged), b"after"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def fill_under_a_limit(path: Path, limit: int) -> None:
    """Let every write beyond ``limit`` bytes of a file fail, as on a full disk, and say what was acknowledged."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    print(fill(SqliteEventLog(path)), flush=True)


@pytest.mark.parametrize("limit", [150_000, 6_000_000], ids=["at once", "when the write-ahead log is written back"])
def test_a_write_that_fails_in_the_middle_loses_nothing_acknowledged(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "log.db"
    call = f"from {__name__} import *; fill_under_a_limit(Path({str(path)!r}), {limit})"
    repository = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", call], cwd=repository, check=True, stdout=subprocess.PIPE, text=True)
    with closing(SqliteEventLog(path)) as log:
        assert values(log) == whole_batches(int(run.stdout))


def test_a_file_that_is_removed_takes_no_records_into_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(SqliteEventLog(path)) as log:
        log.append("topic", [NewRecord(key="key", value=b"before")])
        for file in tmp_path.iterdir():
            file.unlink()
        log.append("topic", [NewRecord(key="key", value=b"after")])
    with closing(SqliteEventLog(path)) as log:
        assert values(log) == [b"after"]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with closing(SqliteEventLog(path)) as log, pytest.raises(BadSettings, match="version 99"):
        log.append("topic", [NewRecord(key="key", value=b"")])


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"something else entirely" * 100)
    with closing(SqliteEventLog(path)) as log, pytest.raises(BadSettings, match="is not an event log"):
        log.append("topic", [NewRecord(key="key", value=b"")])


def test_a_closed_log_is_out_of_reach(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "log.db")
    log.append("topic", [NewRecord(key="key", value=b"")])
    log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        log.append("topic", [NewRecord(key="key", value=b"")])


@given(st.sets(st.text(max_size=5), min_size=1, max_size=9), st.integers(1, 20))
def test_an_assignment_is_complete_disjoint_and_even(members: set[str], partitions: int) -> None:
    dealt = assignment(members, partitions)
    sizes = [len(dealt[member]) for member in members]
    assert sorted(partition for share in dealt.values() for partition in share) == list(range(partitions))
    assert max(sizes) - min(sizes) <= 1
    assert dealt == assignment(sorted(members, reverse=True), partitions)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite:",
        "sqlite:///relative.db",
        "sqlite:////",
        "sqlite://host/path",
        "kafka://",
        "kafka://host",
        "kafka://host:0",
        "kafka://host:99999",
        "kafka://a:9092,",
        "kafka://a:9092/topic",
        "http://a:1",
    ],
)
def test_a_url_that_names_no_log_is_refused(url: str) -> None:
    with pytest.raises(BadSettings, match="event log URL"):
        open_log(url)


@pytest.mark.parametrize("settings", [{"partitions": 0}, {"connect_timeout_s": 0.0}])
def test_numbers_that_cannot_work_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(BadSettings, match="above 0"):
        open_log("sqlite:////tmp/log.db", **settings)


def test_a_membership_that_expires_between_heartbeats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="heartbeat"):
        SqliteEventLog(tmp_path / "log.db", heartbeat_s=2, expiry_s=1)


@pytest.mark.filterwarnings("ignore:(read_text|open_text) is deprecated:DeprecationWarning")
def test_opening_touches_nothing(tmp_path: Path) -> None:
    open_log(f"sqlite:///{tmp_path}/log.db").close()
    open_log("kafka://127.0.0.1:1,[::1]:2").close()
    assert list(tmp_path.iterdir()) == []
