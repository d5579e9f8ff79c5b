"""Batches: by whom, how large, within which budget; and what happens when there are too many or they take too long."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundle import ModelBundle
from core.errors import NotReady, Overloaded
from core.runtime import Encoded, Servable
from service.batcher import Batcher, within_budget
from service.problems import DeadlineExceeded
from tests.service.serving import LABELS, champion, serving, settings_for
from tests.support import wait_until
from tests.support_bundles import WORDS, make_bundle


class Watched(Servable):
    """A real servable whose calls can be held up, and are remembered."""

    gate: threading.Event
    batches: list[list[Encoded]]

    @classmethod
    def of(cls, bundle: ModelBundle) -> "Watched":
        """Load it, with the gate open."""
        watched = cls.__new__(cls)
        watched.gate, watched.batches = threading.Event(), []
        watched.gate.set()
        watched.__dict__.update(Servable.load(bundle).__dict__)
        return watched

    def run(self, batch: Any) -> Any:
        """As the real one, once the gate is open."""
        self.batches.append(list(batch))
        assert self.gate.wait(30)
        return super().run(batch)


@pytest.fixture
def model(tmp_path: Path) -> Watched:
    """A toy version."""
    return Watched.of(make_bundle(tmp_path / "bundle", LABELS, version="v-0001"))


@pytest.fixture
def batcher(model: Watched) -> Iterator[Batcher]:
    """Two lanes on it."""
    made = Batcher(lambda: model, lanes=2, queue_limit=8, batch_tokens=64)
    made.start()
    yield made
    model.gate.set()
    made.stop(5)


def texts(*items: str) -> list[dict[str, str]]:
    return [{"text": item} for item in items]


def test_answers_are_those_of_the_model_in_the_order_asked(batcher: Batcher, model: Watched) -> None:
    asked = texts(*WORDS, " ".join(WORDS), "hello " * 300, "nothing it knows")
    answers = asyncio.run(batcher.predict(asked, timeout_s=10))
    expected = model.predict(asked)
    assert [answer.output["label"] for answer in answers] == [output["label"] for output in expected]
    assert [answer.truncated for answer in answers] == [False] * (len(WORDS) + 1) + [True, False]
    assert {answer.version for answer in answers} == {"v-0001"}
    assert len({answer.output["label"] for answer in answers}) > 1


def test_no_call_of_the_model_exceeds_the_budget_unless_it_is_one_text(batcher: Batcher, model: Watched) -> None:
    asked = texts(*(" ".join(WORDS[: 1 + n % 50]) for n in range(120)))
    asyncio.run(batcher.predict(asked, timeout_s=10))
    for batch in model.batches:
        assert len(batch) == 1 or len(batch) * max(len(item.ids) for item in batch) <= 64


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 300))
def test_groups_hold_each_row_once_and_keep_the_budget(lengths: list[int], budget: int) -> None:
    groups = within_budget(lengths, budget)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= budget


def test_what_waits_is_shared_between_the_lanes(batcher: Batcher, model: Watched) -> None:
    async def ask() -> None:
        model.gate.clear()
        first = [asyncio.create_task(batcher.predict(texts("hello"), timeout_s=10)) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: len(model.batches) == 2)  # both lanes are busy
        rest = [asyncio.create_task(batcher.predict(texts("where is"), timeout_s=10)) for _ in range(8)]
        await asyncio.to_thread(wait_until, lambda: batcher.depth == 8)
        model.gate.set()
        await asyncio.gather(*first, *rest)

    asyncio.run(ask())
    assert max(len(batch) for batch in model.batches) <= 5  # half of the ten in flight
    assert len(model.batches) <= 6


def test_a_full_queue_refuses_and_recovers(batcher: Batcher, model: Watched) -> None:
    async def ask() -> None:
        model.gate.clear()
        running = [asyncio.create_task(batcher.predict(texts("hello"), timeout_s=10)) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: len(model.batches) == 2)
        running += [asyncio.create_task(batcher.predict(texts("hello"), timeout_s=10)) for _ in range(8)]
        await asyncio.to_thread(wait_until, lambda: batcher.depth == 8)
        with pytest.raises(Overloaded):
            await batcher.predict(texts("hello"), timeout_s=10)
        model.gate.set()
        await asyncio.gather(*running)
        await batcher.predict(texts(*["hello"] * 20), timeout_s=10)  # an idle one takes more than its queue holds

    asyncio.run(ask())


def test_a_late_answer_is_an_error_and_its_text_is_never_run(batcher: Batcher, model: Watched) -> None:
    async def ask() -> None:
        model.gate.clear()
        running = [asyncio.create_task(batcher.predict(texts("hello"), timeout_s=10)) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: len(model.batches) == 2)
        with pytest.raises(DeadlineExceeded):
            await batcher.predict(texts("word1 word2 word3"), timeout_s=0.05)
        model.gate.set()
        await asyncio.gather(*running)
        await batcher.predict(texts("hello"), timeout_s=10)

    asyncio.run(ask())
    assert all(len(item.ids) == 1 for batch in model.batches for item in batch)


def test_one_bad_text_does_not_take_its_neighbours_down(batcher: Batcher, model: Watched) -> None:
    async def ask() -> list[Any]:
        model.gate.clear()
        first = [asyncio.create_task(batcher.predict(texts("hello"), timeout_s=10)) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: len(model.batches) == 2)
        good = [asyncio.create_task(batcher.predict(texts("hello"), timeout_s=10)) for _ in range(3)]
        bad = asyncio.create_task(batcher.predict([{"no": "text"}], timeout_s=10))
        await asyncio.to_thread(wait_until, lambda: batcher.depth == 4)
        model.gate.set()
        await asyncio.gather(*first)
        return await asyncio.gather(*good, bad, return_exceptions=True)

    *good, bad = asyncio.run(ask())
    assert isinstance(bad, KeyError)
    assert all(isinstance(answer, list) for answer in good)
    assert batcher.is_alive


def test_without_a_model_nothing_is_queued() -> None:
    batcher = Batcher(lambda: None, lanes=1, queue_limit=8, batch_tokens=64)
    with pytest.raises(NotReady):
        asyncio.run(batcher.predict(texts("hello"), timeout_s=1))


def test_429_and_503_over_http(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home, queue_limit=1, lanes=1, request_timeout_s=1.0)) as served:
        model = Watched.of(make_bundle(home / "slow", LABELS, version="v-0001"))
        served.program.batcher._live = lambda: model
        model.gate.clear()
        with ThreadPoolExecutor(6) as pool:
            responses = list(pool.map(lambda _: served.client.post("/v1/predict", json={"text": "x"}), range(6)))
        model.gate.set()
        codes = {(response.status_code, response.json()["error"]["code"]) for response in responses}
        assert codes == {(429, "overloaded"), (503, "timeout")}
        assert all(response.headers["retry-after"] == "1" for response in responses)
        wait_until(lambda: served.client.post("/v1/predict", json={"text": "x"}).status_code == 200)
