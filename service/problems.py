"""What goes wrong with a request, as a status, a code and a sentence: the only error formats of the HTTP API."""

from collections.abc import Mapping
from typing import Any

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


class HttpError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


class JsonResponse(Response):
    """JSON by pydantic's serializer, which is several times as fast as the standard library's."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The document as UTF-8 JSON; numbers that JSON does not know become null."""
        return pydantic_core.to_json(content, inf_nan_mode="null")


_RETRY = {"Retry-After": "1"}

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
            headers = _RETRY if isinstance(error, Retryable) else {}
            return HttpError(status, code, str(error), headers)
    return None


def error_response(error: HttpError, path: str = "") -> Response:
    """The error with its status and headers, in the form of the protocol that the path belongs to.

    That is ``{"error": {"code", "message"}}``; the Open Inference Protocol below ``/v2`` has ``{"error": message}``.
    """
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    shown = error.message if path == "/v2" or path.startswith("/v2/") else body
    return JsonResponse({"error": shown}, status_code=error.status, headers=error.headers)
