"""Records to fill an example store with."""

from datetime import datetime, timedelta, timezone
from typing import Any

from core.events import Example, Feedback, Origin, Outcome, OutcomeStatus, Prediction, Split
from core.examples import ExampleStore

INDIA = timezone(timedelta(hours=5, minutes=30))
AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=INDIA)


def an_example(number: int | str, **fields: Any) -> Example:
    usual: dict[str, Any] = {
        "example_id": f"e{number}",
        "seq": 0,
        "task": "text_classification",
        "inputs": {"text": f"text {number} \u0000 送"},
        "target": "a",
        "origin": Origin.CORRECTION,
        "split": Split.TRAIN,
    }
    return Example(**{**usual, **fields})


def put(store: ExampleStore, *examples: Example, at: datetime = AT) -> None:
    with store.transaction() as transaction:
        for example in examples:
            transaction.put_example(example, target_at=at, target_by="f")


def a_prediction(number: int, **fields: Any) -> Prediction:
    usual: dict[str, Any] = {
        "prediction_id": f"p{number}",
        "model_version": "v",
        "task": "t",
        "inputs": {"text": "x"},
        "output": {},
        "confidence": 0.5,
    }
    return Prediction(**{**usual, **fields})


def a_feedback(number: int, **fields: Any) -> Feedback:
    return Feedback(**{"feedback_id": f"f{number}", "prediction_id": f"p{number}", "target": "a", **fields})


def an_outcome(number: int, **fields: Any) -> Outcome:
    usual = {"model": "default", "feedback_id": f"f{number}", "status": OutcomeStatus.ACCEPTED, "reason": "why"}
    return Outcome(**{**usual, **fields})
