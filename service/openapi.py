"""The OpenAPI 3.1 document of the HTTP API, for the task and the limits that are set: ``GET /openapi.json``.

One table says of each endpoint, by its name, what it takes and gives. Paths, methods and roles come from the endpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import pydantic_core
from starlette.requests import Request
from starlette.responses import Response

from core.settings import Settings
from core.tasks import Task
from service.auth import Caller
from service.openapi_schemas import CODES, TEXT, VERSION_NAME, Schema, all_schemas, either, ref
from service.program import Program
from service.web import ANY_HOST, Endpoint

_JSON: Final = "application/json"
_NDJSON: Final = "application/x-ndjson"
_BINARY: Final = "application/octet-stream"
_BYTES: Final[Schema] = {"type": "string", "format": "binary"}
#: what reading a body may come to
_BODY: Final = (400, 408, 413, 415)
_ASKS_MODEL: Final = (422, 429, 503)
_SCHEME: Final = "ApiKey"

_PATH_PARAMETERS: Final[Mapping[str, Schema]] = {
    "feedback_id": {"schema": {"type": "string"}, "description": "As the answer to the feedback named it."},
    "version": {"schema": VERSION_NAME, "description": "The name of a version."},
    "name": {"schema": TEXT, "description": "The setting `model`."},
}
_IDEMPOTENCY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    "description": "Makes a retry safe: the same key of the same caller is the same record.",
}
_RETRY_AFTER: Final[Schema] = {"schema": {"type": "integer"}, "description": "Seconds after which to try again."}
_HEADER_LENGTH: Final[Schema] = {
    "schema": {"type": "integer"},
    "description": "Bytes of the body that are JSON; binary data follows. Not there where all is JSON.",
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What an endpoint takes and gives."""

    summary: str
    tag: str
    #: the answer's schema by content type, for ``status``
    gives: Mapping[str, Schema]
    status: int = 200
    #: the body's schema by content type; None: it takes none
    takes: Mapping[str, Schema] | None = None
    body_required: bool = True
    #: error statuses beside those that follow from the endpoint's role and method
    errors: tuple[int, ...] = ()
    #: statuses that have an answer of their own instead of an error
    others: Mapping[int, Schema] = field(default_factory=dict)
    parameters: tuple[Schema, ...] = ()
    headers: Mapping[str, Schema] = field(default_factory=dict)


def _json(name: str) -> Mapping[str, Schema]:
    return {_JSON: ref(name)}


def _limit(default: int, most: int) -> Schema:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return {"name": "limit", "in": "query", "required": False, "schema": schema, "description": "How many at most."}


def _order(summary: str, body: str = "Order", *errors: int) -> Operation:
    return Operation(
        summary=summary,
        tag="operators",
        takes=_json(body),
        gives=_json("Moved"),
        errors=(*_BODY, 409, 422, 503, *errors),
    )


def _inference(summary: str, gives: str, *errors: int) -> Operation:
    return Operation(summary=summary, tag="open inference protocol", gives=_json(gives), errors=errors)


_INFER: Final = Operation(
    summary="Answer tensors of texts",
    tag="open inference protocol",
    takes={_JSON: ref("InferenceRequest"), _BINARY: _BYTES},
    gives={_JSON: ref("InferenceResponse"), _BINARY: _BYTES},
    errors=(404, 409, *_BODY, *_ASKS_MODEL),
    parameters=(
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "schema": {"type": "integer", "minimum": 0},
            "description": "Bytes of the body that are JSON; binary data follows.",
        },
    ),
    headers={"Inference-Header-Content-Length": _HEADER_LENGTH},
)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "predict": Operation(
        summary="Answer one input or many",
        tag="predictions",
        takes={_JSON: either(ref("Inputs"), ref("ManyInputs"))},
        gives={_JSON: either(ref("Prediction"), ref("ManyPredictions"))},
        errors=(*_BODY, *_ASKS_MODEL),
    ),
    "stream": Operation(
        summary="Answer JSON Lines, any number: a StreamAnswer or a StreamError for each line of Inputs",
        tag="predictions",
        takes={_NDJSON: {**_BYTES, "description": "A line for each input.", "x-line": ref("Inputs")}},
        gives={
            _NDJSON: {**_BYTES, "x-line": either(ref("StreamAnswer"), ref("StreamError"))},
        },
        errors=(415, 429, 503),
    ),
    "feedback": Operation(
        summary="Take a user's word",
        tag="feedback",
        takes=_json("FeedbackRequest"),
        gives=_json("FeedbackReceipt"),
        status=202,
        errors=(*_BODY, 422, 503),
        parameters=(_IDEMPOTENCY,),
    ),
    "outcome": Operation(
        summary="What became of a feedback",
        tag="feedback",
        gives={_JSON: either(ref("Outcome"), ref("PendingOutcome"))},
        errors=(404, 503),
    ),
    "model": Operation(summary="The live version", tag="model", gives=_json("LiveModel"), errors=(503,)),
    "versions": Operation(
        summary="Versions, promotions and runs, newest first",
        tag="operators",
        gives=_json("VersionList"),
        errors=(422, 503),
        parameters=(_limit(50, 1_000),),
    ),
    "version": Operation(
        summary="All there is to know of one version",
        tag="operators",
        gives=_json("VersionDetails"),
        errors=(404, 422, 503),
    ),
    "promote": _order("Make a version the champion", "Order", 404),
    "rollback": _order("Back to the newest good version before", "RollbackOrder", 404),
    "pause": _order("Hold automatic promotions", "PauseOrder"),
    "resume": _order("End a hold"),
    "train": Operation(
        summary="Ask for a training run",
        tag="operators",
        takes=_json("TrainOrder"),
        body_required=False,
        gives=_json("TrainReceipt"),
        status=202,
        errors=(*_BODY, 422, 503),
        parameters=(_IDEMPOTENCY,),
    ),
    "review": Operation(
        summary="The predictions most worth a human answer",
        tag="review",
        gives=_json("Review"),
        errors=(422, 503),
        parameters=(_limit(20, 500),),
    ),
    "v2_server": _inference("The server", "InferenceServer"),
    "v2_live": Operation(
        summary="Whether it lives",
        tag="open inference protocol",
        gives=_json("InferenceLive"),
        others={503: ref("InferenceLive")},
    ),
    "v2_ready": Operation(
        summary="Whether it can answer",
        tag="open inference protocol",
        gives=_json("InferenceReady"),
        others={503: ref("InferenceReady")},
    ),
    "v2_index": _inference("The models, of which there is one", "InferenceIndex", 408, 413),
    "v2_model": _inference("The model's tensors", "InferenceModel", 404, 503),
    "v2_model_version": _inference("The same, if the version is live", "InferenceModel", 404, 409, 422, 503),
    "v2_model_ready": _inference("Whether the model is live", "InferenceModelReady", 404, 503),
    "v2_model_ready_version": _inference("Whether the version is live", "InferenceModelReady", 404, 409, 422, 503),
    "v2_infer": _INFER,
    "v2_infer_version": _INFER,
    "livez": Operation(
        summary="503 asks to be started anew", tag="health", gives=_json("Alive"), others={503: ref("NotOk")}
    ),
    "readyz": Operation(
        summary="503 asks for no requests yet", tag="health", gives=_json("Ready"), others={503: ref("NotOk")}
    ),
    "metrics": Operation(summary="Metrics in Prometheus' text format", tag="health", gives={"text/plain": TEXT}),
    "openapi": Operation(summary="This document", tag="health", gives={_JSON: {"type": "object"}}),
    "console": Operation(summary="A page for people", tag="health", gives={"text/html": TEXT}),
}


async def openapi(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /openapi.json``; it is made at the first request."""
    state = request.app.state
    if not hasattr(state, "openapi"):
        state.openapi = pydantic_core.to_json(document(state.endpoints, program.settings, program.task))
    return Response(state.openapi, media_type=_JSON)


OPENAPI_ENDPOINT: Final = Endpoint(method="GET", path="/openapi.json", name="openapi", role=None, handler=openapi)


def document(endpoints: Sequence[Endpoint], settings: Settings, task: Task) -> dict[str, Any]:
    """The document. Raises KeyError for an endpoint that the table lacks."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        shown = _operation(endpoint, OPERATIONS[endpoint.name], has_keys=bool(settings.api_keys))
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = shown
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ratchet",
            "version": "1",
            "description": f"It learns from its users' corrections. Model {settings.model!r}, task {task.name!r}.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": all_schemas(settings, task),
            "securitySchemes": {_SCHEME: {"type": "http", "scheme": "bearer", "description": "A key of `api_keys`."}},
        },
    }


def _operation(endpoint: Endpoint, operation: Operation, *, has_keys: bool) -> dict[str, Any]:
    named = [part[1:-1] for part in endpoint.path.split("/") if part.startswith("{")]
    shown: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(endpoint, operation),
        "security": _security(endpoint, has_keys=has_keys),
    }
    if parameters := [
        *({"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]} for name in named),
        *operation.parameters,
    ]:
        shown["parameters"] = parameters
    if operation.takes is not None:
        shown["requestBody"] = {"required": operation.body_required, "content": _content(operation.takes)}
    return shown


def _security(endpoint: Endpoint, *, has_keys: bool) -> list[dict[str, list[str]]]:
    """The role that a key must have; without keys in the settings, a caller needs none."""
    if endpoint.role is None:
        return []
    needed = {_SCHEME: [endpoint.role.value]}
    return [needed] if has_keys else [needed, {}]


def _responses(endpoint: Endpoint, operation: Operation) -> dict[str, Any]:
    success: dict[str, Any] = {"description": operation.summary, "content": _content(operation.gives)}
    if operation.headers:
        success["headers"] = dict(operation.headers)
    found = {operation.status: success}
    for status, schema in operation.others.items():
        found[status] = {"description": "No.", "content": _content({_JSON: schema})}
    is_v2 = endpoint.path == "/v2" or endpoint.path.startswith("/v2/")
    for status in error_statuses(endpoint, operation):
        found[status] = _error(status, ref("InferenceError" if is_v2 else "ErrorAnswer"))
    return {str(status): found[status] for status in sorted(found)}


def error_statuses(endpoint: Endpoint, operation: Operation) -> set[int]:
    """The statuses of errors that the endpoint may answer."""
    found = {400, 408, 431, 500, *operation.errors}  # what a head can have wrong, and what can go wrong with us
    if endpoint.path not in ANY_HOST:
        found.add(421)
    if endpoint.role is not None:
        found |= {401, 403}
    if endpoint.method != "GET":
        found.add(403)  # a foreign page
    return found


def _error(status: int, schema: Schema) -> dict[str, Any]:
    codes = ", ".join(f"`{code}`" for code in CODES[status])
    shown: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {codes}",
        "content": _content({_JSON: schema}),
    }
    if status in (429, 503):
        shown["headers"] = {"Retry-After": _RETRY_AFTER}
    if status == 401:
        shown["headers"] = {"WWW-Authenticate": {"schema": TEXT, "description": "`Bearer`."}}
    return shown


def _content(schemas: Mapping[str, Schema]) -> dict[str, Any]:
    return {content_type: {"schema": schema} for content_type, schema in schemas.items()}
