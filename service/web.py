"""The HTTP side: the shell around every request, the reading of bodies, and the Starlette application."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pydantic_core
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import RatchetError
from core.events import new_id
from core.logs import configure_logs, get_logger
from core.settings import Role, load_settings
from service.auth import Caller
from service.metrics import INTERNAL_ERRORS, REQUEST_SECONDS, REQUESTS
from service.problems import HttpError, error_response, http_error
from service.program import Program

#: asked by probes and scrapers, which call a pod by its address: they say nothing that a foreign page could use
ANY_HOST: Final = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_CODES: Final = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
_ROUTE: Final = "ratchet.route"
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

    def route(self) -> Route:
        """It as Starlette's."""

        async def answer(request: Request) -> Response:
            program: Program = request.app.state.program
            request.scope[_ROUTE] = self.name
            client = request.client.host if request.client else None
            if self.role is None:
                return await self.handler(program, request, _NOBODY)
            caller = program.keys.identify(request.headers.get("authorization"), client)
            caller.require(self.role)
            return await self.handler(program, request, caller)

        return Route(self.path, answer, methods=[self.method], name=self.name)


_NOBODY: Final = Caller(id="", roles=frozenset(), trusted=False)


def create_app(endpoints: Sequence[Endpoint], start: Callable[[], Program]) -> Starlette:
    """The application; ``start`` makes the running program when the server starts."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        program = start()
        app.state.program = program
        try:
            yield
        finally:
            await asyncio.to_thread(program.stop)

    app = Starlette(
        routes=[endpoint.route() for endpoint in endpoints],
        middleware=[Middleware(_Shell)],
        exception_handlers={HTTPException: _no_such_route},
        lifespan=lifespan,
    )
    app.state.endpoints = tuple(endpoints)  # what the OpenAPI document describes
    app.router.redirect_slashes = False  # a path is right or it is 404
    return app


def start_program(*, end_with_parent: bool) -> Program:
    """Read the settings and start the service with them. Raises BadSettings."""
    settings = load_settings()
    configure_logs(program="service", level=settings.log_level)
    program = Program(settings)
    program.start(end_with_parent=end_with_parent)
    return program


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    code = _CODES.get(error.status_code, "http_error")
    return error_response(HttpError(error.status_code, code, str(error.detail), error.headers), request.url.path)


class _Shell:
    """Around every request: the checks that come first, an answer whatever happens, and the metrics."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            _check_origin(scope)
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = status or 499  # nobody is there to be answered
        except Exception as error:
            response = error_response(explain(error, scope), scope["path"])
            if status:  # half of an answer is out already; the server cuts the connection
                raise
            await response(scope, receive, sending)
        finally:
            route = scope.get(_ROUTE, "none")
            REQUESTS.labels(route=route, status=str(status)).inc()
            REQUEST_SECONDS.labels(route=route).observe(time.perf_counter() - started)


def _check_origin(scope: Scope) -> None:
    """Refuse what a browser sends on behalf of a foreign page. Raises HttpError."""
    program: Program = scope["app"].state.program
    headers = {name: value for name, value in scope["headers"] if name in (b"host", b"origin")}
    if scope["path"] not in ANY_HOST:
        program.hosts.check_host(_text(headers.get(b"host")))
    if scope["method"] not in ("GET", "HEAD"):
        program.hosts.check_origin(_text(headers.get(b"origin")))


def _text(header: bytes | None) -> str | None:
    return header.decode("latin-1") if header is not None else None


def explain(error: Exception, scope: Scope) -> HttpError:
    """What is answered to an error; one that nobody foresaw is logged under an id that the answer names."""
    if isinstance(error, HttpError):
        return error
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
    if required or request.headers.get("content-length", "") not in ("", "0"):
        _check_type(request)
    body = await read_body(request)
    if not body and not required:
        return {}
    _check_type(request)
    return parse_document(body)


async def read_body(request: Request) -> bytes:
    """The body as it came.

    Raises:
        HttpError: 408 too slow, 413 too large.
    """
    settings = request.app.state.program.settings
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > settings.max_request_bytes:
        raise _too_large(settings.max_request_bytes)
    try:
        async with asyncio.timeout(settings.request_timeout_s):
            return await _read(request, settings.max_request_bytes)
    except TimeoutError:
        raise HttpError(408, "request_timeout", "the body did not come in time", {"Connection": "close"}) from None


async def _read(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:  # a chunked body says its length only by its end
            raise _too_large(limit)
        parts.append(chunk)
    return b"".join(parts)


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
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HttpError(415, "unsupported_media_type", "send JSON, with `Content-Type: application/json`")
    refuse_compressed(request)


def refuse_compressed(request: Request) -> None:
    """Refuse a body that would have to be unpacked first: its size says nothing then. Raises HttpError 415."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpError(415, "unsupported_media_type", "send the body as it is, without Content-Encoding")


def _too_large(limit: int) -> HttpError:
    return HttpError(413, "too_large", f"the body has more than {limit} bytes", {"Connection": "close"})
