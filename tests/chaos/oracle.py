"""What must have come of the corrections, worked out from what was acknowledged; and what differs from it.

Only two things are taken from the log, as nobody else knows them: which predictions were recorded (they may be dropped),
and the time at which the service took each correction.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from core.eventlog.base import EventLog, LogRecord
from core.events import (
    EXAMPLES,
    INTERACTIONS,
    Example,
    Feedback,
    FeedbackKind,
    Origin,
    OutcomeStatus,
    Prediction,
    decode,
)
from core.examples import ExampleStore, normalise
from tests.chaos.writers import Acknowledged, text_of

_SHOWN = 5


@dataclass(kw_only=True)
class Logged:
    """What the log holds."""

    predictions: set[str] = field(default_factory=set)
    taken_at: dict[str, datetime] = field(default_factory=dict)
    #: feedback that is there more than once, as a retry or a crash has doubled it
    doubled: int = 0
    examples: dict[str, Example] = field(default_factory=dict)


def read_log(log: EventLog) -> Logged:
    """All of the log; of a correction that is there twice, the first counts."""
    found = Logged()
    for record in _all(log, INTERACTIONS):
        event = decode(record.value)
        if isinstance(event, Prediction):
            found.predictions.add(event.prediction_id)
        elif isinstance(event, Feedback):
            found.doubled += event.feedback_id in found.taken_at
            found.taken_at.setdefault(event.feedback_id, event.at)
    for record in _all(log, EXAMPLES):
        event = decode(record.value)
        if isinstance(event, Example):
            known = found.examples.get(event.example_id)
            if known is None or known.seq <= event.seq:
                found.examples[event.example_id] = event
    return found


def _all(log: EventLog, topic: str) -> Iterable[LogRecord]:
    positions = dict.fromkeys(log.ends(topic), 0)
    while page := log.read(topic, positions, limit=2_000):
        positions |= {record.partition: record.offset + 1 for record in page}
        yield from page


def differences(seed: int, acknowledged: Sequence[Acknowledged], logged: Logged, store: ExampleStore) -> list[str]:
    """Sentences for what is lost, doubled or otherwise than it must be; none when all is well."""
    faults: list[str] = []

    def compare(what: str, wrong: Iterable[object]) -> None:
        found = sorted(map(str, wrong))
        if found:
            faults.append(f"{len(found)} {what}: {', '.join(found[:_SHOWN])}")

    said = {item.feedback_id: item for item in acknowledged}
    outcomes = store.outcomes()
    counts = Counter(outcome.feedback_id for outcome in outcomes)
    compare(
        "acknowledged twice under two keys",
        [i for i, n in Counter(a.feedback_id for a in acknowledged).items() if n > 1],
    )
    compare("lost from the log", said.keys() - logged.taken_at.keys())
    compare("without an outcome", said.keys() - counts.keys())
    compare("with two outcomes", [identity for identity, count in counts.items() if count > 1])
    compare("outcomes of what was never acknowledged", counts.keys() - said.keys())
    unmatched = {i for i, item in said.items() if item.prediction_id and item.prediction_id not in logged.predictions}
    compare(
        "wrongly unmatched, or wrongly not",
        unmatched ^ {outcome.feedback_id for outcome in outcomes if outcome.status == OutcomeStatus.UNMATCHED},
    )
    believed = (OutcomeStatus.ACCEPTED, OutcomeStatus.DUPLICATE, OutcomeStatus.UNMATCHED)
    compare("of another status", [(o.feedback_id, o.status.value) for o in outcomes if o.status not in believed])
    expected = _expected(
        seed, [item for i, item in said.items() if i not in unmatched and i in logged.taken_at], logged
    )
    examples = store.examples()
    found = {normalise(example.inputs)["text"]: _state(example) for example in examples}
    compare("examples that are there twice", [e.example_id for e in examples] if len(found) != len(examples) else [])
    compare("examples lost", expected.keys() - found.keys())
    compare("examples too many", found.keys() - expected.keys())
    compare(
        "examples otherwise",
        [(expected[t], found[t]) for t in expected.keys() & found.keys() if expected[t] != found[t]],
    )
    published = {e.example_id: (e.seq, e.target) for e in logged.examples.values()}
    compare(
        "examples not as published",
        [e.example_id for e in examples if published.get(e.example_id) != (e.seq, e.target)],
    )
    return faults


State = tuple[str, bool, tuple[str, ...]]
"""Target, whether a person said so, and the feedback that says so."""


def _state(example: Example) -> State:
    return example.target, example.origin != Origin.IMPLICIT, tuple(sorted(example.sources))


def _expected(seed: int, said: Sequence[Acknowledged], logged: Logged) -> dict[str, State]:
    """By text. A person's word holds against an app's signal, then the later one."""
    words: dict[str, list[tuple[bool, datetime, str, str]]] = defaultdict(list)
    for item in said:
        kind = item.correction.kind
        if kind == FeedbackKind.REJECT:
            continue
        target = item.correction.target or item.label or ""
        by_person = kind != FeedbackKind.IMPLICIT
        words[text_of(seed, item.correction.text)].append(
            (by_person, logged.taken_at[item.feedback_id], item.feedback_id, target)
        )
    return {text: (max(all_)[3], max(all_)[0], tuple(sorted(word[2] for word in all_))) for text, all_ in words.items()}
