"""What a report counts in the example store, on SQLite and on a real PostgreSQL."""

from collections.abc import Callable
from datetime import timedelta

from core.events import Origin, OutcomeStatus, Split
from core.examples import ExampleStore
from core.examples.content import HeldCounts, NearCounts
from core.examples.transaction import QuarantinedClaim
from tests.contracts.store_support import AT, a_prediction, an_example, an_outcome, put

REASON = "3 near copies with its target are trained on"


def _fill(store: ExampleStore) -> None:
    put(
        store,
        an_example(1, origin=Origin.SEED),
        an_example(2, origin=Origin.SEED, split=Split.HOLDOUT),
        an_example(3, target="b", trust=0.8),
        an_example(4, target="b", trust=0.6, split=Split.BARRED, split_reason=REASON),
        an_example(5, target="b", trust=0.0, origin=Origin.PSEUDO_LABEL),
    )
    with store.transaction() as transaction:
        transaction.near.add_pairs([("e1", "e3"), ("e3", "e4")])
        transaction.add_outcome(
            *(an_outcome(number, status=OutcomeStatus.QUARANTINED, reason="waits") for number in (1, 2)),
            an_outcome(3, status=OutcomeStatus.QUARANTINED, reason="a new label"),
            an_outcome(4, status=OutcomeStatus.DUPLICATE),
        )
        transaction.add_claims(
            *(
                QuarantinedClaim(feedback_id=f"f{number}", example_id=f"e{number}", target="b", annotator="me", at=AT)
                for number in (1, 3, 99)
            )
        )
        transaction.add_predictions([a_prediction(day, at=AT + timedelta(days=day)) for day in (2, 1, 3)])


def test_the_database_counts_what_is_there(store: ExampleStore) -> None:
    _fill(store)
    with store.content() as content:
        assert content.labels() == {
            "a": {Split.TRAIN: 1, Split.HOLDOUT: 1},
            "b": {Split.TRAIN: 2, Split.BARRED: 1},
        }
        assert (content.labels_of(seed=True), content.labels_of(seed=False)) == ({"a": 2}, {"b": 2})
        assert content.origins() == {Origin.SEED: 2, Origin.CORRECTION: 2, Origin.PSEUDO_LABEL: 1}
        assert content.trust() == {"trusted": 2, "earned": 2, "none": 1}
        assert content.barred(limit=5) == {REASON: 1}
        assert content.near() == NearCounts(pairs=2, texts=3)
        assert content.outcomes() == {OutcomeStatus.QUARANTINED: 3, OutcomeStatus.DUPLICATE: 1}
        assert content.reasons(OutcomeStatus.QUARANTINED, limit=1) == {"waits": 2}
        assert content.held() == HeldCounts(claims=3, confirmed=1)


def test_samples_are_bounded_and_leave_out_what_no_person_said(store: ExampleStore) -> None:
    _fill(store)
    with store.content() as content:
        assert [example.example_id for example in content.sample(limit=3)] == ["e1", "e2", "e3"]
        assert [example.example_id for example in content.sample(limit=9, barred=False)] == ["e1", "e2", "e3"]
        assert [example.example_id for example in content.sample(limit=9, seed=True)] == ["e1", "e2"]
        assert [example.example_id for example in content.sample(limit=9, seed=False)] == ["e3", "e4"]
        assert [prediction.prediction_id for prediction in content.recent(limit=2)] == ["p3", "p2"]


def test_models_are_apart(store: ExampleStore, open_store: Callable[..., ExampleStore]) -> None:
    _fill(store)
    with open_store("other").content() as content:
        assert not content.labels()
        assert not content.outcomes()
        assert not content.recent(limit=5)


def test_an_empty_store_has_no_content(store: ExampleStore) -> None:
    with store.content() as content:
        assert not content.labels()
        assert not content.trust()
        assert content.near() == NearCounts(pairs=0, texts=0)
        assert content.held() == HeldCounts(claims=0, confirmed=0)
