"""What the API's users ask: predictions, feedback, the model; and what machines ask: health and metrics."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from core.errors import NotReady
from core.eventlog.base import NewRecord, check_sizes
from core.events import INTERACTIONS, Feedback, encode, new_id
from core.masking.records import mask_event
from core.settings import Role
from service.auth import Caller
from service.metrics import FEEDBACK_RECEIVED, render
from service.openapi import OPENAPI_ENDPOINT
from service.openinference import OPEN_INFERENCE_ENDPOINTS
from service.operators import OPERATOR_ENDPOINTS
from service.predictions import make_predictions, show_prediction
from service.problems import HttpError, JsonResponse
from service.program import Program
from service.review import REVIEW_ENDPOINT
from service.schemas import is_id, parse_feedback, parse_predict, show_live, stable_id
from service.stream import STREAM_ENDPOINT
from service.web import Endpoint, departed, header, read_document

if TYPE_CHECKING:
    from core.examples import ExampleStore


async def predict(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v1/predict``."""
    settings = program.settings
    asked = parse_predict(await read_document(request), program.task, settings)
    answers = await program.batcher.predict(asked.inputs, timeout_s=settings.request_timeout_s, gone=departed(request))
    predictions = make_predictions(program, asked.inputs, answers, caller)
    program.recorder.put(predictions)
    shown = [show_prediction(made) for made in predictions]
    return JsonResponse({"predictions": shown} if asked.many else shown[0])


async def give_feedback(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v1/feedback``: 202 once it is on disk."""
    settings = program.settings
    said = parse_feedback(await read_document(request), program.task, settings)
    key = header(request.scope, b"idempotency-key")
    feedback_id = stable_id(key, api_key_id=caller.id, model=settings.model) or new_id()
    event = Feedback(
        model=settings.model,
        feedback_id=feedback_id,
        kind=said.kind,
        prediction_id=said.prediction_id,
        inputs=said.inputs,
        target=said.target,
        annotator=said.annotator or caller.id,
        api_key_id=caller.id,
        trusted=caller.trusted,
        asked=said.asked,
    )
    masked = mask_event(event, program.masker, program.id_key)
    # by prediction id, so that it meets its prediction in one partition
    record = NewRecord(key=said.prediction_id or feedback_id, value=encode(masked))
    check_sizes([record])  # the log would refuse it only after it was acknowledged
    await program.outbox.put(INTERACTIONS, record.key, record.value, name=feedback_id)
    program.acknowledged.add(feedback_id)
    if said.prediction_id is not None and said.asked:
        program.answered.add(said.prediction_id)
    FEEDBACK_RECEIVED.labels(kind=said.kind.value).inc()
    return JsonResponse({"feedback_id": feedback_id}, status_code=202)


async def feedback_outcome(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v1/feedback/{feedback_id}``."""
    feedback_id = request.path_params["feedback_id"]
    if not is_id(feedback_id):
        raise HttpError(404, "unknown_feedback", "this is no feedback id")
    found = await program.ask_store(lambda store: _outcome(program, store, feedback_id))
    if found is None:
        message = f"feedback {feedback_id} is unknown, or still on its way from the log to its outcome"
        raise HttpError(404, "unknown_feedback", message)
    return JsonResponse(found)


def _outcome(program: Program, store: "ExampleStore", feedback_id: str) -> dict[str, object] | None:
    """What became of it; None where nothing is known of it here."""
    outcome = store.outcome(feedback_id)
    if outcome is not None:
        return outcome.model_dump(mode="json", exclude={"model"})
    if store.is_pending(feedback_id):
        return _pending(feedback_id, "its prediction has not come yet")
    # The memory is this process's alone; the outbox outlives it, and is shared with the other workers.
    if feedback_id in program.acknowledged or program.outbox.holds(feedback_id):
        return _pending(feedback_id, "it was accepted and is on its way")
    return None


def _pending(feedback_id: str, reason: str) -> dict[str, object]:
    return {"feedback_id": feedback_id, "status": "pending", "reason": reason}


async def live_model(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v1/model``."""
    live = program.swapper.live
    if live is None:
        raise NotReady
    return JsonResponse(show_live(live, program.swapper.newest))


async def alive(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /livez``: 503 asks to be started anew."""
    if program.is_alive:
        return JsonResponse({"ok": True})
    return JsonResponse({"ok": False, "reason": "a thread of the service has ended"}, status_code=503)


async def ready(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /readyz``: 503 asks for no requests yet."""
    live = program.swapper.live
    if live is None:
        return JsonResponse({"ok": False, "reason": str(NotReady())}, status_code=503)
    return JsonResponse({"ok": True, "version": live.version})


async def metrics(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /metrics``."""
    page, content_type = await anyio.to_thread.run_sync(render, program.readings)
    return Response(page, headers={"Content-Type": content_type})


async def console(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /``: the page for people."""
    page, policy = _console()
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})


@cache
def _console() -> tuple[bytes, str]:
    """The page, and a policy under which nothing runs but its own script and style."""
    page = (resources.files("service") / "console" / "index.html").read_bytes()
    script, style = (_source(page, tag) for tag in (b"script", b"style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _source(page: bytes, tag: bytes) -> str:
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found)


ENDPOINTS = (
    Endpoint(method="POST", path="/v1/predict", name="predict", role=Role.PREDICT, handler=predict),
    STREAM_ENDPOINT,
    Endpoint(method="POST", path="/v1/feedback", name="feedback", role=Role.FEEDBACK, handler=give_feedback),
    Endpoint(
        method="GET", path="/v1/feedback/{feedback_id}", name="outcome", role=Role.FEEDBACK, handler=feedback_outcome
    ),
    Endpoint(method="GET", path="/v1/model", name="model", role=Role.PREDICT, handler=live_model),
    *OPERATOR_ENDPOINTS,
    REVIEW_ENDPOINT,
    *OPEN_INFERENCE_ENDPOINTS,
    Endpoint(method="GET", path="/livez", name="livez", role=None, handler=alive),
    Endpoint(method="GET", path="/readyz", name="readyz", role=None, handler=ready),
    Endpoint(method="GET", path="/metrics", name="metrics", role=None, handler=metrics),
    OPENAPI_ENDPOINT,
    Endpoint(method="GET", path="/", name="console", role=None, handler=console),
)
