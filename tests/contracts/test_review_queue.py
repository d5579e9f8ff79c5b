"""What the review queue in the example store promises, on SQLite and on a real PostgreSQL."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np

from core.examples import ExampleStore
from core.examples.review import Placed, ReviewAnswer, Waiting, lot_of
from core.examples.review_report import estimate_accuracy
from tests.contracts.store_support import AT, a_prediction


def a_waiting(number: int, **fields: Any) -> Waiting:
    usual: dict[str, Any] = {
        "prediction_id": f"p{number}",
        "lot": number / 100,
        "probability": None,
        "doubt": 0.5,
        "at": AT,
    }
    return Waiting(**{**usual, **fields})


def an_answer(number: int, **fields: Any) -> ReviewAnswer:
    usual = {
        "prediction_id": f"p{number}",
        "model_version": "v",
        "probability": 0.5,
        "queued": True,
        "correct": True,
        "at": AT,
    }
    return ReviewAnswer(**{**usual, **fields})


def fill(store: ExampleStore, *rows: Waiting) -> None:
    with store.transaction() as transaction:
        transaction.add_predictions([a_prediction(int(row.prediction_id[1:])) for row in rows])
        transaction.review.add(rows)


def drawn(store: ExampleStore) -> dict[str, float | None]:
    with store.review() as review:
        return {item.prediction.prediction_id: item.probability for item in review.drawn(limit=99)}


def chosen(store: ExampleStore) -> list[str]:
    with store.review() as review:
        return [item.prediction.prediction_id for item in review.chosen(limit=99)]


def test_each_part_has_its_order_and_comes_once(store: ExampleStore) -> None:
    rows = [
        a_waiting(1, doubt=0.2),
        a_waiting(2, doubt=0.9),
        a_waiting(8, probability=0.5),
        a_waiting(4, probability=0.5),
    ]
    fill(store, *rows)
    fill(store, a_waiting(1, doubt=0.99, probability=0.7))
    assert chosen(store) == ["p2", "p1"]
    assert list(drawn(store)) == ["p4", "p8"]
    placed = [
        Placed(prediction_id="p1", place=0, doubt=0.3, score=0.25, reason="why"),
    ]
    with store.transaction() as transaction:
        transaction.review.place(placed)
    with store.review() as review:
        first = review.chosen(limit=1)[0]
    assert (first.prediction.prediction_id, first.score, first.reason, first.probability) == ("p1", 0.25, "why", None)
    with store.transaction() as transaction:
        assert transaction.review.counts() == (2, 2)
        assert transaction.review.members(["p1", "p4", "p9"]) == {"p1": None, "p4": 0.5}


def test_what_is_answered_leaves_but_a_drawn_one_only_when_it_was_asked_for(store: ExampleStore) -> None:
    fill(store, a_waiting(1), a_waiting(2), a_waiting(3, probability=0.5), a_waiting(4, probability=0.5))
    with store.transaction() as transaction:
        transaction.review.answered(["p1", "p3"], asked=False)
    assert (chosen(store), list(drawn(store))) == (["p2"], ["p3", "p4"])
    with store.transaction() as transaction:
        transaction.review.answered(["p2", "p3", "unknown"], asked=True)
    assert (chosen(store), list(drawn(store))) == ([], ["p4"])
    fill(store, a_waiting(2), a_waiting(3, probability=0.5))
    assert (chosen(store), list(drawn(store))) == ([], ["p4"])


def test_a_lower_rate_keeps_the_lower_lots_and_says_so(store: ExampleStore) -> None:
    fill(
        store,
        a_waiting(10, probability=0.5),
        a_waiting(20, probability=0.5),
        a_waiting(40, probability=0.5),
        a_waiting(45),
    )
    with store.transaction() as transaction:
        assert transaction.review.rate() == 1.0
        assert transaction.review.set_rate(0.25) == 0.25
        assert transaction.review.rate() == 0.25
    assert drawn(store) == {"p10": 0.25, "p20": 0.25}
    assert chosen(store) == ["p45"]
    with store.transaction() as transaction:
        transaction.review.set_rate(0.5)
    assert drawn(store) == {"p10": 0.25, "p20": 0.25}


def test_the_pool_stays_within_its_size_and_time(store: ExampleStore) -> None:
    late = AT + timedelta(days=2)
    fill(store, a_waiting(1, at=AT), a_waiting(2, probability=0.5, at=AT), a_waiting(3, probability=0.5, at=late))
    fill(store, *(a_waiting(number, doubt=number / 100, at=late) for number in range(10, 20)))
    with store.transaction() as transaction:
        transaction.review.trim(chosen=3, before=AT + timedelta(days=1))
    assert (chosen(store), list(drawn(store))) == (["p19", "p18", "p17"], ["p3"])


def test_embeddings_are_kept_with_their_graph_and_are_none_of_another(store: ExampleStore) -> None:
    fill(store, a_waiting(1), a_waiting(2), a_waiting(3, probability=0.5))
    vector = np.array([0.5, -0.25, 0.125], dtype=np.float32)
    with store.transaction() as transaction:
        transaction.review.set_embeddings("g1", {"p1": vector})
    with store.review() as review:
        own, other = review.pool(graph="g1"), review.pool(graph="g2")
    assert [row.prediction_id for row in own] == ["p1", "p2"]
    assert own[0].embedding is not None
    np.testing.assert_array_equal(own[0].embedding, vector)
    assert [own[1].embedding, other[0].embedding] == [None, None]


def test_answers_count_once_and_only_lots_estimate_accuracy(store: ExampleStore) -> None:
    answers = [
        an_answer(1),
        an_answer(2, correct=False, probability=0.25, model_version="w"),
        an_answer(3, probability=None),
    ]
    with store.transaction() as transaction:
        transaction.review.add_answers(answers)
        transaction.review.add_answers([an_answer(1, correct=False), an_answer(4, queued=False)])
        transaction.review.add_answers([an_answer(5, correct=False, at=AT - timedelta(days=60))])
    with store.review() as review:
        counts = review.counts(since=AT - timedelta(days=1))
        found = estimate_accuracy(review, version="w", at=AT + timedelta(days=1))
    assert (counts.answered, counts.answered_drawn) == (3, 2)
    # p1 and p4 weigh 2 each and are right, p2 weighs 4 and is wrong
    assert (found["answers"], found["share"]) == (3, 0.5)
    assert found["low"] < 0.5 < found["high"]
    assert (found["version"]["answers"], found["version"]["share"]) == (1, 0.0)


def test_forgotten_predictions_are_asked_for_no_more(store: ExampleStore) -> None:
    fill(store, a_waiting(1), a_waiting(2, probability=0.5))
    store.forget_predictions(before=AT + timedelta(days=9999))
    assert (chosen(store), drawn(store)) == ([], {})


def test_models_in_one_database_have_queues_of_their_own(open_store: Callable[..., ExampleStore]) -> None:
    mine, other = open_store("mine"), open_store("other")
    mine.migrate()
    fill(mine, a_waiting(1), a_waiting(2, probability=0.5))
    with other.transaction() as transaction:
        transaction.review.set_rate(0.001)
        transaction.review.answered(["p1", "p2"], asked=True)
        transaction.review.trim(chosen=0, before=AT + timedelta(days=9))
        assert transaction.review.members(["p1"]) == {}
    assert (chosen(mine), list(drawn(mine)), chosen(other), drawn(other)) == (["p1"], ["p2"], [], {})


def test_a_lot_is_decided_by_the_id_alone_and_evenly() -> None:
    lots = [lot_of(f"p{number}") for number in range(4_000)]
    assert lots == [lot_of(f"p{number}") for number in range(4_000)]
    assert all(0 <= lot < 1 for lot in lots)
    for share in (0.1, 0.5, 0.9):
        assert abs(np.mean(np.array(lots) < share) - share) < 0.025
