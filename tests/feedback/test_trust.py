"""Whom is believed, what is learned from it, and what may judge. The toy model is certain that everything is `alpha`."""

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.events import FeedbackKind, Origin, OutcomeStatus, Split
from core.examples.review import Waiting
from tests.feedback.harness import Bench, bench, feedback, prediction

ACCEPTED, QUARANTINED, REJECTED = OutcomeStatus.ACCEPTED, OutcomeStatus.QUARANTINED, OutcomeStatus.REJECTED


@pytest.fixture
def settled(home: Path) -> Iterator[Bench]:
    """Settles batches."""
    with bench(home) as made:
        yield made


def _status(found: Bench, *events: Any) -> list[OutcomeStatus]:
    return [outcome.status for outcome in found.settle(*events).values()]


def _stranger(number: int, target: str, *, annotator: str = "ann", text: str = "a text", **fields: Any) -> Any:
    return feedback(number, target=target, annotator=annotator, text=text, trusted=False, **fields)


# belief


def test_a_trusted_key_is_believed_whatever_the_model_thinks(settled: Bench) -> None:
    assert (
        _status(settled, feedback(1, target="beta", text="x"), feedback(2, target="never seen", text="y"))
        == [ACCEPTED] * 2
    )
    assert {example.trust for example in settled.store.examples()} == {1.0}


def test_a_stranger_is_believed_where_the_model_agrees(settled: Bench) -> None:
    assert _status(settled, _stranger(1, "alpha")) == [ACCEPTED]
    assert settled.example().trust == pytest.approx(0.6)


def test_a_stranger_who_contradicts_a_certain_model_waits_for_a_second_source_on_that_text(settled: Bench) -> None:
    (first,) = settled.settle(_stranger(1, "beta")).values()
    assert first.status == QUARANTINED
    assert first.reason == (
        "contradicts a confident model: it waits until another source or a trusted key says the same of this text"
    )
    assert _status(settled, _stranger(2, "beta"), _stranger(3, "beta", text="another text")) == [QUARANTINED] * 2
    assert settled.store.examples() == []
    assert _status(settled, _stranger(4, "beta", annotator="bob")) == [ACCEPTED]
    example = settled.example()
    assert (example.target, example.sources) == ("beta", ["f1", "f2", "f4"])
    assert 0.6 < example.trust < 1.0


def test_a_new_label_of_a_stranger_waits_until_somebody_else_uses_it(settled: Bench) -> None:
    (first,) = settled.settle(_stranger(1, "delta", text="x")).values()
    assert first.status == QUARANTINED
    assert first.reason.startswith(
        "new label from one untrusted source: it waits until another source or a trusted key"
    )
    assert _status(settled, _stranger(2, "delta", text="y")) == [QUARANTINED]
    assert _status(settled, _stranger(3, "delta", text="z", annotator="bob")) == [ACCEPTED]
    assert settled.example().inputs == {"text": "z"}


def test_a_trusted_key_that_says_the_same_confirms_who_waited(settled: Bench) -> None:
    waiting = [_stranger(1, "beta"), _stranger(2, "gamma"), _stranger(3, "beta", text="another text")]
    assert _status(settled, *waiting) == [QUARANTINED] * 3
    assert _status(settled, feedback(4, target="beta", text="a text")) == [ACCEPTED]
    assert settled.example().sources == ["f1", "f4"]
    settled.settle(feedback(5, target="beta", text="another text"))
    assert [example.sources for example in settled.store.examples()] == [["f1", "f4"], ["f3", "f5"]]


def test_two_strangers_in_one_batch_release_each_other(settled: Bench) -> None:
    events = [_stranger(1, "delta"), _stranger(2, "delta", annotator="bob"), _stranger(3, "delta", annotator="cid")]
    assert _status(settled, *events) == [QUARANTINED, ACCEPTED, OutcomeStatus.DUPLICATE]


def test_a_label_that_the_live_model_cannot_judge_yet_needs_a_second_source(settled: Bench) -> None:
    settled.settle(feedback(1, target="delta", text="x"))
    (outcome,) = settled.settle(_stranger(2, "delta", text="y")).values()
    assert outcome.status == QUARANTINED
    assert "cannot judge" in outcome.reason
    assert _status(settled, _stranger(3, "delta", text="y", annotator="bob")) == [ACCEPTED]


def test_before_the_first_model_a_stranger_waits(tmp_path: Path) -> None:
    with bench(tmp_path) as found:
        said = _status(found, feedback(1, target="a", text="x"), _stranger(2, "a", text="y"))
        assert said == [ACCEPTED, QUARANTINED]
        assert _status(found, _stranger(3, "b", text="z")) == [QUARANTINED]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_strangers_echo_does_not_make_a_trusted_word_younger(settled: Bench, order: tuple[int, ...]) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    said = [
        feedback(1, target="alpha", text="x", at=at),
        _stranger(2, "alpha", text="x", at=at + timedelta(seconds=5)),
        feedback(3, target="beta", text="x", at=at + timedelta(seconds=3)),
    ]
    for number in order:
        settled.settle(said[number])
    assert (settled.example().target, settled.example().trust) == ("beta", 1.0)


def test_a_trusted_echo_makes_a_strangers_word_trusted(settled: Bench) -> None:
    settled.settle(_stranger(1, "alpha", text="x"))
    settled.settle(feedback(2, target="alpha", text="x"))
    assert (settled.example().trust, settled.example().origin) == (1.0, Origin.CORRECTION)
    for number, annotator in enumerate(("bob", "cid"), start=3):
        settled.settle(_stranger(number, "beta", text="x", annotator=annotator))
    assert settled.example().target == "alpha"


def test_an_untrusted_word_never_replaces_a_trusted_one(settled: Bench) -> None:
    trusted = feedback(1, target="delta", text="x")
    stranger = _stranger(2, "delta", text="y")
    settled.settle(trusted, stranger, _stranger(3, "delta", text="y", annotator="bob"))
    for number, annotator in enumerate(("ann", "bob"), start=4):
        settled.settle(_stranger(number, "omega", text="x", annotator=annotator))
    targets = {example.inputs["text"]: example.target for example in settled.store.examples()}
    assert targets == {"x": "delta", "y": "delta"}


# labels


def test_with_closed_labels_an_unknown_one_is_rejected_even_from_a_trusted_key(home: Path) -> None:
    with bench(home, closed_labels=True) as found:
        assert _status(found, feedback(1, target="delta", text="x"), feedback(2, target="beta", text="y")) == [
            REJECTED,
            ACCEPTED,
        ]
        assert [example.target for example in found.store.examples()] == ["beta"]


def test_no_more_labels_are_taken_than_a_model_may_have(home: Path) -> None:
    with bench(home, max_labels=4) as found:
        statuses = _status(found, *(feedback(number, target=f"new {number}", text=f"x{number}") for number in range(3)))
        assert statuses == [ACCEPTED, REJECTED, REJECTED]
        assert _status(found, feedback(9, target="gamma", text="y")) == [ACCEPTED]


@pytest.mark.parametrize(
    ("target", "told"),
    [(None, "must be a string, got null"), (7, "a number"), ("", "is empty"), ("x" * 201, "at most 200")],
)
def test_a_target_that_cannot_be_is_rejected_with_its_fault(settled: Bench, target: Any, told: str) -> None:
    (outcome,) = settled.settle(feedback(1, target=target, text="x")).values()
    assert outcome.status == REJECTED
    assert told in outcome.reason


def test_a_text_of_which_nothing_is_left_is_rejected(settled: Bench) -> None:
    (outcome,) = settled.settle(feedback(1, target="beta", text="\u200b\u00ad\x07 \u200d")).values()
    assert (outcome.status, outcome.reason) == (REJECTED, "'text' is empty")


# kinds


def test_a_confirmation_makes_the_answer_the_target(settled: Bench) -> None:
    events = [prediction(1, "x", "gamma"), feedback(1, 1, kind=FeedbackKind.CONFIRM)]
    assert _status(settled, *events) == [ACCEPTED]
    assert (settled.example().target, settled.example().origin) == ("gamma", Origin.CONFIRMATION)


def test_a_rejection_is_noted_teaches_nothing_and_the_review_still_asks(settled: Bench) -> None:
    made = prediction(1)
    settled.settle(made)
    with settled.store.transaction() as transaction:
        transaction.review.add([Waiting(prediction_id="p1", lot=0.5, probability=None, doubt=0.5, at=made.at)])
    assert _status(settled, feedback(1, 1, kind=FeedbackKind.REJECT)) == [ACCEPTED]
    assert settled.store.examples() == []
    with settled.store.transaction() as transaction:
        assert transaction.review.members(["p1"]) == {"p1": None}
    settled.settle(feedback(2, 1, "beta"))
    assert (settled.example().target, settled.example().split) == ("beta", Split.TRAIN)
    with settled.store.transaction() as transaction:
        assert transaction.review.members(["p1"]) == {}


START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "rejected", "split"),
    [
        ({}, {}, Split.BARRED),
        ({"at": START + timedelta(seconds=2)}, {}, Split.TRAIN),
        ({"target": "beta", "kind": FeedbackKind.CORRECT}, {}, Split.TRAIN),
        ({}, {"trusted": False}, Split.TRAIN),
        ({"trusted": False, "at": START + timedelta(seconds=2)}, {}, Split.BARRED),
        ({"kind": FeedbackKind.IMPLICIT, "target": "alpha"}, {"trusted": False}, Split.BARRED),
    ],
    ids=["later", "said again", "another label", "a stranger's", "against a stranger", "against a signal"],
)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_a_text_is_not_trained_on_with_a_label_that_a_stronger_or_later_word_rejects(
    settled: Bench, said: dict[str, Any], rejected: dict[str, Any], split: Split, order: tuple[int, int]
) -> None:
    word = feedback(1, 1, **{"kind": FeedbackKind.CONFIRM, "at": START, **said})
    rejection = feedback(2, 1, kind=FeedbackKind.REJECT, at=START + timedelta(seconds=1), **rejected)
    settled.settle(prediction(1))
    for place in order:
        settled.settle((word, rejection)[place])
    example = settled.example()
    assert (example.split, bool(example.split_reason)) == (split, split == Split.BARRED)
    settled.settle(feedback(3, 1, "gamma", at=START + timedelta(seconds=3)))
    assert (settled.example().target, settled.example().split) == ("gamma", Split.TRAIN)


def test_a_holdout_text_whose_label_is_rejected_judges_no_more_until_it_has_another(settled: Bench) -> None:
    settled.settle(*_audit(1, "beta"), prediction("again", "text 1", "beta"))
    settled.settle(feedback("no", "again", kind=FeedbackKind.REJECT))
    assert (settled.example().origin, settled.example().split) == (Origin.AUDIT, Split.BARRED)
    settled.settle(feedback("yes", target="gamma", text="text 1"))
    assert (settled.example().origin, settled.example().split) == (Origin.AUDIT, Split.HOLDOUT)


def test_a_signal_weighs_less_and_does_not_unsay_what_a_person_said(settled: Bench) -> None:
    settled.settle(feedback(1, target="beta", text="x", kind=FeedbackKind.IMPLICIT))
    assert (settled.example().weight, settled.example().origin) == (0.3, Origin.IMPLICIT)
    (confirmed,) = settled.settle(feedback(2, target="beta", text="x")).values()
    assert (confirmed.status, confirmed.reason) == (ACCEPTED, "confirms a weaker word on the same text; trusted key")
    assert (settled.example().weight, settled.example().origin, settled.example().seq) == (1.0, Origin.CORRECTION, 2)
    settled.settle(feedback(3, target="gamma", text="x", kind=FeedbackKind.IMPLICIT))
    assert (settled.example().target, settled.example().seq) == ("beta", 2)


def test_what_the_model_is_certain_of_is_kept_but_only_a_correction_is_new_to_train_on(settled: Bench) -> None:
    settled.settle(prediction(1, "x"), feedback(1, 1, kind=FeedbackKind.CONFIRM), feedback(2, target="alpha", text="y"))
    by_text = {example.inputs["text"]: example for example in settled.store.examples()}
    assert (by_text["x"].selected, by_text["y"].selected) == (False, True)
    assert by_text["x"].selection_score < 0.1
    assert by_text["x"].selection_reason == "margin 0.000 by v-0001"


def test_a_correction_of_a_known_text_replaces_its_target_under_a_new_number(settled: Bench) -> None:
    settled.settle(feedback(1, target="beta", text="x"))
    (outcome,) = settled.settle(feedback(2, target="gamma", text=" X ")).values()
    assert outcome.reason == "replaces 'beta' on the same text; trusted key"
    assert (settled.example().target, settled.example().seq, settled.example().sources) == ("gamma", 2, ["f1", "f2"])


# what may judge


def _audit(number: int, target: str | None = "alpha", **fields: Any) -> list[Any]:
    usual: dict[str, Any] = {"kind": FeedbackKind.CORRECT, "asked": True}
    made = prediction(number, f"text {number}", audit_probability=0.25)
    return [made, feedback(number, number, target, **{**usual, **fields})]


def test_an_answer_to_an_audit_always_judges_with_the_chance_it_was_drawn_with(settled: Bench) -> None:
    for number in range(8):
        settled.settle(*_audit(number, "beta"))
    settled.settle(*_audit(8, kind=FeedbackKind.CONFIRM, target=None))
    examples = settled.store.examples()
    assert len(examples) == 9
    assert {(example.origin, example.split, example.sampling_probability) for example in examples} == {
        (Origin.AUDIT, Split.HOLDOUT, 0.25)
    }


@pytest.mark.parametrize(
    ("fields", "origin"),
    [
        ({"asked": False}, Origin.CORRECTION),
        ({"trusted": False}, Origin.CORRECTION),
        ({"kind": FeedbackKind.IMPLICIT}, Origin.IMPLICIT),
    ],
)
def test_what_was_volunteered_or_cannot_be_trusted_is_no_audit(
    settled: Bench, fields: dict[str, Any], origin: Origin
) -> None:
    settled.settle(*_audit(1, **fields))
    assert (settled.example().origin, settled.example().split) == (origin, Split.TRAIN)
    assert settled.example().sampling_probability is None


def test_an_asked_answer_on_a_prediction_that_was_not_drawn_is_no_audit(settled: Bench) -> None:
    settled.settle(prediction(1, "x"), feedback(1, 1, "beta", asked=True))
    assert (settled.example().origin, settled.example().sampling_probability) == (Origin.CORRECTION, None)


def test_an_audit_stays_one_when_it_is_corrected_and_makes_one_of_what_was_volunteered(settled: Bench) -> None:
    settled.settle(*_audit(1, "beta"), feedback("again", target="gamma", text="text 1"))
    audit = settled.example()
    assert (audit.target, audit.origin, audit.split, audit.sampling_probability) == (
        "gamma", Origin.AUDIT, Split.HOLDOUT, 0.25,
    )  # fmt: skip
    settled.settle(feedback("first", target="beta", text="text 2"))
    settled.settle(*_audit(2, "gamma"))
    audited = settled.store.examples()[-1]
    assert (audited.target, audited.origin, audited.split) == ("gamma", Origin.AUDIT, Split.HOLDOUT)
    assert audited.sampling_probability == 0.25


def test_a_seed_that_trains_is_no_audit_whoever_is_asked_about_it(settled: Bench) -> None:
    settled.settle(feedback("first", target="beta", text="text 1"))
    with settled.store.transaction() as transaction:
        (stored, *said), *_ = transaction.examples([settled.example().example_id]).values()
        seed = stored.model_copy(update={"origin": Origin.SEED, "sources": ["seed"]})
        transaction.put_example(seed, target_at=said[0], target_by=said[1])
    settled.settle(*_audit(1, "gamma"))
    trained = settled.example()
    assert (trained.target, trained.origin, trained.split) == ("gamma", Origin.CORRECTION, Split.TRAIN)


def test_corrections_judge_by_chance(home: Path) -> None:
    with bench(home, holdout_share=0.5, validation_share=0.0) as found:
        with found.store.transaction() as transaction:
            transaction.mark_seeded(["beta"])
        for label in ("beta", "new"):
            found.settle(*(feedback(f"{label}{n}", target=label, text=f"{label} {n * 7919:o}") for n in range(60)))
        judging = Counter(example.target for example in found.store.examples() if example.split == Split.HOLDOUT)
    assert 15 <= judging["beta"] <= 40
    assert judging["new"] == 0, "a label that the seed lacks is learned from all that is said of it"
