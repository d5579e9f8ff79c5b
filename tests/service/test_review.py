"""What ``GET /v1/review`` shows, and in which order."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.events import Prediction, now
from core.examples import ExampleStore
from core.examples.review import ReviewAnswer, Waiting
from core.examples.review_view import ReviewItem
from core.settings import Settings
from service.review import interleave
from tests.service.serving import champion, serving, settings_for


def a_prediction(name: str) -> Prediction:
    return Prediction(
        prediction_id=name, model_version="v-0001", task="text_classification", inputs={"text": name},
        output={"label": "beta"}, confidence=0.5,
    )  # fmt: skip


def fill(settings: Settings, *rows: tuple[str, float | None, float], answers: Sequence[ReviewAnswer] = ()) -> None:
    """Names with the probability of their draw (None: chosen) and their doubt, which for drawn ones is their lot."""
    with closing(ExampleStore(settings.example_store_url, settings.model)) as store:
        store.migrate()
        with store.transaction() as transaction:
            made = {name: a_prediction(name) for name, _, _ in rows}
            transaction.add_predictions(list(made.values()))
            transaction.review.add(
                [
                    Waiting(prediction_id=name, lot=doubt, probability=probability, doubt=doubt, at=made[name].at)
                    for name, probability, doubt in rows
                ]
            )
            transaction.review.add_answers(answers)


def an_answer(name: str, *, correct: bool = True) -> ReviewAnswer:
    return ReviewAnswer(
        prediction_id=name, model_version="v-0001", probability=0.1, queued=True, correct=correct, at=now()
    )


def test_it_shows_both_parts_with_reasons_and_what_is_known_of_accuracy(home: Path) -> None:
    settings = settings_for(home)
    fill(
        settings,
        ("sure", None, 0.1),
        ("unsure", None, 0.7),
        ("drawn", 0.1, 0.05),
        answers=[an_answer("old", correct=False)],
    )
    champion(home, "v-0001")
    with serving(settings) as served:
        shown = served.client.get("/v1/review?limit=3").json()
        assert served.client.get("/v1/review?limit=1").json()["predictions"] == shown["predictions"][:1]
    assert [(item["prediction_id"], item["sampling_probability"]) for item in shown["predictions"]] == [
        ("unsure", None), ("sure", None), ("drawn", 0.1),
    ]  # fmt: skip
    assert shown["predictions"][0]["reason"] == "not yet scored"
    assert shown["predictions"][2]["reason"] == "drawn by lot: accuracy is estimated from such"
    assert shown["predictions"][0]["inputs"] == {"text": "unsure"}
    assert shown["waiting"] == {"drawn": 1, "chosen": 2}
    assert shown["budget"] == {"per_day": None, "answered": 1, "left": None}
    assert (shown["accuracy"]["answers"], shown["accuracy"]["share"], shown["accuracy"]["low"]) == (1, 0.0, 0.0)
    assert shown["accuracy"]["version"]["name"] == "v-0001"


def test_what_was_answered_is_not_asked_again_though_the_store_does_not_know_yet(home: Path) -> None:
    settings = settings_for(home)
    fill(settings, ("one", None, 0.9), ("two", None, 0.8))
    with serving(settings, ready=False) as served:
        answer = {"prediction_id": "one", "kind": "confirm", "asked": True}
        assert served.client.post("/v1/feedback", json=answer).status_code == 202
        shown = served.client.get("/v1/review").json()["predictions"]
    assert [item["prediction_id"] for item in shown] == ["two"]


def test_no_more_is_asked_for_than_the_budget_of_a_day(home: Path) -> None:
    settings = settings_for(home, review_budget=3)
    fill(settings, *((f"p{number}", None, 0.5) for number in range(9)), answers=[an_answer("a"), an_answer("b")])
    with serving(settings, ready=False) as served:
        shown = served.client.get("/v1/review").json()
    assert len(shown["predictions"]) == 1
    assert shown["budget"] == {"per_day": 3, "answered": 2, "left": 1}


def items(prefix: str, count: int, probability: float | None) -> list[ReviewItem]:
    return [
        ReviewItem(prediction=a_prediction(f"{prefix}{number}"), probability=probability, score=0.5, reason="")
        for number in range(count)
    ]


@given(
    share=st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0]),
    steps=st.lists(st.integers(1, 7), min_size=1, max_size=12),
)
def test_a_tenth_is_drawn_however_few_are_asked_for_at_a_time(share: float, steps: list[int]) -> None:
    answered = drawn = 0
    for limit in steps:
        shown = interleave(
            items("d", 99, 0.1), items("c", 99, None), limit=limit, share=share, answered=answered, answered_drawn=drawn
        )
        assert len(shown) == limit
        answered += limit
        drawn += sum(item.probability is not None for item in shown)
        assert share * answered - 1e-6 <= drawn < share * answered + 1 + 1e-6


@pytest.mark.parametrize(("drawn", "chosen"), [(0, 3), (3, 0), (1, 2), (0, 0)])
def test_where_one_part_is_used_up_the_other_goes_on(drawn: int, chosen: int) -> None:
    shown = interleave(
        items("d", drawn, 0.1), items("c", chosen, None), limit=9, share=0.1, answered=0, answered_drawn=0
    )
    names = [item.prediction.prediction_id for item in shown]
    assert sorted(names) == sorted(
        [f"c{number}" for number in range(chosen)] + [f"d{number}" for number in range(drawn)]
    )
