"""What the example store promises, on SQLite and on a real PostgreSQL."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from core.errors import Conflict
from core.events import (
    DEAD_LETTERS,
    EXAMPLES,
    Command,
    Example,
    Origin,
    OutcomeStatus,
    Split,
    decode,
    now,
)
from core.examples import ExampleBatch, ExampleStore, ParkedRecord, StoreTransaction
from core.examples.tables import metadata
from tests.contracts.store_support import AT, a_feedback, a_prediction, an_example, an_outcome, put

REPOSITORY = Path(__file__).resolve().parents[2]


# the schema


def test_migrations_make_exactly_the_tables_of_the_code(store: ExampleStore) -> None:
    with store._engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
        names = set(inspect(connection).get_table_names())
    assert differences == []
    assert names == set(metadata.tables) | {"alembic_version"}
    store.migrate()


def test_programs_that_start_at_once_migrate_once(url: str, open_store: Callable[..., ExampleStore]) -> None:
    script = (
        "import sys; from core.examples import ExampleStore; store = ExampleStore(sys.argv[1], 'default');"
        "print('ready', flush=True); sys.stdin.readline(); store.migrate(); print(len(store.examples()))"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", script, url], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.stdin.write("\n")
    program.stdin.flush()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: open_store().migrate(), range(4)))
    assert program.communicate(timeout=30)[0] == "0\n"
    assert open_store().examples() == []


# transactions and positions


def test_a_position_moves_only_from_where_the_consumer_thinks_it_is(store: ExampleStore) -> None:
    with store.transaction() as transaction:
        transaction.move_position("c", "t", 0, before=0, after=5)
        transaction.move_position("c", "t", 1, before=0, after=2)
        transaction.move_position("other", "t", 0, before=0, after=2**34)
    for before in (0, 4, 6):
        with (
            pytest.raises(Conflict, match="partition 0 of t was moved on by another consumer"),
            store.transaction() as late,
        ):
            late.move_position("c", "t", 0, before=before, after=7)
    with store.transaction() as transaction:
        transaction.move_position("c", "t", 0, before=5, after=7)
        assert transaction.positions("c", "t") == {0: 7, 1: 2}
    assert store.positions("c", "t") == {0: 7, 1: 2}
    assert store.positions("other", "t") == {0: 2**34}
    assert store.positions("c", "nothing") == {}


def test_of_consumers_that_move_a_position_at_once_one_wins(open_store: Callable[..., ExampleStore]) -> None:
    open_store().migrate()

    def move(_: int) -> bool:
        try:
            with open_store().transaction() as transaction:
                transaction.move_position("c", "t", 0, before=0, after=1)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(move, range(6))) == 1


def test_a_transaction_that_fails_leaves_nothing(store: ExampleStore) -> None:
    def fail() -> None:
        with store.transaction() as transaction:
            transaction.move_position("c", "t", 0, before=0, after=5)
            transaction.add_predictions([a_prediction(1)])
            transaction.add_pending(a_feedback(1))
            transaction.add_outcome(an_outcome(2))
            transaction.put_example(an_example(1), target_at=AT, target_by="f")
            transaction.add_quarantined(a_feedback(3), example_id="e3")
            transaction.add_command(Command(command_id="c"))
            transaction.mark("done")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (store.positions("c", "t"), store.outbox(), store.examples(), store.outcomes()) == ({}, [], [], [])
    assert (store.pending().count, store.commands()) == (0, [])
    with store.transaction() as transaction:
        assert transaction.predictions(["p1"]) == {}
        assert not transaction.is_marked("done")
        assert transaction.quarantined(target="a") == {}
        assert transaction.put_example(an_example(1), target_at=AT, target_by="f").seq == 1


def test_sequence_numbers_rise_in_the_order_of_commits_so_that_no_reader_misses_one(
    open_store: Callable[..., ExampleStore],
) -> None:
    open_store().migrate()
    stop = threading.Event()
    seen: list[int] = []

    def write(writer: int) -> None:
        store = open_store()
        for turn in range(8):
            put(store, *(an_example(f"{writer}-{turn}-{item}") for item in range(1 + turn % 3)))
            if turn % 4 == 3:
                put(store, an_example(f"{writer}-0-0", target="b"))  # a new state of an old example

    def read() -> None:
        store = open_store()
        while True:
            last = stop.is_set()
            seen.extend(example.seq for example in store.examples(after=seen[-1] if seen else 0))
            if last:
                return

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    stop.set()
    reader.join()
    store = open_store()
    stored = [example.seq for example in store.examples()]
    assert seen == sorted(set(seen))
    assert set(stored) <= set(seen)
    published = [decode(row.value) for row in store.outbox()]
    assert [item.seq for item in published if isinstance(item, Example)] == list(range(1, 4 * 17 + 1))


# examples and the outbox


def test_an_example_comes_back_as_it_was_put(store: ExampleStore) -> None:
    example = an_example(1, at=AT, weight=0.3, trust=0.6, sources=["f1", "f2"], sampling_probability=0.1)
    put(store, example)
    (found,) = store.examples()
    assert found == example.model_copy(update={"seq": 1, "at": found.at})
    with store.transaction() as transaction:
        assert transaction.example("e1") == (found, AT, "f")
        assert transaction.example("e2") is None


def test_a_new_state_of_an_example_replaces_the_old_one_under_a_new_number(store: ExampleStore) -> None:
    put(store, an_example(1), an_example(2))
    put(store, an_example(1, target="b", split=Split.HOLDOUT))
    assert [(example.example_id, example.seq, example.target) for example in store.examples()] == [
        ("e2", 2, "a"),
        ("e1", 3, "b"),
    ]
    assert [example.seq for example in store.examples(after=1, through=2)] == [2]
    with store.transaction() as transaction:
        assert transaction.label_counts() == {"a": 1, "b": 1}
    assert store.example_counts() == {(Origin.CORRECTION, Split.TRAIN): 1, (Origin.CORRECTION, Split.HOLDOUT): 1}


def _batch(transaction: StoreTransaction, *ids: str) -> ExampleBatch:
    return ExampleBatch(transaction, example_ids=ids, targets=[])


def test_one_more_source_is_kept_and_is_no_news(store: ExampleStore) -> None:
    put(store, an_example(1, sources=["f2"]))
    with store.transaction() as transaction:
        batch = _batch(transaction, "e1")
        batch.add_source(an_example(1), "f1")
        batch.flush()
    (example,) = store.examples()
    assert (example.sources, example.seq) == (["f1", "f2"], 1)
    assert len(store.outbox()) == 1


def test_a_target_that_is_said_again_is_dated_by_the_later_word(store: ExampleStore) -> None:
    put(store, an_example(1), at=AT)
    dates = []
    for hours, by in [(-1, "z"), (0, "a"), (0, "g"), (2, "b"), (1, "z")]:
        with store.transaction() as transaction:
            batch = _batch(transaction, "e1")
            batch.renew_target(an_example(1), target_at=AT + timedelta(hours=hours), target_by=by)
            batch.flush()
            found = transaction.example("e1")
            assert found is not None
            dates.append(((found[1] - AT).total_seconds() / 3600, found[2]))
    assert dates == [(0, "f"), (0, "f"), (0, "g"), (2, "b"), (2, "b")]


def test_a_batch_sees_what_it_does_and_writes_it_once(store: ExampleStore) -> None:
    put(store, an_example(1), an_example(2))
    with store.transaction() as transaction:
        transaction.add_quarantined(a_feedback(8, annotator="ann", target="new"), example_id="e9")
        batch = ExampleBatch(transaction, example_ids=["e1", "e2", "e3"], targets=["a", "new"])
        assert batch.example("e3") is None
        for target in ("b", "c"):
            batch.put_example(an_example(1, target=target), target_at=AT, target_by="f")
            batch.put_example(an_example(3, target=target), target_at=AT, target_by="g")
        batch.add_source(an_example(3), "f7")
        batch.add_quarantined(a_feedback(9, annotator="bob", target="a"), example_id="e2")
        batch.add_outcome(an_outcome(1))
        assert batch.counts == {"a": 1, "c": 2}
        assert batch.quarantined(target="new") == {"f8": "ann"}
        assert batch.quarantined(target="a", example_id="e2") == {"f9": "bob"}
        assert transaction.example("e3") is None
        batch.flush()
    assert [(item.example_id, item.seq, item.target, item.sources) for item in store.examples()] == [
        ("e2", 2, "a", []),
        ("e1", 3, "c", []),
        ("e3", 4, "c", ["f7"]),
    ]
    assert [row.key for row in store.outbox()] == ["e1", "e2", "e1", "e3"]
    assert store.outcome("f1") is not None
    with store.transaction() as transaction:
        assert transaction.quarantined(target="a") == {"f9": "bob"}


def test_only_selected_training_examples_count_as_new(store: ExampleStore) -> None:
    put(store, an_example(1), at=AT + timedelta(hours=1))
    put(store, an_example(2), at=AT)
    put(store, an_example(3, selected=False), an_example(4, split=Split.HOLDOUT), at=AT - timedelta(hours=1))
    new = store.new_examples(after=0)
    assert (new.count, new.oldest, new.newest_seq) == (2, AT, 4)
    assert store.new_examples(after=2).count == 0
    assert store.new_examples(after=2).oldest is None


def test_the_outbox_gives_events_in_order_until_they_are_sent(store: ExampleStore) -> None:
    put(store, *(an_example(number) for number in range(5)))
    with store.transaction() as transaction:
        transaction.publish(DEAD_LETTERS, "key", a_feedback(1))
    rows = store.outbox()
    assert [row.topic for row in rows] == [EXAMPLES] * 5 + [DEAD_LETTERS]
    assert [row.key for row in rows] == ["e0", "e1", "e2", "e3", "e4", "key"]
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)
    assert [row.seq for row in store.outbox(limit=2)] == [row.seq for row in rows[:2]]
    store.outbox_sent(rows[:4])
    assert store.outbox_size() == 2
    assert store.outbox() == rows[4:]
    store.outbox_sent(rows)
    assert store.outbox() == []


def test_what_two_programs_have_sent_takes_no_new_event_with_it(store: ExampleStore) -> None:
    put(store, an_example("old"))
    read_by_both = store.outbox()
    store.outbox_sent(read_by_both)
    put(store, an_example("new"))  # SQLite gives it the number of the old one
    store.outbox_sent(read_by_both)
    assert [row.key for row in store.outbox()] == ["enew"]


# the join and the ledger


def test_predictions_are_kept_once(store: ExampleStore) -> None:
    events = [
        a_prediction(1, confidence=0.9),
        a_prediction(2, confidence=0.2),
        a_prediction(3, confidence=0.8, audit_probability=0.1),
        a_prediction(4, confidence=0.1),
    ]
    with store.transaction() as transaction:
        transaction.add_predictions(events)
        transaction.add_predictions([a_prediction(1, model_version="other"), *events])
        transaction.add_predictions([])
        assert transaction.predictions(["p1", "p2", "p9"]) == {"p1": events[0], "p2": events[1]}
        assert transaction.predictions([]) == {}
        transaction.mark_answered("p4", "unknown")
        transaction.mark_answered()


def test_a_large_batch_fits_into_one_transaction(store: ExampleStore) -> None:
    with store.transaction() as transaction:
        transaction.add_predictions([a_prediction(number) for number in range(2_000)])
        assert len(transaction.predictions(f"p{number}" for number in range(2_000))) == 2_000


def test_feedback_waits_is_taken_once_and_expires(store: ExampleStore) -> None:
    with store.transaction() as transaction:
        for number in (1, 2, 3):
            transaction.add_pending(a_feedback(number))
        transaction.add_pending(a_feedback(4, prediction_id="p1"))
        transaction.add_pending(a_feedback(1))
        transaction.add_outcome(an_outcome(9))
        assert transaction.settled(["f1", "f4", "f9", "f8"]) == {"f1", "f4", "f9"}
    assert store.is_pending("f1")
    assert not store.is_pending("f9")
    waiting = store.pending()
    assert waiting.count == 4
    assert waiting.oldest is not None
    assert timedelta(0) <= now() - waiting.oldest < timedelta(seconds=60)
    with store.transaction() as transaction:
        assert [item.feedback_id for item in transaction.take_pending(["p1", "p7"])] == ["f1", "f4"]
        assert transaction.predictions(["p1"]) == {}
        assert transaction.take_pending(["p1"]) == []
        assert transaction.take_expired(before=waiting.oldest) == []
        assert len(transaction.take_expired(before=now() + timedelta(seconds=1), limit=1)) == 1
        assert len(transaction.take_expired(before=now() + timedelta(seconds=1))) == 1
        assert transaction.settled(["f1", "f2", "f3", "f4"]) == set()
    assert (store.pending().count, store.pending().oldest) == (0, None)


def test_an_outcome_is_recorded_once_and_never_changed(store: ExampleStore) -> None:
    first = an_outcome(1, example_id="e1", at=AT)
    with store.transaction() as transaction:
        transaction.add_outcome(first)
        transaction.add_outcome(an_outcome(1, status=OutcomeStatus.REJECTED, reason="later"))
        transaction.add_outcome(an_outcome(2, status=OutcomeStatus.UNMATCHED, at=AT - timedelta(days=1)))
    assert store.outcome("f1") == first
    assert store.outcome("f3") is None
    assert [item.feedback_id for item in store.outcomes()] == ["f2", "f1"]
    assert store.outcome_counts() == {"accepted": 1, "unmatched": 1}


def test_claims_in_quarantine_are_found_by_target_and_example(store: ExampleStore) -> None:
    with store.transaction() as transaction:
        transaction.add_quarantined(a_feedback(1, annotator="ann"), example_id="e1")
        transaction.add_quarantined(a_feedback(2, annotator="bob", target="a"), example_id="e2")
        transaction.add_quarantined(a_feedback(3, annotator="cid", target="b"), example_id="e1")
        assert transaction.quarantined(target="a") == {"f1": "ann", "f2": "bob"}
        assert transaction.quarantined(target="a", example_id="e1") == {"f1": "ann"}
        assert transaction.quarantined(target="c") == {}


def test_commands_come_oldest_first_and_once(store: ExampleStore) -> None:
    later, sooner = Command(command_id="c1", at=AT), Command(command_id="c2", at=AT - timedelta(seconds=1))
    with store.transaction() as transaction:
        for command in (later, sooner, later):
            transaction.add_command(command)
    assert store.commands() == [sooner, later]


def test_old_predictions_are_forgotten(store: ExampleStore) -> None:
    with store.transaction() as transaction:
        transaction.add_predictions([a_prediction(1, at=AT), a_prediction(2, at=AT + timedelta(seconds=2))])
    assert store.forget_predictions(before=AT + timedelta(seconds=1)) == 1
    with store.transaction() as transaction:
        assert set(transaction.predictions(["p1", "p2"])) == {"p2"}


def test_times_come_back_aware_in_utc_and_exact(store: ExampleStore) -> None:
    put(store, an_example(1), at=AT)
    with store.transaction() as transaction:
        transaction.add_outcome(an_outcome(1, at=AT))
        found = transaction.example("e1")
    outcome = store.outcome("f1")
    lease = store.leases(holder="h", ttl_s=9).acquire("head")
    assert found is not None
    assert outcome is not None
    assert lease is not None
    for value in (found[1], outcome.at, store.new_examples(after=0).oldest):
        assert value == AT
        assert value is not None
        assert value.utcoffset() == timedelta(0)
    assert lease.expires_at.tzinfo is not None
    assert abs(lease.expires_at - datetime.now(UTC)) < timedelta(seconds=15)


def test_models_in_one_database_see_nothing_of_each_other(open_store: Callable[..., ExampleStore]) -> None:
    mine, other = open_store("mine"), open_store("other")
    mine.migrate()
    put(mine, an_example(1), an_example(2))
    with mine.transaction() as transaction:
        transaction.add_predictions([a_prediction(1)])
        transaction.add_pending(a_feedback(1))
        transaction.add_quarantined(a_feedback(2), example_id="e1")
        transaction.add_command(Command(command_id="c"))
        transaction.mark("done")
    assert (other.examples(), other.pending().count, other.commands()) == ([], 0, [])
    put(other, an_example(1))
    assert [example.seq for example in other.examples()] == [1]
    with other.transaction() as transaction:
        assert not transaction.is_marked("done")
        assert transaction.predictions(["p1"]) == {}
        assert transaction.take_pending(["p1"]) == []
        assert transaction.quarantined(target="a") == {}
    assert mine.leases(holder="a", ttl_s=9).acquire("head")
    assert other.leases(holder="b", ttl_s=9).acquire("head")


def test_parked_records_wait_in_order_for_a_program_that_reads_them(store: ExampleStore) -> None:
    def parked(offset: int, version: int) -> ParkedRecord:
        return ParkedRecord(
            topic="t", partition=0, offset=offset, key="a\0b", value=b"\xff{}", schema_version=version, at=now()
        )

    with store.transaction() as transaction:
        for offset, version in ((1, 3), (2, 2), (3, 10**30), (4, 2)):
            transaction.parked.add(parked(offset, version))
    assert store.parked_count() == 4
    assert store.parked(schema_version=1, limit=10) == []
    found = store.parked(schema_version=3, limit=2)
    assert [(item.offset, item.key, item.value) for item in found] == [(1, "ab", b"\xff{}"), (2, "ab", b"\xff{}")]
    with store.transaction() as transaction:
        assert transaction.parked.remove(found) == found
        assert transaction.parked.remove(found) == [], "another program has had them"
    assert [item.offset for item in store.parked(schema_version=3, limit=2)] == [4]
