"""Prediction records: never in the way, bounded, and all there after a clean end."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from core.eventlog import open_log
from core.eventlog.base import EventLog
from core.events import Prediction, new_id
from service.recorder import Recorder, is_audit
from tests.service.serving import champion, interactions, serving, settings_for
from tests.support import wait_until


def predictions(count: int) -> list[Prediction]:
    return [
        Prediction(
            prediction_id=new_id(),
            model_version="v-0001",
            task="text_classification",
            inputs={"text": "x"},
            output={"label": "beta"},
            confidence=0.5,
        )
        for _ in range(count)
    ]


def dropped() -> float:
    return REGISTRY.get_sample_value("ratchet_predictions_dropped_total") or 0.0


def keys(log: EventLog) -> Sequence[str]:
    ends = log.ends("interactions")
    return [record.key for record in log.read("interactions", dict.fromkeys(ends, 0), limit=100_000)]


def test_records_reach_the_log_in_order(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}", partitions=1)
    recorder = Recorder(log, limit=10_000)
    recorder.start()
    made = predictions(1_200)
    for start in range(0, 1_200, 7):
        recorder.put(made[start : start + 7])
    assert recorder.stop(5) == 0
    assert keys(log) == [event.prediction_id for event in made]
    log.close()


def test_with_the_log_away_the_newest_are_dropped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    log = open_log(f"sqlite:///{tmp_path / 'logs' / 'log.db'}", partitions=1)
    recorder = Recorder(log, limit=100)
    recorder.start()
    before = dropped()
    made = predictions(150)
    started = time.monotonic()
    for event in made:
        recorder.put([event])
    assert time.monotonic() - started < 1
    assert dropped() - before == 50
    assert recorder.pending == 100
    (tmp_path / "logs").unlink()
    (tmp_path / "logs").mkdir()
    wait_until(lambda: recorder.pending == 0, timeout_s=20)
    assert recorder.stop(5) == 0
    assert keys(log) == [event.prediction_id for event in made[:100]]
    log.close()


def test_the_end_does_not_wait_for_ever(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    log = open_log(f"sqlite:///{tmp_path / 'logs' / 'log.db'}", partitions=1)
    recorder = Recorder(log, limit=100)
    recorder.start()
    recorder.put(predictions(3))
    started = time.monotonic()
    assert recorder.stop(0.5) == 3
    assert time.monotonic() - started < 2


def test_the_rest_is_recorded_at_a_clean_end(home: Path) -> None:
    champion(home, "v-0001")
    settings = settings_for(home)
    with serving(settings) as served:
        made = {served.predict()["prediction_id"] for _ in range(20)}
    assert {event.prediction_id for event in interactions(settings) if isinstance(event, Prediction)} == made


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_audits_are_drawn_by_chance_and_the_same_for_the_same_id(rate: float) -> None:
    ids = [new_id() for _ in range(4_000)]
    drawn = [is_audit(name, rate) for name in ids]
    assert drawn == [is_audit(name, rate) for name in ids]
    assert abs(sum(drawn) / len(ids) - rate) < 0.03
    assert rate not in (0.0, 1.0) or set(drawn) == {bool(rate)}


def test_a_record_too_large_for_the_log_holds_nothing_up(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}", partitions=1)
    recorder = Recorder(log, limit=100)
    made = predictions(3)
    made[1] = made[1].model_copy(update={"inputs": {"text": "x" * 1_000_000}})
    before = dropped()
    recorder.put(made)
    recorder.start()
    wait_until(lambda: recorder.pending == 0)
    assert recorder.stop(5) == 0
    assert keys(log) == [made[0].prediction_id, made[2].prediction_id]
    assert dropped() - before == 1
    log.close()
