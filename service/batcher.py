"""Greedy batches: a free lane takes what waits, at once. Nothing ever waits for a batch to fill up.

Each lane is a thread that calls the model. A batch is counted in tokens with their padding. It is built around the text
that is due first, from texts of like length, and is at most its share of what is in flight, so that one lane never
swallows the queue while the others idle. Equal texts in flight are answered once. A request is answered by the version that
was live when it came, and by no other: after a swap, what waits for the old version is still answered by it.

What is due first: every text is stamped with the work done so far, and the further texts of one request with a multiple of
the work before them, as if they came in slowly; so a small request never waits for the end of a big one, and a big one
is never starved (VirtualClock: Zhang, SIGCOMM 1990).
"""

import asyncio
import contextlib
import heapq
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from core.errors import NotReady, Overloaded
from core.events import Inputs
from core.runtime import Array, Encoded, Servable
from core.tasks.base import Output
from service.metrics import BATCH_SECONDS, BATCH_SIZE, COALESCED
from service.problems import ClientGone, DeadlineExceeded

_CHARS_PER_TOKEN: Final = 4  # of English; for work that nobody has counted yet, never for the budget
_BIG_SHARE: Final = 4
"""A request of many texts gets a quarter of the lanes while others wait, and all of them otherwise."""
_PADDING: Final = 32
"""Tokens of padding in a batch beyond which another call of the model is the cheaper way."""
_WINDOW: Final = 256  # texts that a batch is chosen from
_TOKENIZED: Final = 64  # texts that a lane tokenizes before it calls the model
_SMOOTHING: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one version answered to one text."""

    version: str
    output: Output
    confidence: float
    truncated: bool
    #: shape (labels,), in the order of the version's manifest
    logits: Array


_Result = Answer | Exception


class _Request:
    """One call of :meth:`Batcher.predict`: its answers so far, and the future that they complete."""

    __slots__ = ("_gone", "answers", "done", "left", "loop")

    def __init__(self, size: int, gone: Callable[[], bool] | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.answers: list[Answer | None] = [None] * size
        self.left = size
        self._gone = gone

    @property
    def is_over(self) -> bool:
        """True once nobody waits for it: answered, failed, too late, or its client has gone."""
        return self.done.done() or (self._gone is not None and self._gone())

    def give_up(self, timeout_s: float) -> None:
        """Its time is over."""
        if not self.done.done():
            self.done.set_exception(DeadlineExceeded(f"no answer within {timeout_s:g} s; try again"))

    def take(self, index: int, result: _Result) -> None:
        """Keep an answer; only in the thread of the loop."""
        if self.done.done():
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
            return
        self.answers[index] = result
        self.left -= 1
        if not self.left:
            self.done.set_result(None)


class _Text:
    """One text to answer, for everybody who waits for it."""

    __slots__ = ("encoded", "inputs", "is_running", "key", "order", "servable", "waiters", "work")

    def __init__(self, servable: Servable, inputs: Inputs, key: object, order: tuple[float, int], work: int) -> None:
        self.servable = servable
        self.inputs = inputs
        self.key = key
        self.order = order  # when it is due, then in which order it came
        self.work = work
        self.waiters: list[tuple[_Request, int]] = []
        self.encoded = _NOT_ENCODED
        self.is_running = False

    def __lt__(self, other: "_Text") -> bool:
        return self.order < other.order

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.encoded.ids)

    @property
    def is_wanted(self) -> bool:
        """True while somebody waits for it."""
        return not all(request.is_over for request, _ in self.waiters)


_NOT_ENCODED: Final = Encoded(np.empty(0, dtype=np.int64), False)


class Batcher:
    """The queue before the model and the lanes behind it."""

    def __init__(
        self,
        live: Callable[[], Servable | None],
        *,
        lanes: int,
        queue_limit: int,
        batch_tokens: int,
        queue_wait_s: float = math.inf,
    ) -> None:
        """Prepare the lanes.

        Args:
            live: the servable of this moment; asked once for each request.
            lanes: threads.
            queue_limit: texts that may wait.
            batch_tokens: tokens, padding included, of one call of the model.
            queue_wait_s: seconds that a text may have to wait for those before it.
        """
        self._live = live
        self._queue_limit = queue_limit
        self._queue_wait_s = queue_wait_s
        self._batch_tokens = batch_tokens
        self._fresh: list[_Text] = []  # heaps, what is due first on top: not tokenized yet,
        self._ready: list[_Text] = []  # and ready to be run
        self._in_flight: dict[object, _Text] = {}
        self._waiting = self._waiting_work = self._running = self._count = 0
        self._clock = 0.0  # work begun so far
        self._rate = 0.0  # work a second that one lane gets done; 0: not known yet
        self._closing = False
        self._condition = threading.Condition()
        self._lanes = [threading.Thread(target=self._work, name=f"lane-{n}", daemon=True) for n in range(lanes)]

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
        return self._waiting

    async def predict(
        self, inputs: Sequence[Inputs], *, timeout_s: float, gone: Callable[[], bool] | None = None
    ) -> list[Answer]:
        """Answers in the order given.

        Args:
            inputs: what to answer.
            timeout_s: seconds that it may take.
            gone: tells, at any time and from any thread, that nobody waits any more; then no lane begins with it.

        Raises:
            ClientGone: ``gone`` said so when it was the request's turn.
            NotReady: no model is live.
            Overloaded: the queue is full, or what waits would take longer than ``queue_wait_s`` or ``timeout_s``.
            DeadlineExceeded: not all were answered within ``timeout_s`` seconds.
        """
        request = _Request(len(inputs), gone)
        self._admit(request, inputs, timeout_s)
        # Not asyncio.timeout: with its task and its contexts it costs several times as much.
        alarm = request.loop.call_later(timeout_s, request.give_up, timeout_s)
        try:
            await request.done
        finally:
            alarm.cancel()
        return [answer for answer in request.answers if answer is not None]

    def _admit(self, request: _Request, inputs: Sequence[Inputs], timeout_s: float) -> None:
        servable = self._live()
        if servable is None:
            raise NotReady
        with self._condition:
            # An idle service takes a request of any size: with a queue shorter than it, it would never be answered.
            if self._waiting:
                self._refuse_too_much(servable, inputs, timeout_s)
            due = self._clock
            for index, item in enumerate(inputs):
                due += self._add(servable, item, due, (request, index)) * _BIG_SHARE
            self._condition.notify(min(len(inputs), len(self._lanes)))

    def _refuse_too_much(self, servable: Servable, inputs: Sequence[Inputs], timeout_s: float) -> None:
        pace = self._rate * len(self._lanes)
        wait_s = self._waiting_work / pace if pace else 0.0
        longest_s = min(timeout_s, self._queue_wait_s)
        if wait_s > longest_s:  # most of it may be due after this request
            last = self._clock + _BIG_SHARE * sum(_work_of(servable, item) for item in inputs[:-1])
            wait_s = sum(text.work for text in (*self._fresh, *self._ready) if text.order[0] <= last) / pace
        if self._waiting + len(inputs) <= self._queue_limit and wait_s <= longest_s:
            return
        raise Overloaded(f"{self._waiting} texts wait already; try again after a moment", retry_after_s=wait_s)

    def _add(self, servable: Servable, inputs: Inputs, due: float, waiter: tuple[_Request, int]) -> int:
        """Queue a text, or join it where it is in flight; returns the work that it adds."""
        key = _key_of(servable, inputs)
        text = self._in_flight.get(key) if key is not None else None
        # The last text of a big request may be due long after this one: then this one goes by itself.
        if text is not None and (text.is_running or text.order[0] <= due):
            COALESCED.inc()
            text.waiters.append(waiter)
            return 0
        work = _work_of(servable, inputs)
        self._count += 1
        text = _Text(servable, inputs, key, (due, self._count), work)
        text.waiters.append(waiter)
        if key is not None:
            self._in_flight[key] = text
        heapq.heappush(self._fresh, text)
        self._waiting += 1
        self._waiting_work += work
        return work

    def _work(self) -> None:
        while self._await_work():
            self._tokenize_some()
            batch = self._take()
            if not batch:
                continue
            started = time.perf_counter()
            results: list[_Result] = [NotReady()] * len(batch)
            try:
                results = self._answer_all(batch)
            finally:
                self._settle(batch, results, time.perf_counter() - started)

    def _await_work(self) -> bool:
        with self._condition:
            while not self._waiting or not (self._fresh or self._ready):
                if self._closing and not self._waiting:
                    return False
                self._condition.wait()
            return True

    def _tokenize_some(self) -> None:
        """Tokenize what is due first of what is new, all at once and outside the lock."""
        with self._condition:
            texts = [heapq.heappop(self._fresh) for _ in range(min(len(self._fresh), _TOKENIZED))]
            texts = self._drop_unwanted(texts)
        if not texts:
            return
        failed: list[tuple[_Text, Exception]] = []
        for servable in {text.servable for text in texts}:
            failed += _tokenize(servable, [text for text in texts if text.servable is servable])
        unfit = {id(text) for text, _ in failed}
        with self._condition:
            for text in texts:
                if id(text) not in unfit:
                    heapq.heappush(self._ready, text)
            for text, _ in failed:
                self._leave(text)
        _deliver((text, error) for text, error in failed)

    def _take(self) -> list[_Text]:
        """The next batch; empty where other lanes were faster."""
        with self._condition:
            window: list[_Text] = []
            while self._ready and len(window) < _WINDOW:
                window += self._drop_unwanted([heapq.heappop(self._ready)])
            share = math.ceil((self._waiting + self._running) / len(self._lanes))
            fitting = [text for text in window if text.servable is window[0].servable]
            others = [text for text in window if text.servable is not window[0].servable]
            batch, rest = choose(fitting, share=share, budget=self._batch_tokens)
            for text in rest + others:
                heapq.heappush(self._ready, text)
            for text in batch:
                text.is_running = True
                self._waiting -= 1
                self._waiting_work -= text.work
                self._clock += text.work
            self._running += len(batch)
            if self._closing:
                self._condition.notify_all()
            elif self._ready or self._fresh:
                self._condition.notify()
            return batch

    def _drop_unwanted(self, texts: list[_Text]) -> list[_Text]:
        """Those that somebody waits for; the others leave the queue without costing a call of the model."""
        wanted: list[_Text] = []
        for text in texts:
            if text.is_wanted:
                wanted.append(text)
            else:
                self._leave(text)
                _deliver([(text, ClientGone())])
        return wanted

    def _leave(self, text: _Text) -> None:
        self._waiting -= 1
        self._waiting_work -= text.work
        self._forget(text)

    def _forget(self, text: _Text) -> None:
        """From now on an equal text is a new one."""
        if text.key is not None and self._in_flight.get(text.key) is text:
            del self._in_flight[text.key]

    def _settle(self, batch: list[_Text], results: list[_Result], seconds: float) -> None:
        rate = sum(text.work for text in batch) / max(seconds, 1e-6)
        with self._condition:
            self._running -= len(batch)
            self._rate += (rate - self._rate) * (_SMOOTHING if self._rate else 1.0)
            for text in batch:
                self._forget(text)
        _deliver(zip(batch, results, strict=True))

    def _answer_all(self, batch: list[_Text]) -> list[_Result]:
        try:
            return _run(batch[0].servable, [text.encoded for text in batch])
        except Exception as error:
            if len(batch) == 1:
                return [error]
        # One text must not take its neighbours down with it.
        return [result for text in batch for result in self._answer_all([text])]


def choose(texts: list[_Text], *, share: int, budget: int) -> tuple[list[_Text], list[_Text]]:
    """A batch around the text that is due first, and the rest.

    Args:
        texts: in the order in which they are due.
        share: texts of the batch, at most.
        budget: rows x longest row of the batch, at most, in tokens; a single text may be longer.
    """
    if len(texts) <= 1:
        return texts, []
    by_length = sorted(texts, key=_length)
    low = high = by_length.index(texts[0])
    width = filled = texts[0].length
    for rows in range(2, share + 1):
        # Grow to the side where the neighbour costs less padding: its own, or that of all others.
        shorter = by_length[low - 1].length if low else -math.inf
        longer = by_length[high + 1].length if high + 1 < len(by_length) else math.inf
        goes_down = width - shorter <= (rows - 1) * (longer - width)
        added = shorter if goes_down else longer
        width_then = max(width, added)
        if rows * width_then > budget or rows * width_then - filled - added > _PADDING:
            break
        low, high = (low - 1, high) if goes_down else (low, high + 1)
        width, filled = int(width_then), filled + int(added)
    return by_length[low : high + 1], by_length[:low] + by_length[high + 1 :]


def _length(text: _Text) -> int:
    return text.length


def _work_of(servable: Servable, inputs: Inputs) -> int:
    """About how many tokens; a longer text is cut."""
    chars = sum(len(value) for value in inputs.values() if isinstance(value, str))
    return min(1 + chars // _CHARS_PER_TOKEN, servable.manifest.max_tokens)


def _key_of(servable: Servable, inputs: Inputs) -> object:
    """Equal for equal inputs of one version; None where they cannot be compared cheaply."""
    values = tuple(inputs.values())
    return (servable, values) if all(isinstance(value, str) for value in values) else None


def _tokenize(servable: Servable, texts: list[_Text]) -> list[tuple[_Text, Exception]]:
    """All at once or, where one is to blame, one by one; returns those that cannot be tokenized."""
    try:
        for text, encoded in zip(texts, servable.tokenize([text.inputs for text in texts]), strict=True):
            text.encoded = encoded
    except Exception as error:
        if len(texts) == 1:
            return [(texts[0], error)]
        return [failed for text in texts for failed in _tokenize(servable, [text])]
    return []


def _run(servable: Servable, encoded: list[Encoded]) -> list[_Result]:
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


def _deliver(outcomes: Iterable[tuple[_Text, _Result]]) -> None:
    """Hand the answers to the event loops that wait for them: one call for each loop, not for each answer."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Request, int, _Result]]] = {}
    for text, result in outcomes:
        for request, index in text.waiters:
            by_loop.setdefault(request.loop, []).append((request, index, result))
    for loop, mine in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, mine)


def _resolve(results: list[tuple[_Request, int, _Result]]) -> None:
    for request, index, result in results:
        request.take(index, result)
