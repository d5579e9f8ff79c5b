"""What goes wrong with a request, as a status, a code and a sentence: the only error formats of the HTTP API."""

import math
from collections.abc import Mapping
from typing import Any, Final

import pydantic_core
from starlette.responses import Response

from core.errors import (
    BadRecord,
    BundleError,
    Conflict,
    InvalidTarget,
    NotDurable,
    NotReady,
    Overloaded,
    RatchetError,
    RegistryUnavailable,
    Retryable,
    StoreUnavailable,
    UnknownVersion,
)


class DeadlineExceeded(Retryable):
    """The answer took longer than request_timeout_s; try again."""


class ClientGone(Exception):
    """The client has gone before its answer was there."""


class HttpError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


class JsonResponse(Response):
    """JSON by pydantic's serializer, which is several times as fast as the standard library's.

    Numbers that JSON does not know become null.
    """

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        # Not the base's __init__, which takes headers that are always the same through dictionaries.
        self.status_code = status_code
        self.background = None
        self.body = pydantic_core.to_json(content, inf_nan_mode="null")
        self.raw_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.body))]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))


_LONGEST_RETRY_S: Final = 60

#: the first class that fits decides, so a subclass stands before its base
_STATUS: tuple[tuple[type[RatchetError], int, str], ...] = (
    (InvalidTarget, 422, "invalid_target"),
    (BadRecord, 422, "invalid_input"),
    (BundleError, 422, "unservable_version"),
    (UnknownVersion, 404, "unknown_version"),
    (Conflict, 409, "conflict"),
    (Overloaded, 429, "overloaded"),
    (DeadlineExceeded, 503, "timeout"),
    (NotReady, 503, "not_ready"),
    (NotDurable, 503, "not_durable"),
    (StoreUnavailable, 503, "store_unavailable"),
    (RegistryUnavailable, 503, "registry_unavailable"),
    (Retryable, 503, "unavailable"),
)


def http_error(error: RatchetError) -> HttpError | None:
    """The answer that an error of ours amounts to; None for one that a request should never meet."""
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return HttpError(status, code, str(error), _headers(error))
    return None


def _headers(error: RatchetError) -> dict[str, str]:
    """When to come back, for an error that passes."""
    if not isinstance(error, Retryable):
        return {}
    wait_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
    return {"Retry-After": str(min(max(math.ceil(wait_s), 1), _LONGEST_RETRY_S))}


def error_response(error: HttpError, path: str = "") -> Response:
    """The error with its status and headers, in the form of the protocol that the path belongs to.

    That is ``{"error": {"code", "message"}}``; the Open Inference Protocol below ``/v2`` has ``{"error": message}``.
    """
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    shown = error.message if path == "/v2" or path.startswith("/v2/") else body
    return JsonResponse({"error": shown}, status_code=error.status, headers=error.headers)
