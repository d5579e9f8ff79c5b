"""Bulk scoring: JSON Lines in, JSON Lines out, of any length within little memory.

One answer or one error for each line, in order. Only a window of lines is in flight; nothing more is read meanwhile, and
nothing is answered faster than the client takes it. A stream can wait, so it does: for room in the model's queue and for
the log to take its records, where an interactive request would be refused or its record dropped.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import pydantic_core
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from core.errors import BadRecord, NotReady, Overloaded, Retryable
from core.events import Inputs
from core.settings import Role
from service.auth import Caller
from service.batcher import Answer
from service.metrics import STREAM_LINES
from service.predictions import make_predictions, show_prediction
from service.problems import HttpError
from service.program import Program
from service.web import Endpoint, content_type, explain, parse_document, refuse_compressed

_TYPES: Final = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines", "application/jsonlines")
_GROUP: Final = 16  # lines that go to the model's queue together: a call a line costs more than it gives
_LEAST_PAUSE_S: Final = 0.05
_MOST_PAUSE_S: Final = 1.0
_HEADERS: Final = {
    "Content-Type": "application/x-ndjson",
    "Connection": "close",  # who stops in the middle leaves a body that nobody should read to its end
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    number: int
    #: what is to be read, or why it cannot be
    body: bytes | HttpError


async def predict_stream(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v1/predict/stream``."""
    if content_type(request) not in _TYPES:
        raise HttpError(415, "unsupported_media_type", f"send JSON Lines, with `Content-Type: {_TYPES[0]}`")
    refuse_compressed(request)
    if program.swapper.live is None:
        raise NotReady
    if program.streams.locked():
        raise Overloaded(f"{program.settings.max_streams} streams run already; try again when one has ended")
    return _Stream(program, caller)


class _Stream(Response):
    """The answer to one stream; it reads the request itself, while it is being sent."""

    def __init__(self, program: Program, caller: Caller) -> None:
        super().__init__(headers=_HEADERS)
        self.raw_headers = [item for item in self.raw_headers if item[0] != b"content-length"]
        self._program = program
        self._caller = caller
        self._settings = program.settings
        self._window = _Window(lines=program.settings.stream_window, size=program.settings.max_request_bytes)
        self._answers: asyncio.Queue[tuple[list[_Line], asyncio.Task[bytes]] | None] = asyncio.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises ClientDisconnect where the client goes away, or takes nothing for too long."""
        async with self._program.streams:
            reading = asyncio.create_task(self._read(scope, receive))
            try:
                # The first read comes first: the server says "100 Continue" then, and never after a response began.
                await asyncio.sleep(0)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._write(send, reading)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await self._end(reading)

    async def _write(self, send: Send, reading: asyncio.Task[None]) -> None:
        """Send answers as they come, in order; ``reading`` ends only with an error, which is raised."""
        while (entry := await self._answers.get()) is not None:
            group, task = entry
            try:
                await asyncio.wait({task, reading}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    reading.result()
                async with asyncio.timeout(self._settings.stream_idle_s):
                    await send({"type": "http.response.body", "body": await task, "more_body": True})
            except TimeoutError:
                raise ClientDisconnect from None
            finally:
                task.cancel()
            self._window.leave(group)
        if reading.done():
            reading.result()

    async def _end(self, reading: asyncio.Task[None]) -> None:
        """Leave no task behind: what nobody waits for is not inferred."""
        tasks: list[asyncio.Task[None] | asyncio.Task[bytes]] = [reading]
        while not self._answers.empty():
            if (entry := self._answers.get_nowait()) is not None:
                tasks.append(entry[1])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, scope: Scope, receive: Receive) -> None:
        """Put groups of lines to work within the window; then wait for the client to go away."""
        try:
            async for lines in self._lines(receive):
                for start in range(0, len(lines), _GROUP):
                    group = lines[start : start + _GROUP]
                    await self._window.enter(group)
                    self._answers.put_nowait((group, asyncio.create_task(self._answer(group, scope))))
        finally:
            self._answers.put_nowait(None)
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ClientDisconnect

    async def _lines(self, receive: Receive) -> AsyncIterator[list[_Line]]:
        """The lines that each piece of the body completes. A body that stops coming ends with an error line."""
        splitter = Splitter(self._settings.max_request_bytes)
        more = True
        while more:
            try:
                async with asyncio.timeout(self._settings.stream_idle_s):
                    message = await receive()
            except TimeoutError:
                late = HttpError(408, "request_timeout", f"nothing came for {self._settings.stream_idle_s:g} s")
                yield [_Line(number=splitter.number + 1, body=late)]
                return
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            if lines := splitter.feed(message.get("body", b""), end=not more):
                yield lines

    async def _answer(self, group: Sequence[_Line], scope: Scope) -> bytes:
        """The group's lines of the response."""
        shown: dict[int, dict[str, object]] = {}
        inputs: dict[int, Inputs] = {}
        for line in group:
            try:
                inputs[line.number] = self._parse(line)
            except (HttpError, BadRecord) as error:
                shown[line.number] = _show_error(error, scope)
        answers = await self._predict(list(inputs.values()), scope)
        good = {number: answer for number, answer in zip(inputs, answers, strict=True) if isinstance(answer, Answer)}
        made = make_predictions(self._program, [inputs[number] for number in good], list(good.values()), self._caller)
        await self._record_room()
        self._program.recorder.put(made)
        shown |= {number: show_prediction(item) for number, item in zip(good, made, strict=True)}
        shown |= {
            number: _show_error(answer, scope)
            for number, answer in zip(inputs, answers, strict=True)
            if isinstance(answer, Exception)
        }
        STREAM_LINES.labels(result="answered").inc(len(good))
        STREAM_LINES.labels(result="refused").inc(len(group) - len(good))
        return b"".join(
            pydantic_core.to_json({"line": n, **shown[n]}, inf_nan_mode="null") + b"\n" for n in sorted(shown)
        )

    def _parse(self, line: _Line) -> Inputs:
        if isinstance(line.body, HttpError):
            raise line.body
        return self._program.task.parse_inputs(parse_document(line.body), max_chars=self._settings.max_text_chars)

    async def _predict(self, inputs: list[Inputs], scope: Scope) -> list[Answer | Exception]:
        """Answers, or for each that never can be one the reason; what only has to wait is tried again."""
        pause = _LEAST_PAUSE_S
        while inputs:
            try:
                return [*await self._program.batcher.predict(inputs, timeout_s=self._settings.request_timeout_s)]
            except Retryable:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - only so that streams do not march in step
                pause = min(2 * pause, _MOST_PAUSE_S)
            except Exception as error:
                if len(inputs) == 1:
                    return [error]
                return [answer for item in inputs for answer in await self._predict([item], scope)]
        return []

    async def _record_room(self) -> None:
        """Wait, within reason, until the log has taken half of the records that wait: the rest is for the others."""
        for _ in range(20):
            if self._program.recorder.pending <= self._settings.record_queue // 2:
                return
            await asyncio.sleep(_LEAST_PAUSE_S)


class Splitter:
    """Cuts a body that comes in pieces into lines."""

    def __init__(self, limit: int) -> None:
        """Prepare.

        Args:
            limit: bytes that a line may have; of a longer one nothing is kept.
        """
        self._limit = limit
        self._rest = bytearray()
        self._too_long = False
        #: lines begun so far; empty ones count, so that the numbers are those of an editor
        self.number = 0

    def feed(self, piece: bytes, *, end: bool) -> list[_Line]:
        """The lines that this piece completes; at the end also the one without a line break. Empty lines are left out."""
        *complete, rest = piece.split(b"\n")
        lines = []
        for part in complete:
            self._take(part)
            lines += self._finish()
        self._take(rest)
        return [*lines, *(self._finish() if end else [])]

    def _take(self, part: bytes) -> None:
        self._too_long = self._too_long or len(self._rest) + len(part) > self._limit
        if self._too_long:
            self._rest.clear()
        else:
            self._rest += part

    def _finish(self) -> list[_Line]:
        self.number += 1
        body, too_long = bytes(self._rest), self._too_long
        self._rest.clear()
        self._too_long = False
        if self.number == 1:
            body = body.removeprefix(b"\xef\xbb\xbf")
        if too_long:
            return [_Line(number=self.number, body=HttpError(413, "too_large", f"more than {self._limit} bytes"))]
        return [_Line(number=self.number, body=body)] if body.strip() else []


class _Window:
    """How much of one stream may be in flight, in lines and in bytes; one group always may."""

    def __init__(self, *, lines: int, size: int) -> None:
        self._limits = (lines, size)
        self._used = (0, 0)
        self._left = asyncio.Event()

    async def enter(self, group: Sequence[_Line]) -> None:
        """Wait for room."""
        lines, size = _weight(group)
        while self._used[0] and (self._used[0] + lines > self._limits[0] or self._used[1] + size > self._limits[1]):
            self._left.clear()
            await self._left.wait()
        self._used = (self._used[0] + lines, self._used[1] + size)

    def leave(self, group: Sequence[_Line]) -> None:
        """Make room."""
        lines, size = _weight(group)
        self._used = (self._used[0] - lines, self._used[1] - size)
        self._left.set()


def _weight(group: Sequence[_Line]) -> tuple[int, int]:
    return len(group), sum(len(line.body) for line in group if isinstance(line.body, bytes))


def _show_error(error: Exception, scope: Scope) -> dict[str, object]:
    known = explain(error, scope)
    return {"error": {"code": known.code, "message": known.message}}


STREAM_ENDPOINT = Endpoint(
    method="POST", path="/v1/predict/stream", name="stream", role=Role.PREDICT, handler=predict_stream
)
