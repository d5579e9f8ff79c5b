"""The consumer at work: what comes early, late, twice, broken or never, and parts that are out of reach."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from core.errors import Retryable
from core.events import EXAMPLES, Command, Event, OutcomeStatus, decode, encode
from core.examples import ExampleStore
from core.status import read_status
from feedback import consumer
from tests.feedback.harness import Running, prediction, publish, running, settings_for
from tests.feedback.harness import feedback as said
from tests.support import wait_until


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "_SWEEP_S", 0.05)


def _await_outcome(around: Running, feedback_id: str) -> Any:
    return wait_until(lambda: around.store.outcome(feedback_id), what=f"the outcome of {feedback_id}")


def _state(home: Path) -> str:
    status = read_status(home, "feedback")
    return status.state if status else ""


# the join


def test_feedback_meets_its_prediction_early_late_doubled_and_with_its_own_text(home: Path) -> None:
    with running(settings_for(home)) as around:
        around.send(prediction(1, "one"), said(1, 1, "beta"))
        around.send(said(2, 2, "beta"))
        wait_until(lambda: around.store.is_pending("f2"))
        around.send(
            prediction(2, "two"), said(3, text="three", target="gamma"), said(1, 1, "beta"), prediction(1, "one")
        )
        wait_until(lambda: len(around.outcomes()) == 3)
        around.drain()
        assert {outcome.status for outcome in around.outcomes().values()} == {OutcomeStatus.ACCEPTED}
        assert {example.inputs["text"]: example.target for example in around.store.examples()} == {
            "one": "beta", "two": "beta", "three": "gamma",
        }  # fmt: skip
        assert len(around.published()) == 3
        around.send(said(1, 1, "beta"))
        around.drain()
        assert len(around.outcomes()) == 3
        assert around.store.pending().count == 0


def test_feedback_whose_prediction_never_comes_is_unmatched_after_a_while(home: Path) -> None:
    with running(settings_for(home, join_timeout_s=0.3)) as around:
        around.send(said(1, "nowhere", "beta"))
        assert _await_outcome(around, "f1").status == OutcomeStatus.UNMATCHED
        assert not around.store.is_pending("f1")
        around.send(prediction("nowhere"), said(1, "nowhere", "beta"), said(2, "nowhere", "beta"))
        assert _await_outcome(around, "f2").status == OutcomeStatus.ACCEPTED
        assert around.outcomes()["f1"].status == OutcomeStatus.UNMATCHED  # once written, never changed


def test_commands_are_kept_and_events_of_other_models_are_left_alone(home: Path) -> None:
    with running(settings_for(home)) as around:
        around.send(Command(command_id="c1"), Command(command_id="c2", model="other"), said(1, text="x", model="other"))
        around.drain()
        assert [command.command_id for command in around.store.commands()] == ["c1"]
        assert around.outcomes() == {}


# poison


def test_records_that_are_no_events_are_dead_lettered_and_hold_up_nobody(home: Path) -> None:
    with running(settings_for(home)) as around:
        around.send(b"\x00\xffgarbage", said(1, text="fine", target="beta"), b"{}")
        around.drain()
        assert around.outcomes()["f1"].status == OutcomeStatus.ACCEPTED
        letters = {letter.value: letter.reason for letter in around.dead_letters()}
        assert letters.keys() == {"\x00\xffgarbage", "{}"}
        assert "not a Ratchet event" in letters["{}"]


def test_records_of_a_newer_ratchet_wait_until_the_program_can_read_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(settings_for(home)) as around:
        newer = [
            encode(event).replace(b'"schema_version":1', b'"schema_version":2')
            for event in (said(1, text="first", target="beta"), said(2, text="second", target="beta"))
        ]
        hostile = newer[0].replace(b'"schema_version":2', b'"schema_version":99999999999999999999')
        around.send(*newer, hostile, said(3, text="third", target="beta"))
        around.drain()
        assert around.outcomes().keys() == {"f3"}
        assert around.store.parked_count() == 3
        assert around.dead_letters() == []

    def upgraded(value: bytes) -> Event:
        return decode(value.replace(b'"schema_version":2', b'"schema_version":1'))

    monkeypatch.setattr("feedback.consumer.decode", upgraded)
    monkeypatch.setattr("feedback.consumer.SCHEMA_VERSION", 2)
    with running(settings_for(home)) as around:
        assert {_await_outcome(around, name).status for name in ("f1", "f2")} == {OutcomeStatus.ACCEPTED}
        wait_until(lambda: around.store.parked_count() == 1)


def test_a_record_that_makes_the_program_fail_is_tried_three_times_and_holds_up_nobody(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def fragile(text: Any) -> Any:
        if "boom" in str(text):
            tries.append(text)
            raise ZeroDivisionError("a fault of a library")
        return text

    monkeypatch.setattr("ftfy.fix_text", fragile)
    around = Running(settings_for(home))
    around.store.migrate()
    with closing(around.store), closing(around.log):
        around.send(*(said(number, text=f"text {number}", target="beta") for number in range(5)))
        around.send(said("boom", text="boom", target="beta"), prediction(1, "boom"), said("early", 1, "beta"))
        around.send(*(said(number, text=f"text {number}", target="beta") for number in range(5, 9)))
        around.start()
        around.drain()
        around.stop()
        outcomes = around.outcomes()
        assert outcomes.keys() == {f"f{number}" for number in range(9)} | {"fboom", "fearly"}
        for name in ("fboom", "fearly"):
            assert outcomes.pop(name).status == OutcomeStatus.REJECTED
        assert {outcome.status for outcome in outcomes.values()} == {OutcomeStatus.ACCEPTED}
        assert {letter.reason for letter in around.dead_letters()} == {"ZeroDivisionError: a fault of a library"}
        assert len(around.dead_letters()) == 2
        assert len(tries) <= 2 * (1 + 3)


def test_a_prediction_that_makes_early_feedback_fail_settles_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("feedback.cleaning.Cleaner.clean", fail)
    with running(settings_for(home)) as around:
        around.send(said(1, 1, "beta"))
        wait_until(lambda: around.store.is_pending("f1"))
        around.send(prediction(1))
        outcome = _await_outcome(around, "f1")
        assert outcome.status == OutcomeStatus.REJECTED
        assert outcome.reason == "it could not be processed: ZeroDivisionError: "


def test_what_the_store_refuses_is_dead_lettered_and_not_tried_for_ever(home: Path) -> None:
    with running(settings_for(home)) as around:
        around.send(said("neither"), said(1, text="fine", target="beta"))
        around.drain()
        outcomes = around.outcomes()
        assert outcomes["f1"].status == OutcomeStatus.ACCEPTED
        assert outcomes["fneither"].status == OutcomeStatus.REJECTED
        assert ["cannot keep this" in letter.reason for letter in around.dead_letters()] == [True]


def test_a_dead_letter_of_a_huge_record_fits_the_log(home: Path) -> None:
    huge = b"\x00\xff" * 450_000
    with running(settings_for(home)) as around:
        around.send(huge, said(1, text="fine", target="beta"))
        around.drain()
        assert around.outcomes()["f1"].status == OutcomeStatus.ACCEPTED
        (letter,) = around.dead_letters()
        assert huge.startswith(letter.value.encode("latin-1"))
        assert letter.cut_from == len(huge)


def test_an_event_that_no_log_takes_is_left_out_and_holds_up_nobody(home: Path) -> None:
    with running(settings_for(home)) as around:
        with around.store.transaction() as transaction:
            transaction.publish(EXAMPLES, "key", said(1, text="x" * 1_100_000))
        around.send(said(2, text="fine", target="beta"))
        around.drain()
        assert [example.inputs["text"] for example in around.published()] == ["fine"]


# odd labels


@pytest.mark.parametrize("label", ['it\'s "so": {x}', "送金 🎁", "a\\b;--'", "<b>", "%s %(x)s", "a" * 200])
def test_a_label_with_odd_characters_is_kept_and_no_metric_shows_it(home: Path, label: str) -> None:
    with running(settings_for(home)) as around:
        around.send(said(1, text="x", target=label))
        around.drain()
        around.send(
            said(2, text="x", target="alpha"),
            said(3, text="y", target=label, trusted=False),
        )
        around.drain()
        assert around.outcomes()["f1"].status == OutcomeStatus.ACCEPTED
        assert {example.target for example in around.published()} >= {label}
    shown = {
        sample.labels["reason"]
        for metric in REGISTRY.collect()
        if metric.name == "ratchet_feedback_outcomes"
        for sample in metric.samples
    }
    assert all(label[:3] not in reason for reason in shown if reason != "invalid")


# several consumers, and what is out of reach


def test_two_consumers_share_the_work_and_settle_everything_once(home: Path) -> None:
    with running(settings_for(home, consumer_batch=3), consumers=2) as around:
        made = [made for made, _ in around._started]
        wait_until(lambda: all(item.is_ready() for item in made))
        for number in range(60):
            around.send(prediction(number, f"text {number}"), said(number, number, "beta"))
        around.drain()
        assert {outcome.status for outcome in around.outcomes().values()} == {OutcomeStatus.ACCEPTED}
        assert len(around.outcomes()) == 60
        assert sorted(example.seq for example in around.store.examples()) == list(range(1, 61))
        assert len({example.example_id for example in around.published()}) == 60
        assert min(item._consumed for item in made) > 0


def test_a_log_that_is_out_of_reach_is_waited_for(home: Path, tmp_path: Path) -> None:
    settings = settings_for(home, log_url=f"sqlite:///{tmp_path}/later/log.db")
    with running(settings, ready=False) as around:
        wait_until(lambda: _state(home) == "backing off")
        ((made, _),) = around._started
        assert made.is_alive()
        assert not made.is_ready()
        (tmp_path / "later").mkdir()
        around.send(said(1, text="x", target="beta"))
        assert _await_outcome(around, "f1").status == OutcomeStatus.ACCEPTED
        wait_until(made.is_ready)


def test_a_store_that_goes_out_of_reach_is_waited_for_and_nothing_is_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.examples.engine._BUSY_TIMEOUT_MS", 50)
    with running(settings_for(home)) as around:
        around.send(said(1, text="x", target="beta"))
        around.drain()
        with closing(sqlite3.connect(home / "examples.db", isolation_level=None)) as intruder:
            intruder.execute("BEGIN IMMEDIATE")
            around.send(said(2, text="y", target="beta"))
            wait_until(lambda: _state(home) == "backing off")
            intruder.execute("ROLLBACK")
        assert _await_outcome(around, "f2").status == OutcomeStatus.ACCEPTED
        around.drain()


def test_a_store_that_was_never_migrated_and_one_that_is_replaced_are_brought_up(home: Path) -> None:
    with running(settings_for(home), ready=False) as around:
        around.send(said(1, text="x", target="beta"))
        wait_until(lambda: (home / "examples.db").exists() and _state(home) == "consuming")
        around.drain()
    shutil.copy(home / "examples.db", home / "backup.db")
    with running(settings_for(home, examples_url=f"sqlite:///{home}/backup.db")) as around:
        around.send(said(2, text="y", target="beta"))
        around.drain()
        assert around.outcomes().keys() == {"f1", "f2"}


def test_long_trouble_does_not_end_the_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = consumer.Consumer(settings_for(home))
    monkeypatch.setattr(made._stop, "wait", lambda seconds: seconds)
    made._failures = 5_000  # two days of it
    made._back_off(Retryable("still gone"))
    made.stop()
    made.run()


# the live model


def test_a_champion_that_cannot_be_served_leaves_the_one_before_in_use(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.live._REFRESH_S", 0.05)
    with running(settings_for(home)) as around:
        ((made, _),) = around._started
        wait_until(lambda: made._live.version == "v-0001")
        publish(home, "v-0002", labels=["alpha", "beta"], embedding_size=4)
        wait_until(lambda: made._live.version == "v-0002")
        (home / "registry" / "default" / "promotions" / "00000003.json").write_text("damaged")
        around.send(said(1, text="x", target="beta"))
        assert "by v-0002" in _await_outcome(around, "f1").reason


def test_a_consumer_keeps_only_the_live_version_in_its_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedback.live._REFRESH_S", 0.05)
    cache = home / "cache" / "feedback"
    with running(settings_for(home)):
        wait_until((cache / "v-0001" / "manifest.json").exists)
        publish(home, "v-0002")
        wait_until(lambda: (cache / "v-0002" / "manifest.json").exists() and not (cache / "v-0001").exists())


def test_stores_are_closed_by_a_consumer_that_ends(home: Path) -> None:
    with running(settings_for(home)) as around:
        around.drain()
    assert _state(home) == "stopped"
    store = ExampleStore(settings_for(home).example_store_url, "default")
    with closing(store):
        assert store.outcomes() == []
