"""Whatever order, however often and in whatever batches events come, they come to the same."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.events import Event, Feedback, FeedbackKind, Origin, OutcomeStatus, Prediction, Split
from core.examples import example_id, normalise, split_of
from feedback.join import give_up
from tests.feedback.harness import KEY, LABELS, bench, feedback, prediction

START = datetime(2026, 1, 1, tzinfo=UTC)
#: the first two are the same text to a reader; those behind them are near copies
TEXTS = [
    "Where is my parcel", "where  is MY parcel ", "my card",
    *(f"my parcel number {number} should have come a week ago, where is it" for number in range(5)),
]  # fmt: skip
HOLDOUT = 0.5
COPIES = 2
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Delivery:
    """Events in batches, as a log hands them out; a batch that fails is rolled back and comes again."""

    batches: list[tuple[list[Event], bool]]
    predictions: dict[str, Prediction]
    feedback: dict[str, Feedback]


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    """Some predictions, feedback on them, on missing ones and on own texts; shuffled, doubled, cut."""
    model = f"m{next(NUMBERS)}"
    texts, targets = st.sampled_from(TEXTS), st.sampled_from(LABELS[:2])
    drawn = st.sampled_from([None, None, 0.1])
    predictions = [
        prediction(number, draw(texts), draw(targets), model=model, audit_probability=draw(drawn))
        for number in range(draw(st.integers(0, 5)))
    ]
    said = []
    for number in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(FeedbackKind))
        about = draw(st.integers(0, 5) | st.none()) if kind != FeedbackKind.REJECT else draw(st.integers(0, 5))
        own = {"text": draw(texts)} if about is None else {}
        given_target = kind in (FeedbackKind.CORRECT, FeedbackKind.IMPLICIT) or about is None
        at = START + timedelta(seconds=draw(st.integers(0, 3)))
        target = draw(targets) if given_target else None
        asked = draw(st.booleans())
        said.append(feedback(number, about, target, kind=kind, at=at, model=model, asked=asked, **own))
    events: list[Event] = [*predictions, *said]
    again = draw(st.lists(st.sampled_from(events), max_size=4))
    order = draw(st.permutations([*events, *again]))
    batches: list[tuple[list[Event], bool]] = []
    while order:
        size = draw(st.integers(1, len(order)))
        batches.append((list(order[:size]), draw(st.booleans())))
        order = order[size:]
    return Delivery(
        batches=batches,
        predictions={event.prediction_id: event for event in predictions},
        feedback={event.feedback_id: event for event in said},
    )


Expected = dict[str, tuple[str, bool, tuple[str, ...]]]


def _expected(delivery: Delivery) -> tuple[Expected, set[str]]:
    """By text: target, whether a person said so, sources; and the feedback whose prediction never came."""
    words: dict[str, list[tuple[bool, datetime, str, str]]] = defaultdict(list)
    unmatched = set()
    for event in delivery.feedback.values():
        about = delivery.predictions.get(event.prediction_id or "")
        if event.inputs is None and about is None:
            unmatched.add(event.feedback_id)
        elif event.kind != FeedbackKind.REJECT:
            inputs = event.inputs or (about.inputs if about else {})
            target = event.target or (about.output["label"] if about else "")
            words[normalise(inputs)["text"]].append(
                (event.kind != FeedbackKind.IMPLICIT, event.at, event.feedback_id, target)
            )
    return {
        text: (max(said)[3], max(said)[0], tuple(sorted(word[2] for word in said))) for text, said in words.items()
    }, unmatched


def _audited(delivery: Delivery) -> set[str]:
    """Texts of predictions that were drawn for an audit, and about which somebody was asked."""
    found = set()
    for event in delivery.feedback.values():
        about = None if event.inputs else delivery.predictions.get(event.prediction_id or "")
        said = event.kind in (FeedbackKind.CORRECT, FeedbackKind.CONFIRM)
        if about is not None and about.audit_probability is not None and event.asked and said:
            found.add(normalise(about.inputs)["text"])
    return found


def _rejected(delivery: Delivery) -> set[str]:
    """Texts whose target was rejected after it was said."""
    words: dict[str, list[tuple[bool, datetime, str, str, bool]]] = defaultdict(list)
    for event in delivery.feedback.values():
        about = delivery.predictions.get(event.prediction_id or "")
        inputs = event.inputs or (about.inputs if about else None)
        if inputs is not None:
            target = event.target or (about.output["label"] if about else "")
            is_person, is_rejection = event.kind != FeedbackKind.IMPLICIT, event.kind == FeedbackKind.REJECT
            words[normalise(inputs)["text"]].append((is_person, event.at, event.feedback_id, target, is_rejection))
    found = set()
    for text, said in words.items():
        last = max([word for word in said if not word[4]], default=None)
        if last and any(word[4] and word[3] == last[3] and word > last for word in said):
            found.add(text)
    return found


def _splits(targets: dict[str, str], audited: set[str], rejected: set[str], model: str) -> dict[str, Split]:
    """The rule by its words, over all pairs: who judges, who is near a judge, who is one copy too many."""
    ids = {text: example_id(KEY, model=model, task="text_classification", inputs={"text": text}) for text in targets}
    drawn = {text: split_of(ids[text], holdout=HOLDOUT, validation=0.0) == Split.HOLDOUT for text in targets}
    drawn |= dict.fromkeys(audited, True)

    def pieces(text: str) -> set[str]:
        return {f" {text} "[place : place + 3] for place in range(len(text))}

    def above(text: str) -> list[str]:
        place = (text not in audited, ids[text])
        return [other for other in near[text] if (other not in audited, ids[other]) < place]

    near = {
        text: [
            other
            for other in targets
            if other != text and len(pieces(text) & pieces(other)) / len(pieces(text) | pieces(other)) >= 0.8
        ]
        for text in targets
    }
    judges = {
        text for text in targets if text in audited or (drawn[text] and all(drawn[other] for other in above(text)))
    } - rejected
    splits = {}
    for text, target in targets.items():
        copies = [other for other in above(text) if targets[other] == target and other not in rejected]
        barred = text in rejected or judges.intersection(near[text]) or len(copies) >= COPIES
        splits[text] = Split.HOLDOUT if text in judges else Split.BARRED if barred else Split.TRAIN
    return splits


class Killed(Exception):
    """The process is gone before it could commit."""


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all deliveries; each is a model of its own in it."""
    return tmp_path_factory.mktemp("home")


@settings(max_examples=80, deadline=None)
@given(delivery=deliveries())
def test_events_in_any_order_doubled_and_interrupted_come_to_the_same(shared_home: Path, delivery: Delivery) -> None:
    model = next(iter(delivery.feedback.values())).model
    with bench(shared_home, model=model, holdout_share=HOLDOUT, near_copies=COPIES) as found:

        def fail(events: Sequence[Event]) -> None:
            with found.store.transaction() as transaction:
                found.settle_within(transaction, events)
                raise Killed

        for events, killed in delivery.batches:
            if killed:
                with pytest.raises(Killed):
                    fail(events)
            found.settle(*events)
        with found.store.transaction() as transaction:
            give_up(transaction, timeout_s=-1)

        expected, unmatched = _expected(delivery)
        stored = {
            normalise(example.inputs)["text"]: (
                example.target,
                example.origin != Origin.IMPLICIT,
                tuple(example.sources),
            )
            for example in found.store.examples()
        }
        assert stored == expected
        outcomes = {outcome.feedback_id: outcome for outcome in found.store.outcomes()}
        assert outcomes.keys() == delivery.feedback.keys()
        for feedback_id, outcome in outcomes.items():
            assert (outcome.status == OutcomeStatus.UNMATCHED) == (feedback_id in unmatched)
            assert outcome.status != OutcomeStatus.QUARANTINED
        published = [row.key for row in found.store.outbox(limit=1_000_000) if model.encode() in row.value]
        assert {example.example_id for example in found.store.examples()} <= set(published)
        splits = {normalise(example.inputs)["text"]: example.split for example in found.store.examples()}
        audited = _audited(delivery)
        assert splits == _splits(
            {text: target for text, (target, *_) in expected.items()}, audited, _rejected(delivery), model
        )
        for example in found.store.examples():
            is_audit = normalise(example.inputs)["text"] in audited
            assert (example.origin == Origin.AUDIT) == is_audit == (example.sampling_probability is not None)
            assert bool(example.split_reason) == (example.split == Split.BARRED)


SAID = [(FeedbackKind.CORRECT, "alpha", 1), (FeedbackKind.CORRECT, "alpha", 3), (FeedbackKind.CORRECT, "beta", 2)]
SIGNALS = [(FeedbackKind.CORRECT, "alpha", 1), (FeedbackKind.IMPLICIT, "beta", 2), (FeedbackKind.IMPLICIT, "alpha", 3)]
STRONGER = [(FeedbackKind.IMPLICIT, "alpha", 3), (FeedbackKind.CORRECT, "beta", 1), (FeedbackKind.CORRECT, "alpha", 2)]


@pytest.mark.parametrize("said", [SAID, SIGNALS, STRONGER], ids=["said again", "signals", "stronger"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_of_three_words_on_a_text_the_same_one_holds_in_every_order(
    shared_home: Path, said: list[tuple[FeedbackKind, str, int]], order: tuple[int, ...]
) -> None:
    model = f"m{next(NUMBERS)}"
    with bench(shared_home, model=model) as found:
        for number in order:
            kind, target, second = said[number]
            at = START + timedelta(seconds=second)
            found.settle(feedback(number, None, target, kind=kind, at=at, model=model, text="a text"))
        example = found.example()
    assert (example.target, example.origin) == ("alpha", Origin.CORRECTION)
    assert example.weight == 1.0
    assert example.sources == ["f0", "f1", "f2"]
