"""The HTTP side: the shell around every request, the reading of bodies, and the Starlette application."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pydantic_core
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from core.errors import RatchetError
from core.events import new_id
from core.logs import configure_logs, get_logger
from core.settings import Role, Settings, load_settings
from service.allocator import limit_heaps
from service.auth import Caller
from service.metrics import INTERNAL_ERRORS, observe_request
from service.problems import ClientGone, HttpError, error_response, http_error
from service.program import Program

#: asked by probes and scrapers, which call a pod by its address: they say nothing that a foreign page could use
ANY_HOST: Final = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_CODES: Final = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
_ROUTE: Final = "ratchet.route"
_BY_NAME: Final = "ratchet.headers"
#: of these the first may mean one thing to a proxy and the last another to us
_ONCE: Final = (
    b"host",
    b"origin",
    b"authorization",
    b"content-type",
    b"content-length",
    b"idempotency-key",
    b"inference-header-content-length",
)
_LATE: Final = "the body is late"
_HEADERS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_log = get_logger()

Handler = Callable[[Program, Request, Caller], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One route: what it is called in metrics, who may use it, and what answers; ``role`` None: everybody."""

    method: str
    path: str
    name: str
    role: Role | None
    handler: Handler

    async def answer(self, request: Request) -> Response:
        """What the handler says, if the caller may ask. Raises HttpError, or a RatchetError."""
        program: Program = request.scope["app"].state.program
        request.scope[_ROUTE] = self.name
        if self.role is None:
            return await self.handler(program, request, _NOBODY)
        client = request.scope["client"]
        caller = program.keys.identify(header(request.scope, b"authorization"), client[0] if client else None)
        caller.require(self.role)
        return await self.handler(program, request, caller)


_NOBODY: Final = Caller(id="", roles=frozenset(), trusted=False)


class Application(Starlette):
    """Around every request: the checks that come first, an answer whatever happens, and the metrics.

    Starlette's own stack around its router is left out: it costs as much as all the rest of a request. A path without
    parameters needs no router either.
    """

    def __init__(self, endpoints: Sequence[Endpoint], start: Callable[[], Program]) -> None:
        """``start`` makes the running program when the server starts."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            program = start()
            app.state.program = program
            try:
                yield
            finally:
                await asyncio.to_thread(program.stop)

        super().__init__(
            routes=[Route(each.path, each.answer, methods=[each.method], name=each.name) for each in endpoints],
            lifespan=lifespan,
        )
        self.state.endpoints = tuple(endpoints)  # what the OpenAPI document describes
        self.router.redirect_slashes = False  # a path is right or it is 404
        self._fixed = {(each.method, each.path): each for each in endpoints if "{" not in each.path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        started = time.perf_counter()
        sending = _Sending(send)
        try:
            scope["app"] = self
            _check_origin(scope, self.state.program)
            endpoint = self._fixed.get((scope["method"], scope["path"]))
            if endpoint is None:
                await self.router(scope, receive, sending)
            else:
                response = await endpoint.answer(Request(scope, receive, sending))
                await response(scope, receive, sending)
        except (ClientDisconnect, ClientGone):
            sending.status = sending.status or 499  # nobody is there to be answered
        except Exception as error:
            response = error_response(explain(error, scope), scope["path"])
            if sending.status:  # half of an answer is out already; the server cuts the connection
                raise
            await response(scope, receive, sending)
        finally:
            observe_request(scope.get(_ROUTE, "none"), sending.status, time.perf_counter() - started)


class _Sending:
    """Sends on, with the headers of every answer, and remembers the status."""

    __slots__ = ("_send", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        return self._send(message)


def start_program(*, end_with_parent: bool) -> Program:
    """Read the settings and start the service with them. Raises BadSettings."""
    limit_heaps()
    settings = load_settings()
    configure_logs(program="service", level=settings.log_level, masking=settings.masking_policy)
    program = Program(settings)
    program.start(end_with_parent=end_with_parent)
    return program


def _check_origin(scope: Scope, program: Program) -> None:
    """Refuse what a browser sends on behalf of a foreign page, and what can be read in two ways. Raises HttpError."""
    host = header(scope, b"host")
    if scope["path"] not in ANY_HOST:
        program.hosts.check_host(host)
    if scope["method"] not in ("GET", "HEAD"):
        program.hosts.check_origin(header(scope, b"origin"))


def header(scope: Scope, name: bytes) -> str | None:
    """A request's header by its name in lower case. Raises HttpError 400 at the first call, see ``_by_name``."""
    headers: dict[bytes, bytes] | None = scope.get(_BY_NAME)
    if headers is None:
        headers = scope[_BY_NAME] = _by_name(scope["headers"])
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def _by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers; of several of one name the last. Raises HttpError 400 for two where only one can be meant."""
    found = dict(headers)
    if len(found) != len(headers):
        names = [name for name, _ in headers]
        for name in _ONCE:
            if names.count(name) > 1:
                raise HttpError(400, "bad_request", f"the header {name.decode()} was sent more than once; send one")
    return found


def content_type(request: Request) -> str:
    """What the body is said to be, in lower case and without parameters; "" where nothing is said."""
    return (header(request.scope, b"content-type") or "").partition(";")[0].strip().lower()


def departed(request: Request) -> Callable[[], bool] | None:
    """Tells at any time, and from any thread, whether the client has gone; None where the server does not know it yet.

    Asking the server costs nothing; a task for each request that waits for the message would cost more than the rest of it.
    """
    cycle = getattr(request.receive, "__self__", None)  # uvicorn's, which BentoML serves with
    return partial(getattr, cycle, "disconnected") if hasattr(cycle, "disconnected") else None


def explain(error: Exception, scope: Scope) -> HttpError:
    """What is answered to an error; one that nobody foresaw is logged under an id that the answer names."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, HTTPException):  # the router's: no such path, or another method
        code = _CODES.get(error.status_code, "http_error")
        return HttpError(error.status_code, code, str(error.detail), error.headers)
    if isinstance(error, RatchetError) and (known := http_error(error)) is not None:
        return known
    INTERNAL_ERRORS.inc()
    error_id = new_id()
    _log.error("a request failed", error_id=error_id, method=scope["method"], path=scope["path"], exc_info=error)
    return HttpError(500, "internal", f"something went wrong in Ratchet; its log says more under {error_id}")


async def read_document(request: Request, *, required: bool = True) -> dict[str, Any]:
    """The body as a JSON object.

    Args:
        request: the request.
        required: False lets an empty body stand for an empty object.

    Raises:
        HttpError: 400 not a JSON object, 408 too slow, 413 too large, 415 not JSON.
    """
    is_expected = required or header(request.scope, b"content-length") not in (None, "", "0")
    if is_expected:
        _check_type(request)
    body = await read_body(request)
    if not body and not required:
        return {}
    if not is_expected:  # it came in chunks
        _check_type(request)
    return parse_document(body)


async def read_body(request: Request) -> bytes:
    """The body as it came.

    Raises:
        HttpError: 408 too slow, 413 too large.
    """
    settings = request.scope["app"].state.program.settings
    length = header(request.scope, b"content-length") or ""
    if length.isdigit() and int(length) > settings.max_request_bytes:
        raise _too_large(settings.max_request_bytes)
    return await _read(request, settings)


async def _read(request: Request, settings: Settings) -> bytes:
    """The body, within the limits of size and time. Raises HttpError, or ClientDisconnect."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a server runs requests as tasks
    # Not asyncio.timeout, which costs several times as much.
    alarm = asyncio.get_running_loop().call_later(settings.request_timeout_s, task.cancel, _LATE)
    try:
        body, more = b"", True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > settings.max_request_bytes:  # a chunked body says its length only by its end
                raise _too_large(settings.max_request_bytes)
    except asyncio.CancelledError as cancelled:
        if _LATE not in cancelled.args:
            raise
        task.uncancel()
        raise HttpError(408, "request_timeout", "the body did not come in time", {"Connection": "close"}) from None
    finally:
        alarm.cancel()
    return body


def parse_document(body: bytes) -> dict[str, Any]:
    """Bytes as a JSON object. Raises HttpError 400."""
    try:
        document = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HttpError(400, "malformed", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise HttpError(400, "malformed", "the body must be a JSON object")
    return document


def _check_type(request: Request) -> None:
    if content_type(request) != "application/json":
        raise HttpError(415, "unsupported_media_type", "send JSON, with `Content-Type: application/json`")
    refuse_compressed(request)


def refuse_compressed(request: Request) -> None:
    """Refuse a body that would have to be unpacked first: its size says nothing then. Raises HttpError 415."""
    if (header(request.scope, b"content-encoding") or "identity").lower() != "identity":
        raise HttpError(415, "unsupported_media_type", "send the body as it is, without Content-Encoding")


def _too_large(limit: int) -> HttpError:
    return HttpError(413, "too_large", f"the body has more than {limit} bytes", {"Connection": "close"})
