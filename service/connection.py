"""What a connection may take while there is no request to answer: the size of a request's head, and the time for it.

uvicorn has no limits of its own there, and nobody has shown a key yet: one client could fill the memory with a header
that never ends, or hold connections open for ever.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.problems import HttpError, error_response

MAX_HEAD_BYTES: Final = 65_536


class Connection(HttpToolsProtocol):
    """One connection. A subclass says how long a head may take and how long it may be idle, see ``connections``."""

    head_timeout_s: float
    idle_timeout_s: float
    _alarm: asyncio.TimerHandle | None = None
    _is_idle = True  # nothing has come since the last request
    _unread = 0  # bytes since the parser last had something to say: a part of a head, of a trailer, or blank lines

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Wait for the first head; a pool of connections may be opened long before they are used."""
        super().connection_made(transport)
        self.timeout_keep_alive = self.idle_timeout_s  # type: ignore[assignment] # its timer takes any number
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as there are not too many bytes that make no request."""
        if self._is_idle:
            self._await_head()  # from its first byte on; what is no head, such as a body that nobody wanted, has no longer
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_HEAD_BYTES:
            self._refuse(_too_large())

    def on_headers_complete(self) -> None:
        """A request is there. Raises ValueError, which ends the parsing, where it is too large as a whole."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:  # one read may hold more than the limit
            self._refuse(_too_large())
            raise ValueError(f"a head of {size} bytes")
        self._unread = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body; its size and time are the application's business."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for it; of its head a part may be here."""
        if not self.pipeline and not self.transport.is_closing():
            if self._unread:
                self._await_head()
            else:
                self._await_request()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Say that this is not HTTP, in the form of every other error."""
        self._refuse(HttpError(400, "bad_request", msg))

    def _await_request(self) -> None:
        self._wait(self.idle_timeout_s)
        self._is_idle = True

    def _await_head(self) -> None:
        self._wait(self.head_timeout_s)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._alarm = self.loop.call_later(seconds, self._is_late)

    def _stop_waiting(self) -> None:
        self._is_idle = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _is_late(self) -> None:
        if self._unread:
            self._refuse(HttpError(408, "request_timeout", "the head of the request did not come in time"))
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, error: HttpError) -> None:
        """Answer with an error, where no other answer is on its way, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            path = getattr(self, "url", b"").decode("latin-1").partition("?")[0]
            response = error_response(error, path)
            fields = [*response.raw_headers, (b"cache-control", b"no-store"), (b"connection", b"close")]
            head = b"".join(b"%b: %b\r\n" % field for field in fields)
            self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
        self.transport.close()


def connections(*, head_timeout_s: float, idle_timeout_s: float) -> type[Connection]:
    """The class of connections for uvicorn, which makes them itself.

    Args:
        head_timeout_s: seconds that a request's head may take.
        idle_timeout_s: seconds that a connection is kept without a request. uvicorn's five would often end it just when the
            client, or a load balancer, sends the next one: with 256 connections at 800 requests a second a few times in
            100,000.
    """
    return type("TimedConnection", (Connection,), {"head_timeout_s": head_timeout_s, "idle_timeout_s": idle_timeout_s})


def install(*, head_timeout_s: float, idle_timeout_s: float) -> None:
    """Make it what uvicorn takes when it is not told otherwise: BentoML does not let us tell it."""
    auto.AutoHTTPProtocol = connections(head_timeout_s=head_timeout_s, idle_timeout_s=idle_timeout_s)


def _too_large() -> HttpError:
    message = f"the head of the request has more than {MAX_HEAD_BYTES} bytes, or its body is no proper chunks"
    return HttpError(431, "headers_too_large", message)
