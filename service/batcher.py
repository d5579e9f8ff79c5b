"""Greedy batches: a free lane takes what waits, at once. Nothing ever waits for a batch to fill up.

Each lane is a thread that calls the model. A batch is at most its share of the texts in flight, so that one lane never
swallows the queue while the others idle; it is built around the text that has waited longest, from texts of like
length, within a budget of tokens with their padding.
"""

import asyncio
import contextlib
import heapq
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from core.errors import NotReady, Overloaded
from core.events import Inputs
from core.runtime import Array, Encoded, Servable
from core.tasks.base import Output
from service.metrics import BATCH_SECONDS, BATCH_SIZE
from service.problems import DeadlineExceeded

_CHARS_PER_TOKEN: Final = 4  # of English; only the choice of neighbours hangs on it, never the budget


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one version answered to one text."""

    version: str
    output: Output
    confidence: float
    truncated: bool
    #: shape (labels,), in the order of the version's manifest
    logits: Array


@dataclass(slots=True, eq=False)
class _Waiting:
    inputs: Inputs
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Answer]
    length: int = field(init=False)

    def __post_init__(self) -> None:
        self.length = sum(len(str(value)) for value in self.inputs.values())


_Outcome = tuple[_Waiting, Answer | Exception]


class Batcher:
    """The queue before the model and the lanes behind it."""

    def __init__(self, live: Callable[[], Servable | None], *, lanes: int, queue_limit: int, batch_tokens: int) -> None:
        """Prepare the lanes.

        Args:
            live: the servable of this moment; asked once for each batch, so that a batch has one version.
            lanes: threads; 0: one a core.
            queue_limit: texts that may wait.
            batch_tokens: tokens, padding included, of one call of the model.
        """
        self._live = live
        self._queue_limit = queue_limit
        self._batch_tokens = batch_tokens
        self._waiting: list[_Waiting] = []
        self._running = 0
        self._closing = False
        self._condition = threading.Condition()
        count = lanes or os.cpu_count() or 1
        self._lanes = [threading.Thread(target=self._work, name=f"lane-{n}", daemon=True) for n in range(count)]

    def start(self) -> None:
        """Begin to answer."""
        for lane in self._lanes:
            lane.start()

    def stop(self, timeout_s: float) -> None:
        """Answer what waits, then end the lanes."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        deadline = time.monotonic() + timeout_s
        for lane in self._lanes:
            if lane.ident is not None:
                lane.join(max(0.0, deadline - time.monotonic()))

    @property
    def is_alive(self) -> bool:
        """True while every lane works."""
        return all(lane.is_alive() for lane in self._lanes)

    @property
    def depth(self) -> int:
        """How many texts wait."""
        return len(self._waiting)

    async def predict(self, inputs: Sequence[Inputs], *, timeout_s: float) -> list[Answer]:
        """Answers in the order given.

        Raises:
            NotReady: no model is live.
            Overloaded: the queue is full.
            DeadlineExceeded: not all were answered within ``timeout_s`` seconds.
        """
        loop = asyncio.get_running_loop()
        texts = [_Waiting(item, loop, loop.create_future()) for item in inputs]
        self._admit(texts)
        try:
            async with asyncio.timeout(timeout_s):
                return [await text.answer for text in texts]
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s; try again") from None
        finally:
            for text in texts:  # whoever is not waited for any more is skipped by the lanes
                if not text.answer.cancel() and not text.answer.cancelled():
                    text.answer.exception()  # seen: asyncio complains of errors that nobody looked at

    def _admit(self, texts: list[_Waiting]) -> None:
        if self._live() is None:
            raise NotReady
        with self._condition:
            # An idle service takes a request of any size: with a queue shorter than it, it would never be answered.
            if self._waiting and len(self._waiting) + len(texts) > self._queue_limit:
                raise Overloaded(f"{len(self._waiting)} texts wait already; try again after a moment")
            self._waiting += texts
            self._condition.notify(min(len(texts), len(self._lanes)))

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            outcomes: list[_Outcome] = []
            try:
                outcomes = self._answer_all(batch)
            finally:
                with self._condition:
                    self._running -= len(batch)
                _deliver(outcomes)

    def _take(self) -> list[_Waiting] | None:
        with self._condition:
            while True:
                while not self._waiting and not self._closing:
                    self._condition.wait()
                self._waiting = [text for text in self._waiting if not text.answer.done()]
                if self._waiting:
                    batch = self._choose()
                    self._running += len(batch)
                    return batch
                if self._closing:
                    return None

    def _choose(self) -> list[_Waiting]:
        share = math.ceil((len(self._waiting) + self._running) / len(self._lanes))
        if share >= len(self._waiting):
            batch, self._waiting = self._waiting, []
            return batch
        oldest = self._waiting[0].length
        batch = heapq.nsmallest(share, self._waiting, key=lambda text: abs(text.length - oldest))
        budget = self._batch_tokens * _CHARS_PER_TOKEN
        while len(batch) > 1 and max(text.length for text in batch) * len(batch) > budget:
            batch.pop()  # the one least like the oldest, which itself is first
        taken = {id(text) for text in batch}
        self._waiting = [text for text in self._waiting if id(text) not in taken]
        return batch

    def _answer_all(self, batch: list[_Waiting]) -> list[_Outcome]:
        servable = self._live()
        if servable is None:
            return [(text, NotReady()) for text in batch]
        try:
            return self._answer(servable, batch)
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
        # One text must not take its neighbours down with it.
        return [outcome for text in batch for outcome in self._answer_all([text])]

    def _answer(self, servable: Servable, batch: list[_Waiting]) -> list[_Outcome]:
        encoded = servable.tokenize([text.inputs for text in batch])
        outcomes: list[_Outcome] = []
        for rows in within_budget([len(item.ids) for item in encoded], self._batch_tokens):
            answers = _run(servable, [encoded[row] for row in rows])
            outcomes += zip([batch[row] for row in rows], answers, strict=True)
        return outcomes


def within_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices grouped by length, shortest first: rows x longest stays within the budget, or a group is one row."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not groups or lengths[row] * (len(groups[-1]) + 1) > budget:
            groups.append([])
        groups[-1].append(row)
    return groups


def _run(servable: Servable, encoded: list[Encoded]) -> list[Answer | Exception]:
    started = time.perf_counter()
    logits, _ = servable.run(encoded)
    BATCH_SECONDS.observe(time.perf_counter() - started)
    BATCH_SIZE.observe(len(encoded))
    if not np.isfinite(logits).all():
        raise ArithmeticError(f"{servable.version} gave values that are not finite")
    task, version = servable.task, servable.version
    return [
        Answer(
            version=version, output=output, confidence=task.confidence_of(output), truncated=item.truncated, logits=row
        )
        for item, output, row in zip(encoded, task.decode(logits, servable.manifest.labels), logits, strict=True)
    ]


def _deliver(outcomes: list[_Outcome]) -> None:
    """Hand the answers to the event loops that wait for them: one call for each loop, not for each answer."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, mine in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, mine)


def _resolve(outcomes: list[_Outcome]) -> None:
    for text, answer in outcomes:
        if text.answer.done():
            continue
        if isinstance(answer, Exception):
            text.answer.set_exception(answer)
        else:
            text.answer.set_result(answer)
