"""The Open Inference Protocol v2 (KServe, Triton): their clients ask this service as any other.

Source: https://github.com/kserve/open-inference-protocol (inference_rest.md). A text is an element of a BYTES tensor. What
is answered is recorded as ``/v1/predict`` records it, under the ids in the output ``prediction_id``.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from core.bundle import is_version_name
from core.errors import InvalidInput, NotReady
from core.events import Inputs, Prediction
from core.settings import Role
from service.auth import Caller
from service.batcher import Answer
from service.openinference_codec import (
    HEADER_LENGTH,
    InferRequest,
    Output,
    decode_request,
    encode_response,
    malformed,
    split_body,
)
from service.predictions import make_predictions
from service.problems import HttpError, JsonResponse
from service.program import Program
from service.swap import Live
from service.web import Endpoint, content_type, departed, header, parse_document, read_body, refuse_compressed

#: clients of this protocol often send no type at all, and the binary extension is not JSON as a whole
_TYPES: Final = ("", "application/json", "application/octet-stream")


async def server(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v2``."""
    return JsonResponse({"name": "ratchet", "version": _own_version(), "extensions": ["binary_tensor_data"]})


def _own_version() -> str:
    try:
        return version("ratchet-server")
    except PackageNotFoundError:  # a Bento holds the code alone
        return "unknown"


async def live(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v2/health/live``."""
    return JsonResponse({"live": program.is_alive}, status_code=200 if program.is_alive else 503)


async def ready(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v2/health/ready``."""
    is_ready = program.swapper.live is not None
    return JsonResponse({"ready": is_ready}, status_code=200 if is_ready else 503)


async def index(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v2/repository/index``: Triton's list of models, which is one."""
    await read_body(request)
    found = program.swapper.live
    name = program.settings.model
    if found is None:
        return JsonResponse([{"name": name, "version": "", "state": "UNAVAILABLE", "reason": str(NotReady())}])
    return JsonResponse([{"name": name, "version": found.version, "state": "READY", "reason": ""}])


async def model(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v2/models/{name}`` and ``…/versions/{version}``."""
    found = await _live(program, request)
    task, labels = program.task, found.servable.manifest.labels
    return JsonResponse(
        {
            "name": program.settings.model,
            "versions": [found.version],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in task.input_fields],
            "outputs": [
                {"name": name, "datatype": datatype, "shape": [-1, len(labels)] if name == "logits" else [-1]}
                for name, datatype in output_types(task.target_field).items()
            ],
            "parameters": {"task": task.name, "labels": labels},
        }
    )


async def model_ready(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v2/models/{name}/ready`` and ``…/versions/{version}/ready``."""
    await _live(program, request)
    return JsonResponse({"name": program.settings.model, "ready": True})


async def infer(program: Program, request: Request, caller: Caller) -> Response:
    """``POST /v2/models/{name}/infer`` and ``…/versions/{version}/infer``."""
    await _live(program, request)
    asked = await _read(program, request)
    wanted = _wanted(asked, program)
    inputs = _inputs(asked, program)
    limit = program.settings.request_timeout_s
    timeout_s = min(limit, asked.timeout_s or limit)
    answers = await program.batcher.predict(inputs, timeout_s=timeout_s, gone=departed(request))
    _check_version(program, request.path_params.get("version"), answers[0].version)
    predictions = make_predictions(program, inputs, answers, caller)
    program.recorder.put(predictions)
    tensors = _tensors(program, answers, predictions)
    head = {"model_name": program.settings.model, "model_version": answers[0].version}
    if asked.id is not None:
        head["id"] = asked.id
    body, json_size = encode_response(head, [(tensors[name], binary) for name, binary in wanted.items()])
    if json_size is None:
        return Response(body, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(json_size)}
    return Response(body, media_type="application/octet-stream", headers=headers)


async def _live(program: Program, request: Request) -> Live:
    """What answers now, if it is the model and version that the path names."""
    name = request.path_params["name"]
    if name != program.settings.model:
        raise HttpError(404, "unknown_model", f"there is no model {name[:100]!r}; there is {program.settings.model!r}")
    found = program.swapper.live
    if found is None:
        raise NotReady
    asked: str | None = request.path_params.get("version")
    if asked is not None and asked != found.version:
        if not is_version_name(asked):
            raise HttpError(404, "unknown_version", f"there is no version {asked[:100]!r}; live is {found.version!r}")
        await program.ask_registry(partial(program.registry.summary, asked))
        _check_version(program, asked, found.version)
    return found


def _check_version(program: Program, asked: str | None, answering: str) -> None:
    if asked is not None and asked != answering:
        message = (
            f"version {asked!r} is not live, {answering!r} is; leave the version out to be answered by the live one"
        )
        raise HttpError(409, "conflict", message)


async def _read(program: Program, request: Request) -> InferRequest:
    if content_type(request) not in _TYPES:
        raise HttpError(415, "unsupported_media_type", "send JSON, or JSON and binary data as application/octet-stream")
    refuse_compressed(request)
    document, binary = split_body(await read_body(request), header(request.scope, HEADER_LENGTH))
    return decode_request(parse_document(document), binary, most=program.settings.max_inputs)


def _inputs(asked: InferRequest, program: Program) -> list[Inputs]:
    """The texts as the task takes them, one object for each element. Raises HttpError or InvalidInput."""
    fields = program.task.input_fields
    if set(asked.inputs) != set(fields):
        raise malformed(f"the model's inputs are {', '.join(fields)}; the request has {', '.join(asked.inputs)}")
    if len({len(texts) for texts in asked.inputs.values()}) > 1:
        raise malformed("all inputs must have the same number of elements")
    found = []
    for number, row in enumerate(zip(*(asked.inputs[name] for name in fields), strict=True)):
        try:
            raw = dict(zip(fields, row, strict=True))
            found.append(program.task.parse_inputs(raw, max_chars=program.settings.max_text_chars))
        except InvalidInput as error:
            raise InvalidInput(f"element {number}: {error}") from error
    return found


def output_types(target_field: str) -> dict[str, str]:
    """The outputs and their datatypes, in the order in which they are given where none is asked for."""
    return {
        target_field: "BYTES",
        "score": "FP32",
        "logits": "FP32",
        "prediction_id": "BYTES",
        "model_version": "BYTES",
        "truncated": "BOOL",
        "audit": "BOOL",
    }


def _wanted(asked: InferRequest, program: Program) -> Mapping[str, bool]:
    """Output names, and whether each comes as binary data. Raises HttpError."""
    known = output_types(program.task.target_field)
    if asked.outputs is None:
        return dict.fromkeys(known, asked.binary)
    for output in asked.outputs:
        if output.name not in known:
            raise malformed(f"there is no output {output.name[:100]!r}; there are: {', '.join(known)}")
    return {item.name: asked.binary if item.binary is None else item.binary for item in asked.outputs}


def _tensors(program: Program, answers: Sequence[Answer], predictions: Sequence[Prediction]) -> dict[str, Output]:
    task = program.task
    values: dict[str, Any] = {
        task.target_field: [task.target_of(made.output) for made in predictions],
        "score": np.array([made.confidence for made in predictions], dtype=np.float32),
        "logits": np.stack([answer.logits for answer in answers]).astype(np.float32, copy=False),
        "prediction_id": [made.prediction_id for made in predictions],
        "model_version": [made.model_version for made in predictions],
        "truncated": np.array([made.truncated for made in predictions], dtype=np.bool_),
        "audit": np.array([made.audit_probability is not None for made in predictions], dtype=np.bool_),
    }
    return {name: Output(name=name, values=found) for name, found in values.items()}


def _versioned(method: str, path: str, name: str, handler: Any) -> tuple[Endpoint, Endpoint]:
    """A route of the model, and the same for a version that is named."""
    base = "/v2/models/{name}"
    return (
        Endpoint(method=method, path=f"{base}{path}", name=name, role=Role.PREDICT, handler=handler),
        Endpoint(
            method=method,
            path=f"{base}/versions/{{version}}{path}",
            name=f"{name}_version",
            role=Role.PREDICT,
            handler=handler,
        ),
    )


OPEN_INFERENCE_ENDPOINTS = (
    Endpoint(method="GET", path="/v2", name="v2_server", role=Role.PREDICT, handler=server),
    Endpoint(method="GET", path="/v2/health/live", name="v2_live", role=None, handler=live),
    Endpoint(method="GET", path="/v2/health/ready", name="v2_ready", role=None, handler=ready),
    Endpoint(method="POST", path="/v2/repository/index", name="v2_index", role=Role.PREDICT, handler=index),
    *_versioned("GET", "", "v2_model", model),
    *_versioned("GET", "/ready", "v2_model_ready", model_ready),
    *_versioned("POST", "/infer", "v2_infer", infer),
)
