"""What every kind of task must do; one that is entered in TASKS is tested here, and fails until CASES knows it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from core.errors import BadSettings, InvalidInput, InvalidTarget
from core.events import Prediction, decode, encode
from core.tasks import TASKS, Task, get_task


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the tests must know of a task."""

    inputs: dict[str, Any]
    target: Any
    other_target: Any
    bad_targets: list[Any]


CASES = {
    "text_classification": Case(
        inputs={"text": "where is my parcel"},
        target="track order",
        other_target="lost card",
        bad_targets=[None, 3, True, 1.5, [], {}, "", "  ", "a" * 201, "a\nb", "a\x00b", "a\u202eb", "\ud800"],
    )
}
TASK_NAMES = pytest.mark.parametrize("name", sorted(TASKS))
LABELS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=12, unique=True)
FINITE = st.floats(min_value=-1e4, max_value=1e4, width=32)


def _logits(labels: int, *, least: int = 0) -> st.SearchStrategy[Any]:
    shapes = array_shapes(min_dims=1, max_dims=1, min_side=max(least, 1), max_side=6)
    return shapes.flatmap(lambda shape: arrays(np.float32, (shape[0], labels), elements=FINITE))


def test_an_unknown_task_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(BadSettings, match=r"no task 'cooking'; there are: .*text_classification"):
        get_task("cooking")


@TASK_NAMES
def test_a_task_is_entered_under_its_own_name(name: str) -> None:
    assert TASKS[name].name == name
    assert name in CASES


@TASK_NAMES
def test_good_inputs_are_kept_as_they_are_and_become_a_text(name: str) -> None:
    task, case = TASKS[name], CASES[name]
    assert set(case.inputs) == set(task.input_fields)
    parsed = task.parse_inputs(case.inputs, max_chars=100)
    assert parsed == case.inputs
    text = task.text_of(parsed)
    assert isinstance(text, str) or all(isinstance(part, str) for part in text)


@TASK_NAMES
@pytest.mark.parametrize("value", [None, 3, True, [], {}, "", " \n\t", "x" * 101, "\ud800", "a\udfffb"])
def test_a_field_that_cannot_be_used_is_named(name: str, value: Any) -> None:
    task, case = TASKS[name], CASES[name]
    for field in task.input_fields:
        with pytest.raises(InvalidInput, match=f"'{field}'"):
            task.parse_inputs({**case.inputs, field: value}, max_chars=100)


@TASK_NAMES
def test_missing_and_unknown_fields_are_named(name: str) -> None:
    task, case = TASKS[name], CASES[name]
    with pytest.raises(InvalidInput, match="unknown field 'extra'"):
        task.parse_inputs({**case.inputs, "extra": 1}, max_chars=100)
    for field in task.input_fields:
        with pytest.raises(InvalidInput, match=f"'{field}' is missing"):
            task.parse_inputs({other: value for other, value in case.inputs.items() if other != field}, max_chars=100)


@TASK_NAMES
def test_a_target_is_parsed_once_and_a_bad_one_refused(name: str) -> None:
    task, case = TASKS[name], CASES[name]
    for target in (case.target, case.other_target):
        assert task.parse_target(task.parse_target(target)) == task.parse_target(target)
    for target in case.bad_targets:
        with pytest.raises(InvalidTarget, match=f"'{task.target_field}'"):
            task.parse_target(target)


@TASK_NAMES
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_answers_are_probabilities_that_survive_the_log(name: str, data: st.DataObject) -> None:
    task = TASKS[name]
    labels = data.draw(LABELS)
    logits = data.draw(_logits(len(labels)))
    outputs = task.decode(logits, labels)
    assert len(outputs) == len(logits)
    for output, row in zip(outputs, logits, strict=True):
        confidence = task.confidence_of(output)
        assert 0.0 <= confidence <= 1.0
        assert confidence >= 1 / len(labels) - 1e-6
        if len(labels) == 1 or np.sort(row)[-1] - np.sort(row)[-2] > 1e-3:
            assert task.target_of(output) == labels[int(row.argmax())]
        event = Prediction(
            prediction_id="p", model_version="v", task=name, inputs={}, output=output, confidence=confidence
        )
        assert decode(encode(event)) == event


@TASK_NAMES
def test_huge_logits_are_no_trouble_and_no_texts_no_answers(name: str) -> None:
    task = TASKS[name]
    huge = np.array([[1e38, -1e38], [-1e38, 1e38]], dtype=np.float32)
    answers = task.decode(huge, ["a", "b"])
    assert [task.target_of(answer) for answer in answers] == ["a", "b"]
    assert [task.confidence_of(answer) for answer in answers] == [1.0, 1.0]
    assert task.decode(np.zeros((0, 2), dtype=np.float32), ["a", "b"]) == []


@TASK_NAMES
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_scores_are_shares_and_do_not_depend_on_the_order(name: str, data: st.DataObject) -> None:
    task, case = TASKS[name], CASES[name]
    target = st.sampled_from([case.target, case.other_target])
    pairs = data.draw(st.lists(st.tuples(target, target), max_size=12))
    shuffled = data.draw(st.permutations(pairs))
    score = _score(task, pairs)
    assert next(iter(score)) == "accuracy"
    right = sum(answer == wanted for answer, wanted in pairs)
    assert score["accuracy"] == pytest.approx(right / len(pairs) if pairs else 0.0)
    assert all(0.0 <= value <= 1.0 for key, value in score.items() if isinstance(value, float))
    again = _score(task, shuffled)
    assert again.pop("per_label") == score.pop("per_label")
    assert again == pytest.approx(score)


def _score(task: Task, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    return task.score([answer for answer, _ in pairs], [wanted for _, wanted in pairs])


@TASK_NAMES
def test_perfect_answers_score_one_and_uneven_lists_are_refused(name: str) -> None:
    task, case = TASKS[name], CASES[name]
    targets = [case.target, case.other_target, case.target]
    assert task.score(targets, targets)["accuracy"] == 1.0
    with pytest.raises(ValueError, match="1 answers for 3 targets"):
        task.score([case.target], targets)


def test_macro_f1_is_the_mean_over_labels_that_occur() -> None:
    score = TASKS["text_classification"].score(["a", "a", "b", "c"], ["a", "b", "b", "b"])
    # a: 1 right of 2 answered, 1 wanted; b: 1 of 1 answered, 3 wanted; c was never wanted
    assert score["macro_f1"] == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert score["per_label"] == {
        "a": {"recall": 1.0, "support": 1},
        "b": {"recall": pytest.approx(1 / 3), "support": 3},
    }


def test_a_label_may_be_in_any_script_and_is_stripped() -> None:
    parse = TASKS["text_classification"].parse_target
    assert [parse(label) for label in (" a b ", "größe", "送金", "it's \"so\"", "{}", "🎁", "a" * 200)] == [
        "a b", "größe", "送金", "it's \"so\"", "{}", "🎁", "a" * 200,
    ]  # fmt: skip
