"""HTTP/1.1 as cheaply as Python can speak it: one keep-alive connection that carries one request at a time.

A client library would cost more than the servers that are measured: the generator shares their two cores.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

_HEAD_LIMIT: Final = 65_536
_BODY_LIMIT: Final = 64_000_000
Done = Callable[["Connection", int, bytes, str], None]
"""Told of each request's end: the connection, the status or 0, the body, and what went wrong or an empty string."""


class Connection(asyncio.Protocol):
    """One connection; ``done`` is called once for each :meth:`send`."""

    __slots__ = ("_body_at", "_buffer", "_done", "_need", "_status", "_transport", "busy", "request", "sent_at")

    def __init__(self, done: Done) -> None:
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._body_at = self._need = 0  # bytes of the head, and of head and body, once the head was read
        self._status = 0
        self.busy = False
        self.request = -1  # the caller's number of what is under way
        self.sent_at = 0.0

    @property
    def is_open(self) -> bool:
        """True while requests can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def send(self, request: int, message: bytes, now: float) -> None:
        """Send one request, head and body, at the monotonic time ``now``."""
        assert self._transport is not None
        self.busy, self.request, self.sent_at = True, request, now
        self._transport.write(message)

    def abort(self, reason: str) -> None:
        """Give the request under way up, and the connection with it."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._end(0, b"", reason)

    def close(self) -> None:
        """Close an idle connection."""
        self._done = _nobody
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def data_received(self, data: bytes) -> None:
        """Collect an answer; a whole one ends the request."""
        buffer = self._buffer = self._buffer + data if self._buffer else data
        if not self._need:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(buffer) > _HEAD_LIMIT:
                    self.abort("the head of an answer is too long")
                return
            try:
                self._status, length = _read_head(buffer[:end].lower())
            except ValueError as error:
                self.abort(str(error))
                return
            self._body_at, self._need = end + 4, end + 4 + length
        if len(buffer) < self._need:
            return
        head, body = buffer[: self._body_at], buffer[self._body_at :]
        if len(buffer) > self._need or not self.busy:
            self.abort("more came than the answer")
            return
        self._buffer, self._need = b"", 0
        if b"\r\nconnection: close" in head.lower() and self._transport is not None:
            self._transport.close()
            self._transport = None
        self._end(self._status, body, "")

    def connection_lost(self, exc: Exception | None) -> None:
        """A request under way has failed."""
        self._transport = None
        self._end(0, b"", f"the connection was cut: {exc or 'closed by the server'}")

    def _end(self, status: int, body: bytes, error: str) -> None:
        if self.busy:
            self.busy = False
            self._done(self, status, body, error)


def _nobody(_connection: Connection, _status: int, _body: bytes, _error: str) -> None:
    """Nobody waits for the end of a connection that was closed on purpose."""


def _read_head(head: bytes) -> tuple[int, int]:
    """Status and length of the body, of a head in lower case. Raises ValueError."""
    if not head.startswith(b"http/1."):
        raise ValueError(f"this is no HTTP answer: {head[:40]!r}")
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError("an answer without Content-Length is not supported")
    length = int(head[at + 17 :].split(b"\r\n", 1)[0])
    if not 0 <= length <= _BODY_LIMIT:
        raise ValueError(f"an answer of {length} bytes is not supported")
    return int(head[9:12]), length


def request_message(host: str, path: str, body: bytes, *, headers: dict[str, str] | None = None) -> bytes:
    """A POST of JSON, ready to send again and again."""
    fields = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
