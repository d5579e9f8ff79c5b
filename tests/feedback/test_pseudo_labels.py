"""Pseudo-labels: few, light, only where model and neighbours agree, and never above a person's word."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.events import FeedbackKind, Origin, OutcomeStatus, Prediction, Split
from feedback.pseudo_labels import PseudoLabeller
from tests.feedback.harness import KEY, LABELS, Bench, bench, feedback, prediction, publish, settings_for
from tests.support_bundles import WORDS, favouring

ON = {"pseudo_labels": True, "pseudo_neighbours": 3, "pseudo_per_label": 2, "pseudo_share": 0.5, "near_copies": 100}


def _text(*words: int) -> str:
    return " ".join(WORDS[word] for word in words)


#: texts about the first words are alpha, those about others beta: so are their vectors
ALPHA = [_text(0, 0, 0, 0, 1, 1, number) for number in range(10, 20)]
BETA = [_text(30, 30, 30, 30, 31, 31, number) for number in range(40, 50)]
BETA_LIKE = _text(30, 30, 30, 30, 31, 31, 51)


def _teach(found: Bench, texts: Sequence[str], label: str) -> None:
    found.settle(*(feedback(f"{label}{text}"[:60], target=label, text=text) for text in texts))


def _turn(home: Path, found: Bench, **changes: Any) -> int:
    labeller = PseudoLabeller(settings_for(home, **{**ON, **changes}), found.live, KEY)
    return labeller.turn(found.store)


def _record(found: Bench, *predictions: Prediction) -> None:
    with found.store.transaction() as transaction:
        transaction.add_predictions(predictions)


def _guesses(found: Bench) -> dict[str, str]:
    examples = [example for example in found.store.examples() if example.origin == Origin.PSEUDO_LABEL]
    return {example.inputs["text"]: example.target for example in examples}


@pytest.fixture
def texts() -> list[str]:
    return [_text(0, 0, 0, 0, 1, 1, number) for number in range(20, 26)]


def _sure(texts: Sequence[str], **fields: Any) -> list[Prediction]:
    return [prediction(number, text, "alpha", confidence=0.99, **fields) for number, text in enumerate(texts)]


def test_where_model_and_neighbours_agree_a_few_are_learned_a_little(home: Path, texts: list[str]) -> None:
    with bench(home, holdout_share=0.0, near_copies=100) as found:
        _teach(found, ALPHA, "alpha")
        _teach(found, BETA, "beta")
        _record(found, *_sure(texts))
        assert _turn(home, found, pseudo_labels=False) == 0
        assert _turn(home, found) == 2
        examples = [example for example in found.store.examples() if example.origin == Origin.PSEUDO_LABEL]
        assert {(item.target, item.split, item.weight, item.trust, item.selected) for item in examples} == {
            ("alpha", Split.TRAIN, 0.2, 0.0, False)
        }
        assert _turn(home, found) == 0, "the label has as many as it may have"
        assert _turn(home, found, pseudo_per_label=20, pseudo_share=0.1) == 0, "and so has the whole"
        assert _turn(home, found, pseudo_per_label=20) == 4


def test_what_is_doubtful_answered_drawn_or_contradicted_is_left_alone(home: Path, texts: list[str]) -> None:
    with bench(home, holdout_share=0.0, near_copies=100) as found:
        _teach(found, ALPHA, "alpha")
        _teach(found, BETA, "beta")
        _record(
            found,
            prediction("doubtful", texts[0], "alpha", confidence=0.9),
            prediction("drawn", texts[1], "alpha", confidence=0.99, audit_probability=0.1),
            prediction("answered", texts[2], "alpha", confidence=0.99),
            prediction("neighbours", BETA_LIKE, "alpha", confidence=0.99),
            prediction("rejected", texts[3], "alpha", confidence=0.99),
        )
        found.settle(feedback(1, "answered", "gamma"), feedback(2, "rejected", kind=FeedbackKind.REJECT))
        assert _turn(home, found) == 0
        publish(home, "v-0002", head=favouring(LABELS, "beta"))
        found.live._next = 0.0
        found.live.refresh()
        _record(found, prediction("changed its mind", texts[4], "alpha", confidence=0.99))
        assert _turn(home, found) == 1
        assert _guesses(found) == {BETA_LIKE: "beta"}, "what its neighbours said all along"


def test_too_few_examples_have_no_neighbours_to_ask(home: Path, texts: list[str]) -> None:
    with bench(home, holdout_share=0.0) as found:
        _teach(found, ALPHA[:2], "alpha")
        _record(found, *_sure(texts))
        assert _turn(home, found) == 0


def test_any_believed_word_is_above_a_guess_and_none_of_them_judges(home: Path, texts: list[str]) -> None:
    with bench(home, holdout_share=0.0, near_copies=100) as found:
        _teach(found, ALPHA, "alpha")
        _record(found, *_sure(texts))
        assert _turn(home, found, holdout_share=0.9, pseudo_per_label=4) == 4
        assert Counter(example.split for example in found.store.examples()) == {Split.TRAIN: 14}
        first, second, *_ = _guesses(found)
        signal = feedback("signal", target="alpha", text=first, kind=FeedbackKind.IMPLICIT)
        word = feedback("word", target="beta", text=second)
        outcomes = found.settle(signal, word)
        assert {outcome.status for outcome in outcomes.values()} == {OutcomeStatus.ACCEPTED}
        stored = {example.inputs["text"]: example for example in found.store.examples()}
        assert (stored[first].origin, stored[first].weight) == (Origin.IMPLICIT, 0.3)
        assert (stored[second].origin, stored[second].target, stored[second].weight) == (Origin.CORRECTION, "beta", 1.0)
