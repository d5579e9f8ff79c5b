"""The oracle finds nothing where all is well, and each loss and each double where there is one."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from core.eventlog import open_log
from core.events import Event, Feedback
from core.examples import ExampleStore
from tests.chaos.oracle import Logged, differences, read_log
from tests.chaos.writers import Acknowledged, correction
from tests.feedback.harness import LABELS, prediction, publish, running, settings_for
from tests.support import wait_until

SEED, COUNT = 7, 60


def _said(number: int) -> tuple[Acknowledged, list[Event]]:
    """A correction as acknowledged, and the events that it made; every tenth prediction is not recorded."""
    item = correction(SEED, number, total=COUNT, labels=LABELS)
    events: list[Event] = []
    if item.on_prediction and number % 10:
        events.append(prediction(number, item.spelling, LABELS[number % 3]))
    events.append(
        Feedback(
            feedback_id=f"f{number}",
            prediction_id=f"p{number}" if item.on_prediction else None,
            inputs=None if item.on_prediction else {"text": item.spelling},
            kind=item.kind,
            target=item.target,
            trusted=True,
        )
    )
    told = Acknowledged(
        correction=item,
        feedback_id=f"f{number}",
        prediction_id=f"p{number}" if item.on_prediction else None,
        label=LABELS[number % 3] if item.on_prediction else None,
    )
    return told, events


def _settled(home: Path) -> tuple[list[Acknowledged], Logged]:
    """The corrections, half of them delivered twice, consumed to the end."""
    publish(home, "v-0001")
    settings = settings_for(home, join_timeout_s=0.1)
    pairs = [_said(number) for number in range(COUNT)]
    with running(settings, ready=True) as around:
        events = [event for _, made in pairs for event in made]
        around.send(*events, *events[::2])
        around.drain()
        wait_until(lambda: not around.store.pending().count, timeout_s=20, what="what waits to be given up")
        around.drain()
        with closing(open_log(settings.event_log_url)) as log:
            return [told for told, _ in pairs], read_log(log)


def test_the_oracle_agrees_with_a_sound_run_and_names_what_is_lost_or_doubled(tmp_path: Path) -> None:
    told, logged = _settled(tmp_path)
    settings = settings_for(tmp_path)
    with closing(ExampleStore(settings.example_store_url, settings.model)) as store:
        assert differences(SEED, told, logged, store) == []
        assert logged.doubled

        def named(acknowledged: list[Acknowledged], *, log: Logged = logged) -> str:
            return " | ".join(differences(SEED, acknowledged, log, store))

        ghost = replace(told[1], feedback_id="ghost")
        assert "1 lost from the log: ghost" in named([*told, ghost])
        assert "1 without an outcome: ghost" in named([*told, ghost])
        assert "1 outcomes of what was never acknowledged: f5" in named([*told[:5], *told[6:]])
        assert "1 acknowledged twice under two keys: f5" in named([*told, told[5]])
        fewer = Logged(predictions=set(), taken_at=logged.taken_at, examples=logged.examples)
        assert "wrongly unmatched" in named(told, log=fewer)
        assert "examples not as published" in named(told, log=replace(logged, examples={}))
        other = [
            replace(item, correction=replace(item.correction, target="gamma"))
            for item in told
            if item.correction.target
        ]
        assert "examples otherwise" in named(other)
