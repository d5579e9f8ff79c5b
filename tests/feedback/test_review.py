"""The review queue as the feedback program fills and orders it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.errors import BadSettings
from core.events import FeedbackKind, Origin, Prediction, Split
from core.examples import ExampleStore
from core.examples.review_report import estimate_accuracy
from core.head import LinearHead
from core.registry import Registry
from core.settings import Settings
from feedback.live import LiveModel
from feedback.review import ReviewQueue
from tests.feedback.harness import Bench, bench, feedback, prediction, publish, settings_for
from tests.support_bundles import WORDS

SHARE = 0.1


class Queue:
    """A review queue on a store and, where one is published, a live model."""

    def __init__(self, settings: Settings, *, model: str = "default") -> None:
        self.store = ExampleStore(settings.example_store_url, model)
        self.store.migrate()
        self.live = LiveModel(Registry(settings.registry_store_url, "default"), settings.home / "cache", device="cpu")
        self.live.refresh()
        self.queue = ReviewQueue(settings, self.live)

    def admit(self, events: list[Prediction]) -> None:
        with self.store.transaction() as transaction:
            transaction.add_predictions(events)
            self.queue.admit(transaction, events)

    def drawn(self) -> dict[str, float]:
        with self.store.review() as review:
            return {item.prediction.prediction_id: item.probability or 0.0 for item in review.drawn(limit=9_999)}

    def chosen(self) -> list[tuple[str, str]]:
        with self.store.review() as review:
            return [(item.prediction.prediction_id, item.reason) for item in review.chosen(limit=9_999)]


@pytest.fixture
def settled(home: Path) -> Iterator[Bench]:
    with bench(home) as found:
        yield found


def test_the_probability_of_the_draw_is_right_whatever_is_drawn_and_however_much_comes(home: Path) -> None:
    """Weighed by its inverse, what was drawn counts all that came, and all of the hard ones, on average over many trials."""
    settings = settings_for(home, review_pool=100, review_random_share=0.2)
    all_of_them, hard, sizes = [], [], []
    for trial in range(60):
        found = Queue(settings, model=f"m{trial}")
        for part in range(0, 300, 50):
            found.admit(
                [
                    prediction(f"{trial}-{number}", confidence=0.1 if number % 3 == 0 else 0.9)
                    for number in range(part, part + 50)
                ]
            )
        drawn = found.drawn()
        found.store.close()
        sizes.append(len(drawn))
        all_of_them.append(sum(1 / probability for probability in drawn.values()))
        hard.append(sum(1 / chance for name, chance in drawn.items() if int(name.split("-")[1]) % 3 == 0))
    assert max(sizes) <= 20
    for counted, right in ((all_of_them, 300), (hard, 100)):
        error = np.std(counted) / np.sqrt(len(counted))
        assert abs(np.mean(counted) - right) < 3 * error
        assert error < 0.1 * right


def test_the_rate_rises_again_when_little_comes(home: Path) -> None:
    found = Queue(settings_for(home, review_pool=100, review_random_share=SHARE))
    with found.store.transaction() as transaction:
        transaction.review.set_rate(0.01)
    for _ in range(9):
        found.queue.sweep(found.store)
    with found.store.transaction() as transaction:
        assert transaction.review.rate() == pytest.approx(SHARE)
    found.store.close()


def test_the_least_certain_enter_the_chosen_part_and_audits_never_do(home: Path) -> None:
    found = Queue(settings_for(home))
    events = [prediction(number, confidence=0.99 if number > 12 else 0.2) for number in range(1, 101)]
    found.admit([*events, prediction("audit", confidence=0.0, audit_probability=0.1)])
    chosen = {name for name, _ in found.chosen()}
    assert len(chosen) == 16
    unsure = {f"p{number}" for number in range(1, 13)} - set(found.drawn())
    assert unsure <= chosen
    assert "paudit" not in chosen
    assert not chosen & set(found.drawn())
    found.store.close()


@pytest.mark.parametrize("has_head", [True, False])
def test_the_strategy_orders_the_pool_by_the_live_model_and_again_by_the_next(home: Path, has_head: bool) -> None:
    rng = np.random.default_rng(5)
    head = LinearHead(rng.normal(size=(3, 8)).astype(np.float32), np.zeros(3, np.float32)) if has_head else None
    publish(home, "v-0002", head=head)
    found = Queue(settings_for(home, review_selection="margin"))
    found.admit([prediction(number, f"{WORDS[number]} {WORDS[number + 20]}") for number in range(15)])
    before = found.chosen()
    assert {reason for _, reason in before} == {""}
    found.queue.sweep(found.store)
    chosen = found.chosen()
    assert {name for name, _ in chosen} == {name for name, _ in before}
    assert all(reason.startswith("margin ") and reason.endswith(" by v-0002") for _, reason in chosen)
    scores = [float(reason.split()[1]) for _, reason in chosen]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 5
    changed = None if head is None else LinearHead(head.weight[:, ::-1].copy(), head.bias)
    publish(home, "v-0003", head=changed, seed=0 if has_head else 1)
    found.live._next = 0.0
    found.live.refresh()
    found.queue.sweep(found.store)
    assert all(reason.endswith(" by v-0003") for _, reason in found.chosen())
    assert found.chosen() != chosen
    found.store.close()


def test_an_answer_that_the_queue_asked_for_on_a_drawn_one_is_an_audit(settled: Bench) -> None:
    settled.settle(prediction(1, "x", "alpha"), prediction(2, "y", "alpha", audit_probability=0.3), prediction(3, "z"))
    with settled.store.transaction() as transaction:
        queue = ReviewQueue(settings_for(Path("unused")), settled.live)
        rows = [queue._waiting(prediction(number)) for number in (1, 3)]
        transaction.review.add([type(rows[0])(**{**vars(rows[0]), "probability": 0.01}), rows[1]])
    settled.settle(
        feedback(1, 1, "beta", asked=True), feedback(2, 2, "alpha", asked=True), feedback(3, 3, "beta", asked=True)
    )
    found = {example.inputs["text"]: example for example in settled.store.examples()}
    assert {text: example.origin for text, example in found.items()} == {
        "x": Origin.AUDIT, "y": Origin.AUDIT, "z": Origin.CORRECTION,
    }  # fmt: skip
    assert (found["x"].split, found["x"].sampling_probability) == (Split.HOLDOUT, 0.01)
    assert found["y"].sampling_probability == 0.3
    with settled.store.review() as review:
        assert (review.drawn(limit=9), review.chosen(limit=9)) == ([], [])
        accuracy = estimate_accuracy(review)
    # x weighs 100 and was wrong, y weighs 3.3 and was right, z was chosen and does not count
    assert (accuracy["answers"], accuracy["share"]) == (2, pytest.approx(0.0323, abs=1e-4))


def test_two_reviewers_who_answer_one_prediction_count_once(settled: Bench) -> None:
    settled.settle(prediction(1, "x", "alpha", audit_probability=0.5))
    first, second = feedback(1, 1, "beta", asked=True), feedback(2, 1, kind=FeedbackKind.CONFIRM, asked=True)
    settled.settle(first)
    settled.settle(second)
    with settled.store.review() as review:
        (answer,) = review.answers(since=first.at.replace(year=2000))
    assert (answer.correct, answer.probability) == (False, 0.5)
    assert len(settled.store.examples()) == 1


def test_a_volunteered_or_untrusted_answer_counts_for_nothing(settled: Bench) -> None:
    events = [prediction(number, f"text {number}", audit_probability=0.5) for number in (1, 2, 3)]
    settled.settle(*events)
    settled.settle(feedback(1, 1, "beta"), feedback(2, 2, "beta", asked=True, trusted=False))
    settled.settle(feedback(3, 3, "beta", asked=True, kind=FeedbackKind.IMPLICIT))
    with settled.store.review() as review:
        assert review.answers(since=events[0].at.replace(year=2000)) == []


def test_an_unknown_strategy_is_told_at_the_start(home: Path) -> None:
    with pytest.raises(BadSettings, match="no selection strategy 'luck'"):
        Queue(settings_for(home, review_selection="luck"))
