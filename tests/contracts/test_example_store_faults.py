"""Leases on the example store, and what it does when things go wrong, on SQLite and on a real PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from core.errors import BadRecord, BadSettings, LeaseLost, RatchetError, StoreUnavailable
from core.examples import ExampleStore
from tests.contracts.store_support import AT, a_feedback, an_example, an_outcome, put
from tests.support import free_port, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


# leases


def test_a_lease_is_exclusive_and_every_holder_has_a_higher_number(store: ExampleStore) -> None:
    one, other = store.leases(holder="one", ttl_s=60), store.leases(holder="other", ttl_s=60)
    first = one.acquire("head")
    assert first is not None
    assert other.acquire("head") is None
    assert other.acquire("finetune") is not None
    assert one.renew(first).expires_at >= first.expires_at
    one.release(first)
    second = other.acquire("head")
    assert second is not None
    assert (second.holder, second.fencing) == ("other", first.fencing + 1)


def test_a_dead_holders_lease_is_taken_over_and_it_learns_of_that(store: ExampleStore) -> None:
    dead, heir = store.leases(holder="dead", ttl_s=0.2), store.leases(holder="heir", ttl_s=60)
    lost = dead.acquire("head")
    assert lost is not None
    taken = wait_until(lambda: heir.acquire("head"), what="the lease to expire")
    assert taken is not None
    assert taken.fencing == lost.fencing + 1
    for late in (dead.renew, dead.release):
        with pytest.raises(LeaseLost, match=r"default/head \(fencing 1\) was taken over"):
            late(lost)
    assert heir.renew(taken).fencing == taken.fencing


def test_a_holder_that_starts_again_gets_its_lease_and_voids_its_old_one(store: ExampleStore) -> None:
    keeper = store.leases(holder="one", ttl_s=60)
    before, after = keeper.acquire("head"), keeper.acquire("head")
    assert before is not None
    assert after is not None
    with pytest.raises(LeaseLost):
        keeper.renew(before)
    keeper.renew(after)


def test_an_expired_lease_that_nobody_took_can_still_be_renewed(store: ExampleStore) -> None:
    keeper = store.leases(holder="slow", ttl_s=0.0)
    lease = keeper.acquire("head")
    assert lease is not None
    assert keeper.renew(lease).fencing == lease.fencing


def test_of_holders_that_come_at_once_one_gets_the_lease(open_store: Callable[..., ExampleStore]) -> None:
    open_store().migrate()
    with ThreadPoolExecutor(6) as pool:
        leases = pool.map(lambda number: open_store().leases(holder=f"h{number}", ttl_s=60).acquire("head"), range(6))
        assert sum(lease is not None for lease in leases) == 1


# what goes wrong


def test_what_the_database_refuses_is_a_bad_record_and_no_outage(store: ExampleStore) -> None:
    with pytest.raises(BadRecord, match="the example store cannot keep this"), store.transaction() as transaction:
        transaction.add_pending(a_feedback(1, prediction_id=None))
    with store.transaction() as transaction:
        transaction.add_outcome(an_outcome(1))


@pytest.mark.parametrize("feedback_id", ["x" * 65, "a\x00b"], ids=["too long", "with a zero byte"])
def test_an_odd_id_is_kept_or_a_bad_record_and_no_outage(store: ExampleStore, feedback_id: str) -> None:
    try:
        with store.transaction() as transaction:
            transaction.add_outcome(an_outcome(1, feedback_id=feedback_id))
    except BadRecord:
        assert store.outcomes() == []
    else:
        assert store.outcome(feedback_id) is not None


def test_a_connection_that_is_lost_is_an_outage_and_is_made_anew(
    open_store: Callable[..., ExampleStore], url: str
) -> None:
    if url.startswith("sqlite"):
        pytest.skip("there is no connection that could be lost")
    store, killer = open_store(), create_engine(url)
    store.migrate()

    def lose() -> None:
        with store.transaction() as transaction:
            mine = transaction._connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            transaction.put_example(an_example(1), target_at=AT, target_by="f")
            with killer.begin() as connection:
                connection.execute(text(f"SELECT pg_terminate_backend({mine})"))
            transaction.put_example(an_example(2), target_at=AT, target_by="f")

    with pytest.raises(StoreUnavailable, match="cannot be used"):
        lose()
    killer.dispose()
    assert store.examples() == []
    put(store, an_example(1))


def test_a_database_without_tables_is_out_of_reach(open_store: Callable[..., ExampleStore]) -> None:
    with pytest.raises(StoreUnavailable, match="the example store cannot be used"):
        open_store().examples()


@pytest.mark.parametrize("where", ["a folder", "no database", "below a file", "nobody listens"])
def test_a_store_out_of_reach_is_told_as_such_by_every_call(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"this is not a database, as anybody can see" * 100)
    (tmp_path / "folder").mkdir()
    urls = {
        "a folder": f"sqlite:///{tmp_path}/folder",
        "no database": f"sqlite:///{tmp_path}/file",
        "below a file": f"sqlite:///{tmp_path}/file/examples.db",
        "nobody listens": f"postgresql+psycopg://u:hunter2@127.0.0.1:{free_port()}/db",
    }
    calls: list[Callable[[ExampleStore], object]] = [
        ExampleStore.migrate,
        ExampleStore.examples,
        lambda store: store.leases(holder="h", ttl_s=1).acquire("head"),
        lambda store: store.transaction().__enter__(),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as told:
            call(ExampleStore(urls[where], "default"))
        assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://u:hunter2@host/db", "oracle+nothing://x", "postgresql+nothing://u:hunter2@h/d"]
)
def test_a_url_that_cannot_be_is_an_error_of_the_settings(url: str) -> None:
    with pytest.raises(BadSettings, match="examples_url") as told:
        ExampleStore(url, "default")
    assert "hunter2" not in str(told.value)


def test_a_full_disk_is_an_outage_and_nothing_is_half_written(tmp_path: Path) -> None:
    store = ExampleStore(f"sqlite:///{tmp_path}/examples.db", "default")
    store.migrate()
    put(store, an_example(0))
    limit = {"pages": 60}

    def shrink(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit['pages']}")

    event.listen(store._engine, "connect", shrink)
    store._engine.dispose()
    large = [an_example(number, inputs={"text": "x" * 5_000}) for number in range(1, 40)]
    for _ in range(2):  # and not only the first time
        with pytest.raises(StoreUnavailable, match="full"):
            put(store, *large)
        assert [example.example_id for example in store.examples()] == ["e0"]
        assert store.outbox_size() == 1
    limit["pages"] = 100_000
    store._engine.dispose()
    put(store, *large)
    assert [example.seq for example in store.examples()] == list(range(1, 41))
    store.close()


def test_a_writer_that_waits_too_long_for_another_is_told_of_an_outage(
    open_store: Callable[..., ExampleStore], url: str
) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("PostgreSQL waits as long as it takes")
    holder, waiter = open_store(), open_store()
    holder.migrate()
    event.listen(waiter._engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 50"))

    def wait_in_vain() -> None:
        with waiter.transaction():
            pass

    with holder.transaction():
        with pytest.raises(StoreUnavailable, match="locked"):
            wait_in_vain()
        assert waiter.examples() == []  # readers do not wait
    with waiter.transaction():
        pass


def test_every_fault_of_the_store_is_one_of_ours() -> None:
    assert issubclass(StoreUnavailable, RatchetError)
