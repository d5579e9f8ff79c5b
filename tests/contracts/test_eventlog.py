"""What every event log promises, tried on each of them."""

import itertools
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import BadRecord, LogUnavailable
from core.eventlog.base import MAX_RECORD_BYTES, EventLog, LogRecord, NewRecord, Subscription
from tests.contracts.conftest import Backend, OpenLogAt, Outage
from tests.contracts.eventlog_worker import PARTITIONS, EffectStore
from tests.support import wait_until

pytestmark = [
    # kafka-python 3.0.12 reads its message definitions by functions that Python 3.11 calls deprecated …
    pytest.mark.filterwarnings("ignore:(read_text|open_text) is deprecated:DeprecationWarning"),
    # … and leaves the socket of a refused connection to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


def numbered(count: int, *, keys: int = 5, start: int = 0) -> list[NewRecord]:
    """Records whose values count up, dealt out to some keys."""
    return [NewRecord(key=f"key-{n % keys}", value=b"%d" % n) for n in range(start, start + count)]


def read_all(
    log: EventLog, topic: str, positions: Mapping[int, int] | None = None, *, limit: int = 100
) -> list[LogRecord]:
    """Everything from the positions on (default: the start), page by page."""
    at = dict.fromkeys(log.ends(topic), 0) if positions is None else dict(positions)
    found: list[LogRecord] = []
    while page := log.read(topic, at, limit=limit):
        assert len(page) <= limit
        at |= {record.partition: record.offset + 1 for record in page}
        found += page
    return found


def by_key(records: Iterable[LogRecord | NewRecord]) -> dict[str, list[bytes]]:
    """The values of each key in order."""
    values: dict[str, list[bytes]] = defaultdict(list)
    for record in records:
        values[record.key].append(record.value)
    return dict(values)


class Positions(dict[int, int]):
    """A consumer's positions kept in memory, with a list of what was asked."""

    def __init__(self, stored: Mapping[int, int] | None = None) -> None:
        super().__init__(stored or {})
        self.asked: list[frozenset[int]] = []

    def __call__(self, partitions: frozenset[int]) -> Mapping[int, int]:
        self.asked.append(partitions)
        return self

    def store(self, records: Iterable[LogRecord]) -> None:
        self.update({record.partition: record.offset + 1 for record in records})


def poll_for(subscription: Subscription, count: int, *, limit: int = 50, timeout_s: float = 20.0) -> list[LogRecord]:
    """Poll until that many records have come."""
    found: list[LogRecord] = []

    def enough() -> bool:
        found.extend(subscription.poll(limit=limit, timeout_s=0.2))
        return len(found) >= count

    wait_until(enough, timeout_s=timeout_s, every_s=0, what=f"{count} records")
    return found


class Member:
    """A group member that polls in a thread of its own, as a program would, and stores its positions."""

    def __init__(self, log: EventLog, topic: str, positions: Positions) -> None:
        self.came: list[LogRecord] = []
        self._positions = positions
        self._subscription = log.subscribe(topic, topic, positions)
        self._leave = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def assigned(self) -> frozenset[int]:
        if self._failure is not None:
            raise self._failure
        return self._subscription.assigned

    def close(self) -> None:
        """Leave the group."""
        self._leave.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._leave.is_set():
                records = self._subscription.poll(limit=10, timeout_s=0.1)
                self._positions.store(records)
                self.came += records
            self._subscription.close()
        except BaseException as error:
            self._failure = error
            raise


def settle(*members: Member, timeout_s: float = 20.0) -> None:
    """Wait until the members share all partitions evenly."""

    def settled() -> bool:
        held = [member.assigned for member in members]
        sizes = [len(partitions) for partitions in held]
        return sorted(itertools.chain(*held)) == list(range(PARTITIONS)) and max(sizes) - min(sizes) <= 1

    wait_until(settled, timeout_s=timeout_s, what="an even share of all partitions")


def test_a_record_comes_back_as_it_was(log: EventLog, topic: str) -> None:
    before = datetime.now(UTC)
    log.append(topic, [NewRecord(key="clé", value=bytes(range(256))), NewRecord(key="", value=b"")])
    records = sorted(read_all(log, topic), key=lambda record: record.key)
    assert [(record.key, record.value) for record in records] == [("", b""), ("clé", bytes(range(256)))]
    for record in records:
        assert record.topic == topic
        assert record.offset == 0 or records[0].partition == records[1].partition
        assert timedelta(seconds=-1) < record.at - before < timedelta(minutes=1)
        assert record.at.tzinfo is UTC


def test_each_key_is_read_in_order_and_keys_spread_over_partitions(log: EventLog, topic: str) -> None:
    written = numbered(300, keys=40)
    for start in range(0, 300, 30):
        log.append(topic, written[start : start + 30])
    records = read_all(log, topic, limit=37)
    assert by_key(records) == by_key(written)
    partitions_of_key = {(record.key, record.partition) for record in records}
    assert len(partitions_of_key) == 40
    assert {partition for _, partition in partitions_of_key} == set(range(PARTITIONS))


def test_offsets_are_dense_and_ends_count_them(log: EventLog, topic: str) -> None:
    assert log.ends(topic) == dict.fromkeys(range(PARTITIONS), 0)
    log.append(topic, numbered(50))
    log.append(topic, numbered(50, start=50))
    offsets = defaultdict(list)
    for record in read_all(log, topic):
        offsets[record.partition].append(record.offset)
    ends = log.ends(topic)
    assert sum(ends.values()) == 100
    assert {partition: list(range(end)) for partition, end in ends.items() if end} == offsets


def test_replay_from_any_position(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(80))
    everything = read_all(log, topic)
    assert by_key(everything) == by_key(numbered(80))
    assert Counter(read_all(log, topic)) == Counter(everything)
    for at in (1, 7, 13):
        later = read_all(log, topic, dict.fromkeys(range(PARTITIONS), at))
        assert Counter(later) == Counter(record for record in everything if record.offset >= at)
    one = max(log.ends(topic), key=lambda partition: log.ends(topic)[partition])
    assert read_all(log, topic, {one: 2}) == [r for r in everything if r.partition == one and r.offset >= 2]


def test_positions_at_and_beyond_the_end_give_nothing(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(20))
    ends = log.ends(topic)
    assert log.read(topic, ends, limit=10) == []
    beyond = {partition: end + 2 for partition, end in ends.items()}
    assert log.read(topic, beyond, limit=10, timeout_s=0.1) == []
    assert log.read(topic, {}, limit=10) == []
    log.append(topic, [NewRecord(key="key-0", value=b"%d" % n) for n in range(3)])
    assert [record.value for record in log.read(topic, beyond, limit=10)] == [b"2"]


def test_read_waits_for_the_first_record_and_no_longer(log: EventLog, topic: str) -> None:
    ends = log.ends(topic)
    started = time.monotonic()
    assert log.read(topic, ends, limit=10, timeout_s=0.3) == []
    assert 0.3 <= time.monotonic() - started < 3
    writer = threading.Timer(0.2, log.append, (topic, numbered(1)))
    writer.start()
    assert len(log.read(topic, ends, limit=10, timeout_s=20)) == 1
    assert time.monotonic() - started < 10
    writer.join()


def test_poll_keeps_to_its_limit_and_its_timeout(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(40))
    with closing(log.subscribe(topic, topic, Positions())) as member:
        first = wait_until(lambda: member.poll(limit=7, timeout_s=0.2))
        assert len(first) <= 7
        rest = poll_for(member, 40 - len(first), limit=7)
        assert by_key(first + rest) == by_key(numbered(40))
        started = time.monotonic()
        assert member.poll(limit=7, timeout_s=0.3) == []
        assert 0.3 <= time.monotonic() - started < 3


@pytest.mark.alone
def test_a_record_reaches_a_waiting_member_soon(log: EventLog, topic: str) -> None:
    delays = []
    with closing(log.subscribe(topic, topic, Positions())) as member:
        wait_until(lambda: member.poll(limit=1, timeout_s=0.1) or len(member.assigned) == PARTITIONS, timeout_s=20)
        for n in range(10):
            appended: list[float] = []

            def write(n: int = n, appended: list[float] = appended) -> None:
                log.append(topic, numbered(1, start=n))
                appended.append(time.monotonic())

            writer = threading.Timer(0.05, write)
            writer.start()
            poll_for(member, 1)
            came = time.monotonic()
            writer.join()
            delays.append(came - appended[0])
    assert sorted(delays)[5] < 0.1  # the median, as the machine may be busy with other things


def test_members_share_the_partitions_and_every_record_comes_once(log: EventLog, topic: str) -> None:
    positions = Positions()
    with closing(Member(log, topic, positions)) as a, closing(Member(log, topic, positions)) as b:
        settle(a, b)
        log.append(topic, numbered(100, keys=20))
        wait_until(lambda: len(a.came) + len(b.came) >= 100, timeout_s=20)
        log.append(topic, numbered(1, start=100))
        wait_until(lambda: b"100" in {record.value for record in a.came + b.came}, timeout_s=20)
        assert by_key(a.came + b.came) == by_key([*numbered(100, keys=20), *numbered(1, start=100)])
        assert {record.partition for record in a.came} <= a.assigned
        assert {record.partition for record in b.came} <= b.assigned


def test_groups_do_not_know_each_other(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(10))
    with (
        closing(log.subscribe(topic, f"{topic}-one", Positions())) as one,
        closing(log.subscribe(topic, f"{topic}-two", Positions())) as two,
    ):
        assert by_key(poll_for(one, 10)) == by_key(poll_for(two, 10)) == by_key(numbered(10))
        assert one.assigned == two.assigned == frozenset(range(PARTITIONS))


def test_a_member_that_joins_gets_its_share_and_one_that_leaves_frees_it_at_once(backend: Backend, topic: str) -> None:
    log = backend.open(expiry_s=60.0)  # so that only leaving, and no expiry, can explain a quick takeover
    positions = Positions()
    first = Member(log, topic, positions)
    settle(first)
    with closing(Member(log, topic, positions)) as second:
        settle(first, second)
        first.close()
        settle(second, timeout_s=10)


def test_a_member_that_dies_silently_is_replaced(backend: Backend, log: EventLog, topic: str) -> None:
    log.ends(topic)
    worker = backend.start_worker("hold", topic, name=topic)
    with worker, closing(Member(log, topic, Positions())) as member:
        assert worker.stdout is not None
        said = iter(worker.stdout.readline, "")
        wait_until(lambda: len(next(said).split()) == len(member.assigned) == PARTITIONS // 2, timeout_s=30)
        worker.kill()
        settle(member)


def test_stored_positions_are_honoured_on_assignment(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(60, keys=20))
    middle = {partition: end // 2 for partition, end in log.ends(topic).items() if partition != 0}
    positions = Positions(middle)
    with closing(log.subscribe(topic, topic, positions)) as member:
        expected = [record for record in read_all(log, topic) if record.offset >= middle.get(record.partition, 0)]
        assert Counter(poll_for(member, len(expected))) == Counter(expected)
        assert frozenset().union(*positions.asked) == frozenset(range(PARTITIONS))


def test_partitions_taken_over_go_on_where_the_other_member_stored(log: EventLog, topic: str) -> None:
    positions = Positions()
    with closing(Member(log, topic, positions)) as first:
        second = Member(log, topic, positions)
        settle(first, second)
        log.append(topic, numbered(40, keys=20))
        wait_until(lambda: len(first.came) + len(second.came) >= 40, timeout_s=20)
        second.close()
        log.append(topic, numbered(40, keys=20, start=40))
        wait_until(lambda: len(first.came) + len(second.came) >= 80, timeout_s=20)
        assert by_key(second.came + first.came) == by_key(numbered(80, keys=20))
        assert first.assigned == frozenset(range(PARTITIONS))


def test_a_position_beyond_the_end_waits_for_it(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(5, keys=1))
    positions = Positions({partition: end + 2 for partition, end in log.ends(topic).items()})
    with closing(log.subscribe(topic, topic, positions)) as member:
        assert member.poll(limit=10, timeout_s=1) == []
        log.append(topic, numbered(3, keys=1, start=5))
        assert [record.value for record in poll_for(member, 1)] == [b"7"]


def test_rewind_after_a_failed_transaction_redelivers(log: EventLog, topic: str) -> None:
    positions = Positions()
    log.append(topic, numbered(30))
    with closing(log.subscribe(topic, topic, positions)) as member:
        kept = wait_until(lambda: member.poll(limit=10, timeout_s=0.2))
        positions.store(kept)
        poll_for(member, 5, limit=5)  # these are not stored
        member.rewind()
        rest = poll_for(member, 30 - len(kept))
        assert by_key(kept + rest) == by_key(numbered(30))
        assert member.poll(limit=10, timeout_s=0.1) == []


def test_an_error_of_the_consumers_own_database_passes_through_and_nothing_is_lost(log: EventLog, topic: str) -> None:
    log.append(topic, numbered(10))
    broken = [True]

    def stored(partitions: frozenset[int]) -> Mapping[int, int]:
        if broken[0]:
            raise ZeroDivisionError
        return {}

    with closing(log.subscribe(topic, topic, stored)) as member:
        with pytest.raises(ZeroDivisionError):
            poll_for(member, 1)
        broken[0] = False
        assert by_key(poll_for(member, 10)) == by_key(numbered(10))


def test_a_consumer_killed_between_effect_and_position_makes_every_effect_once(
    backend: Backend, log: EventLog, topic: str, tmp_path: Path
) -> None:
    log.append(topic, numbered(120, keys=20))
    store = tmp_path / "store.db"
    for kill_after in (5, 33):
        victim = backend.start_worker("consume", topic, name=topic, store=store, count=120, kill_after=kill_after)
        with victim:
            assert victim.wait(timeout=40) == -signal.SIGKILL
    with backend.start_worker("consume", topic, name=topic, store=store, count=120) as survivor:
        assert survivor.wait(timeout=40) == 0
    with closing(EffectStore(store)) as opened:
        effects = opened.effects()
    assert Counter((p, o) for p, o, _ in effects) == Counter((r.partition, r.offset) for r in read_all(log, topic))
    assert all(b > a for _, group in itertools.groupby(sorted(effects, key=lambda e: e[0]), key=lambda e: e[0])
               for (_, a, _), (_, b, _) in itertools.pairwise(group))  # fmt: skip


def test_appends_from_threads_and_processes_lose_and_reorder_nothing(
    backend: Backend, log: EventLog, topic: str
) -> None:
    log.ends(topic)
    names = ["first", "second"]
    workers = [backend.start_worker("append", topic, name=name, threads=3, count=40) for name in names]
    log.append(topic, [NewRecord(key="here", value=b"%d" % n) for n in range(40)])
    for worker in workers:
        with worker:
            assert worker.wait(timeout=60) == 0
    expected = [b"%d" % n for n in range(40)]
    keys = ["here", *(f"{name}-{thread}" for name in names for thread in range(3))]
    assert by_key(read_all(log, topic)) == dict.fromkeys(keys, expected)


def test_a_large_record_passes_and_a_larger_one_is_refused_before_anything_is_stored(log: EventLog, topic: str) -> None:
    large = NewRecord(key="large", value=b"\x00\xff" * 450_000)
    log.append(topic, [NewRecord(key="large", value=b"before"), large])
    assert [record.value for record in read_all(log, topic)] == [b"before", large.value]
    with closing(log.subscribe(topic, topic, Positions())) as member:
        assert [record.value for record in poll_for(member, 2)] == [b"before", large.value]
    with pytest.raises(BadRecord, match="1000001 bytes"):
        log.append(topic, [NewRecord(key="a", value=b""), NewRecord(key="b", value=bytes(MAX_RECORD_BYTES))])
    assert sum(log.ends(topic).values()) == 2


def test_an_empty_append_does_nothing(log: EventLog, topic: str) -> None:
    log.append(topic, [])
    assert log.ends(topic) == dict.fromkeys(range(PARTITIONS), 0)


def test_a_log_out_of_reach_raises_within_seconds(unreachable: str, open_log_at: OpenLogAt) -> None:
    log = open_log_at(unreachable)
    member = log.subscribe("topic", "group", Positions())
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: log.append("topic", numbered(1)),
        "read": lambda: log.read("topic", {0: 0}, limit=1),
        "ends": lambda: log.ends("topic"),
        "poll": lambda: member.poll(limit=1, timeout_s=0.1),
    }
    for name, call in calls.items():
        started = time.monotonic()
        with pytest.raises(LogUnavailable):
            call()
        assert time.monotonic() - started < 6, name
    member.close()


def test_nothing_acknowledged_is_lost_when_the_log_comes_and_goes(outage: Outage, open_log_at: OpenLogAt) -> None:
    started = time.monotonic()
    log = open_log_at(outage.url)
    assert time.monotonic() - started < 1
    member = log.subscribe("topic", "group", Positions())
    for when in ("before it comes", "after it went"):
        if when == "after it went":
            outage.down()
        with pytest.raises(LogUnavailable):
            log.append("topic", [NewRecord(key="lost or not", value=when.encode())])
        with pytest.raises(LogUnavailable):
            poll_for(member, 1)
        outage.up()
        log.append("topic", [NewRecord(key="kept", value=when.encode())])
        assert when.encode() in by_key(poll_for(member, 1))["kept"]
    assert by_key(read_all(log, "topic"))["kept"] == [b"before it comes", b"after it went"]
    member.close()


batches = st.lists(st.tuples(st.sampled_from("abcdefg"), st.binary(max_size=8)), max_size=6)
steps = st.lists(st.one_of(batches.map(lambda batch: ("append", batch)), st.integers(1, 7).map(lambda n: ("read", n))))


def test_any_interleaving_is_read_back_in_order_exactly_once(backend: Backend, log: EventLog) -> None:
    @settings(
        max_examples=60 if backend.name == "sqlite" else 10, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(steps)
    def interleave(steps: list[tuple[str, list[tuple[str, bytes]] | int]]) -> None:
        topic = backend.new_topic()
        at = dict.fromkeys(log.ends(topic), 0)
        written: list[NewRecord] = []
        found: list[LogRecord] = []
        for _, given_step in steps:
            if isinstance(given_step, int):
                page = log.read(topic, at, limit=given_step)
                assert len(page) <= given_step
                assert page or len(found) == len(written)
                at |= {record.partition: record.offset + 1 for record in page}
                found += page
            else:
                batch = [NewRecord(key=key, value=value) for key, value in given_step]
                log.append(topic, batch)
                written += batch
        found += read_all(log, topic, at)
        assert by_key(found) == by_key(written)

    interleave()
