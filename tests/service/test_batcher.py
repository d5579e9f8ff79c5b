"""Batches: by whom, how large, within which budget; and what happens when there are too many or they take too long."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from core.bundle import ModelBundle
from core.errors import NotReady, Overloaded
from core.runtime import Encoded, Servable
from service.batcher import Answer, Batcher, choose
from service.problems import ClientGone, DeadlineExceeded
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


class Waiting:
    """A text of so many tokens."""

    def __init__(self, length: int) -> None:
        self.length = length


def texts(*items: str) -> list[dict[str, str]]:
    return [{"text": item} for item in items]


def ask_each(batcher: Batcher, *items: str) -> list["asyncio.Task[list[Answer]]"]:
    """A request for each text."""
    return [asyncio.create_task(batcher.predict(texts(item), timeout_s=10)) for item in items]


async def hold_up(batcher: Batcher, model: Watched) -> list["asyncio.Task[list[Answer]]"]:
    """Let it learn its pace, then hold its only lane up until the gate is opened."""
    for _ in range(20):
        await batcher.predict(texts("hello"), timeout_s=10)
    before = len(model.batches)
    model.gate.clear()
    running = ask_each(batcher, "busy")
    await asyncio.to_thread(wait_until, lambda: len(model.batches) > before)
    return running


async def occupy(batcher: Batcher, model: Watched) -> list["asyncio.Task[list[Answer]]"]:
    """Hold both lanes up, until the gate is opened."""
    model.gate.clear()
    running = []
    for number in (1, 2):  # one by one, or a lane takes both
        running += ask_each(batcher, f"busy{number}")
        await asyncio.to_thread(wait_until, lambda number=number: len(model.batches) == number)
    return running


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


@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.integers(1, 300), st.integers(1, 60))
def test_a_batch_holds_what_is_due_first_and_keeps_share_and_budget(
    lengths: list[int], budget: int, share: int
) -> None:
    queue = [Waiting(length) for length in lengths]
    batch, rest = choose(queue, share=share, budget=budget)  # type: ignore[type-var]
    assert queue[0] in batch
    assert sorted(map(id, [*batch, *rest])) == sorted(map(id, queue))
    assert len(batch) <= share
    assert len(batch) == 1 or len(batch) * max(text.length for text in batch) <= budget


def test_what_waits_is_shared_between_the_lanes(batcher: Batcher, model: Watched) -> None:
    async def ask() -> None:
        first = await occupy(batcher, model)
        rest = ask_each(batcher, *WORDS[:8])
        await asyncio.to_thread(wait_until, lambda: batcher.depth == 8)
        model.gate.set()
        await asyncio.gather(*first, *rest)

    asyncio.run(ask())
    assert max(len(batch) for batch in model.batches) <= 5  # half of the ten in flight
    assert len(model.batches) <= 6


def test_equal_texts_in_flight_are_answered_once_and_for_everybody(batcher: Batcher, model: Watched) -> None:
    async def ask() -> list[list[Answer]]:
        first = await occupy(batcher, model)
        waiting = ask_each(batcher, "hello", "hello", "busy1")  # the last one is being run already
        waiting.append(asyncio.create_task(batcher.predict(texts("hello", "where", "hello"), timeout_s=10)))
        given_up = asyncio.create_task(batcher.predict(texts("where"), timeout_s=0.05))
        assert isinstance((await asyncio.gather(given_up, return_exceptions=True))[0], DeadlineExceeded)
        assert batcher.depth == 2
        model.gate.set()
        return list(await asyncio.gather(*first, *waiting))

    answers = asyncio.run(ask())
    assert [len(answer) for answer in answers] == [1, 1, 1, 1, 1, 3]
    assert sum(len(batch) for batch in model.batches) == 4
    expected = model.predict(texts("hello", "where"))
    assert [answer.output for answer in answers[-1]] == [expected[0], expected[1], expected[0]]
    assert answers[4][0].output == answers[0][0].output


def test_a_request_is_answered_by_one_version_although_another_goes_live_meanwhile(
    model: Watched, tmp_path: Path
) -> None:
    other = Servable.load(make_bundle(tmp_path / "other", LABELS, version="v-0002", seed=1))
    live: list[Servable] = [model]

    async def ask() -> tuple[list[Answer], list[Answer]]:
        batcher = Batcher(lambda: live[0], lanes=2, queue_limit=1000, batch_tokens=16)
        batcher.start()
        model.gate.clear()
        before = asyncio.create_task(batcher.predict(texts(*WORDS), timeout_s=10))
        await asyncio.to_thread(wait_until, lambda: len(model.batches) == 2)
        live[0] = other
        after = asyncio.create_task(batcher.predict(texts(*WORDS), timeout_s=10))
        await asyncio.to_thread(wait_until, lambda: batcher.depth > len(WORDS))
        model.gate.set()
        answers = await before, await after
        batcher.stop(5)
        return answers

    for answers, version in zip(asyncio.run(ask()), (model, other), strict=True):
        assert {answer.version for answer in answers} == {version.version}
        assert [answer.output["label"] for answer in answers] == [
            output["label"] for output in version.predict(texts(*WORDS))
        ]


def test_a_small_request_does_not_wait_for_the_end_of_a_big_one(model: Watched) -> None:
    done: list[str] = []

    async def note(name: str, batcher: Batcher, items: list[dict[str, str]]) -> None:
        await batcher.predict(items, timeout_s=30)
        done.append(name)

    async def ask() -> None:
        batcher = Batcher(lambda: model, lanes=1, queue_limit=1000, batch_tokens=16)
        batcher.start()
        model.gate.clear()
        big = asyncio.create_task(note("big", batcher, texts(*(f"{WORDS[n % 60]} {n}" for n in range(400)))))
        await asyncio.to_thread(wait_until, lambda: model.batches)
        small = [asyncio.create_task(note("small", batcher, texts(f"small {n}"))) for n in range(5)]
        await asyncio.to_thread(wait_until, lambda: batcher.depth > 390)
        model.gate.set()
        await asyncio.gather(*small)
        assert len(model.batches) < 10  # of the fifty that the big one takes
        await big
        batcher.stop(5)

    asyncio.run(ask())
    assert done == ["small"] * 5 + ["big"]


def test_a_small_request_does_not_wait_although_a_big_one_has_the_same_text(model: Watched) -> None:
    async def ask() -> None:
        batcher = Batcher(lambda: model, lanes=1, queue_limit=1000, batch_tokens=16)
        batcher.start()
        model.gate.clear()
        big = asyncio.create_task(batcher.predict(texts(*(f"{WORDS[n % 60]} {n}" for n in range(400))), timeout_s=30))
        await asyncio.to_thread(wait_until, lambda: model.batches)
        small = ask_each(batcher, f"{WORDS[399 % 60]} 399", f"{WORDS[399 % 60]} 399")
        await asyncio.to_thread(wait_until, lambda: batcher.depth > 390)
        model.gate.set()
        await asyncio.gather(*small)
        assert len(model.batches) < 10
        await big
        batcher.stop(5)

    asyncio.run(ask())
    assert sum(len(batch) for batch in model.batches) == 401  # the two small ones shared one


@pytest.mark.alone
def test_a_small_request_is_not_refused_for_work_that_is_due_after_it(model: Watched) -> None:
    long = "word1 " * 5_000

    async def ask() -> None:
        batcher = Batcher(lambda: model, lanes=1, queue_limit=1000, batch_tokens=256)
        batcher.start()
        first = await hold_up(batcher, model)
        big = asyncio.create_task(batcher.predict(texts(*(f"{long} {n}" for n in range(900))), timeout_s=60))
        await asyncio.to_thread(wait_until, lambda: batcher.depth == 900)
        small = asyncio.create_task(batcher.predict(texts("hello"), timeout_s=2))
        await asyncio.sleep(0.05)
        assert not small.done()
        with pytest.raises(Overloaded):
            await batcher.predict(texts("one", "two"), timeout_s=0.001)
        model.gate.set()
        await asyncio.gather(*first, small)
        big.cancel()
        batcher.stop(5)

    asyncio.run(ask())


def test_nobody_waits_longer_than_is_allowed_however_much_time_the_request_has(model: Watched) -> None:
    long = "word1 " * 5_000

    async def ask() -> None:
        batcher = Batcher(lambda: model, lanes=1, queue_limit=1000, batch_tokens=256, queue_wait_s=0.001)
        batcher.start()
        first = await hold_up(batcher, model)
        many = [texts(f"{long} {n}") for n in range(300)]
        waiting = [asyncio.create_task(batcher.predict(item, timeout_s=1000)) for item in many]
        await asyncio.sleep(0.05)
        refused = [task for task in waiting if task.done()]
        assert refused, "the queue has room for all of them"
        for task in refused:
            assert isinstance(task.exception(), Overloaded)
        model.gate.set()
        await asyncio.gather(*first, *(set(waiting) - set(refused)))
        batcher.stop(5)

    asyncio.run(ask())


def test_a_big_request_is_not_starved_by_an_endless_row_of_small_ones(model: Watched) -> None:
    async def ask() -> int:
        batcher = Batcher(lambda: model, lanes=1, queue_limit=1000, batch_tokens=8)
        batcher.start()
        big = asyncio.create_task(batcher.predict(texts(*(f"{WORDS[n % 60]} {n}" for n in range(40))), timeout_s=30))
        asked = 0
        waiting: set[asyncio.Task[list[Answer]]] = set()
        while not big.done():
            while len(waiting) < 16:  # there are always more of them than fit into a batch
                asked += 1
                waiting |= set(ask_each(batcher, f"small {asked}"))
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*waiting)
        batcher.stop(5)
        return asked

    assert asyncio.run(ask()) < 40 * 8  # it has a quarter of the lanes, so about three small ones go before each text


def test_texts_of_like_length_share_a_batch(model: Watched) -> None:
    long = " ".join(WORDS)

    async def ask() -> None:
        batcher = Batcher(lambda: model, lanes=1, queue_limit=1000, batch_tokens=4096)
        batcher.start()
        model.gate.clear()
        first = ask_each(batcher, "busy")
        await asyncio.to_thread(wait_until, lambda: model.batches)
        rest = ask_each(batcher, *(f"{long} {n}" if n % 2 else f"short {n}" for n in range(24)))
        await asyncio.to_thread(wait_until, lambda: batcher.depth == 24)
        model.gate.set()
        await asyncio.gather(*first, *rest)
        batcher.stop(5)

    asyncio.run(ask())
    assert sorted(len(batch) for batch in model.batches) == [1, 12, 12]
    for batch in model.batches:
        assert len({len(item.ids) for item in batch}) == 1


def test_who_has_gone_costs_no_call_of_the_model(batcher: Batcher, model: Watched) -> None:
    async def ask() -> None:
        running = await occupy(batcher, model)
        is_gone = threading.Event()
        left = asyncio.create_task(batcher.predict(texts("card lost"), timeout_s=10, gone=is_gone.is_set))
        cancelled = asyncio.create_task(batcher.predict(texts("where is my"), timeout_s=10))
        await asyncio.to_thread(wait_until, lambda: batcher.depth == 2)
        is_gone.set()
        cancelled.cancel()
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(*running)
        await asyncio.gather(*ask_each(batcher, "hello"))
        assert batcher.depth == 0
        with pytest.raises(ClientGone):
            await left

    asyncio.run(ask())
    assert all(len(item.ids) == 1 for batch in model.batches for item in batch)


def test_what_would_take_longer_than_its_deadline_is_refused_at_once(model: Watched) -> None:
    async def ask() -> None:
        batcher = Batcher(lambda: model, lanes=1, queue_limit=1000, batch_tokens=8)
        batcher.start()
        model.gate.clear()
        first = ask_each(batcher, "busy")
        await asyncio.sleep(0.5)  # so slow is a call of this model
        model.gate.set()
        await asyncio.gather(*first)
        model.gate.clear()
        waiting = ask_each(batcher, "busy again")
        await asyncio.to_thread(wait_until, lambda: len(model.batches) == 2)
        waiting += ask_each(batcher, *(f"word{n}" for n in range(8)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await batcher.predict(texts("hello"), timeout_s=1)
        assert refused.value.retry_after_s > 1
        waiting += ask_each(batcher, "hello")  # who has more time may wait
        model.gate.set()
        await asyncio.gather(*waiting)
        batcher.stop(5)

    asyncio.run(ask())


def test_a_full_queue_refuses_and_recovers(batcher: Batcher, model: Watched) -> None:
    async def ask() -> None:
        running = await occupy(batcher, model)
        running += ask_each(batcher, *WORDS[:8])
        await asyncio.to_thread(wait_until, lambda: batcher.depth == 8)
        with pytest.raises(Overloaded):
            await batcher.predict(texts("hello"), timeout_s=10)
        model.gate.set()
        await asyncio.gather(*running)
        await batcher.predict(texts(*WORDS[:20]), timeout_s=10)  # an idle one takes more than its queue holds

    asyncio.run(ask())


def test_a_late_answer_is_an_error_and_its_text_is_never_run(batcher: Batcher, model: Watched) -> None:
    async def ask() -> None:
        running = await occupy(batcher, model)
        with pytest.raises(DeadlineExceeded):
            await batcher.predict(texts("word1 word2 word3"), timeout_s=0.05)
        model.gate.set()
        await asyncio.gather(*running)
        await batcher.predict(texts("hello"), timeout_s=10)

    asyncio.run(ask())
    assert all(len(item.ids) == 1 for batch in model.batches for item in batch)


def test_one_bad_text_does_not_take_its_neighbours_down(batcher: Batcher, model: Watched) -> None:
    async def ask() -> list[Any]:
        first = await occupy(batcher, model)
        good = ask_each(batcher, "hello", "where", "card")
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
            responses = list(pool.map(lambda n: served.client.post("/v1/predict", json={"text": f"x{n}"}), range(6)))
        model.gate.set()
        codes = {(response.status_code, response.json()["error"]["code"]) for response in responses}
        assert codes == {(429, "overloaded"), (503, "timeout")}
        assert all(response.headers["retry-after"] == "1" for response in responses)
        wait_until(lambda: served.client.post("/v1/predict", json={"text": "x"}).status_code == 200)


def test_a_client_that_went_away_costs_no_call_of_the_model(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home, lanes=1)) as served:
        model = Watched.of(make_bundle(home / "slow", LABELS, version="v-0001"))
        served.program.batcher._live = lambda: model
        model.gate.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(served.client.post, "/v1/predict", json={"text": "hello"})
            wait_until(lambda: model.batches)
            with socket.create_connection(("127.0.0.1", served.port)) as leaving:
                leaving.sendall(
                    b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b'Content-Length: 21\r\n\r\n{"text": "card lost"}'
                )
                wait_until(lambda: served.program.batcher.depth == 1)
            served.client.get("/livez")  # by then the server has seen it go
            model.gate.set()
            assert first.result().status_code == 200
        gone = {"route": "predict", "status": "499"}
        wait_until(lambda: REGISTRY.get_sample_value("ratchet_requests_total", gone))
    assert [len(item.ids) for batch in model.batches for item in batch] == [1]
