"""Which inputs are the same example, and what an example may be used for."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.events import Split
from core.examples import example_id, normalise, split_of

KEY = b"k" * 32


def _id(text: str, *, key: bytes = KEY, model: str = "default", task: str = "text_classification") -> str:
    return example_id(key, model=model, task=task, inputs={"text": text})


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=20))
def test_what_was_normalised_once_stays_as_it_is(text: str) -> None:
    once = normalise({"text": text})
    assert normalise(once) == once


@pytest.mark.parametrize("same", ["Café  au\tLAIT\n", "cafe\u0301 au lait", "ＣＡＦÉ au lait", " CAFÉ AU LAIT"])
def test_spelling_that_changes_no_meaning_changes_no_id(same: str) -> None:
    assert _id(same) == _id("café au lait")


def test_greek_in_capitals_is_the_same_text() -> None:
    assert _id("\u0390") == _id("\u0390".upper())


def test_another_text_key_model_or_task_is_another_example() -> None:
    ids = {_id("a b"), _id("ab"), _id("a b", key=b"o" * 32), _id("a b", model="other"), _id("a b", task="other")}
    assert len(ids) == 5


def test_the_order_of_fields_is_no_part_of_the_id() -> None:
    one = example_id(KEY, model="m", task="t", inputs={"a": "x", "b": "y"})
    other = example_id(KEY, model="m", task="t", inputs={"b": "y", "a": "x"})
    swapped = example_id(KEY, model="m", task="t", inputs={"a": "y", "b": "x"})
    assert one == other != swapped


def test_the_splits_get_their_shares() -> None:
    splits = Counter(split_of(_id(f"text {number}"), holdout=0.15, validation=0.1) for number in range(5_000))
    assert splits[Split.HOLDOUT] / 5_000 == pytest.approx(0.15, abs=0.02)
    assert splits[Split.VALIDATION] / 5_000 == pytest.approx(0.10, abs=0.02)


@given(text=st.text(max_size=10), holdout=st.floats(0, 0.5), more=st.floats(0, 0.5))
def test_a_larger_holdout_keeps_what_a_smaller_one_had(text: str, holdout: float, more: float) -> None:
    small = split_of(_id(text), holdout=holdout, validation=0.0)
    large = split_of(_id(text), holdout=holdout + more, validation=0.0)
    assert not (small == Split.HOLDOUT and large != Split.HOLDOUT)
