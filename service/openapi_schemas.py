"""The schemas of the OpenAPI document: records from their classes, the rest written here; JSON Schema 2020-12.

Every object of an answer lists all of its fields and allows no others, so that a test that compares answers with the
document finds a field that one of the two lacks.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from core.bundle import Manifest
from core.events import FeedbackKind, Outcome
from core.registry import Promotion, TrainingRun, Verdict
from core.settings import Settings
from core.tasks import TASKS, Task
from core.tasks.text_classification import MAX_LABEL_CHARS, TOP

Schema = dict[str, Any]

#: the codes of each error status, as in docs/http-api.md; a test compares them with the code
CODES: Final[Mapping[int, tuple[str, ...]]] = {
    400: ("malformed", "bad_request", "bad_idempotency_key"),
    401: ("unauthorized",),
    403: ("forbidden", "keys_required", "foreign_origin"),
    404: ("not_found", "unknown_feedback", "unknown_model", "unknown_version"),
    405: ("method_not_allowed",),
    408: ("request_timeout",),
    409: ("conflict",),
    413: ("too_large",),
    415: ("unsupported_media_type",),
    421: ("foreign_host",),
    422: ("invalid_input", "invalid_target", "unservable_version"),
    429: ("overloaded",),
    431: ("headers_too_large",),
    500: ("internal",),
    503: (*("not_ready", "not_durable", "timeout", "store_unavailable", "registry_unavailable", "unavailable"),),
}

TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "number"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
TRUTH: Final[Schema] = {"type": "boolean"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
ANYTHING: Final[Schema] = {"type": "object", "additionalProperties": True}
PROBABILITY: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 1}
REASON: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 1_000,
    "description": "Why; printable characters. It is kept.",
}
VERSION_NAME: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{3,63}$"}
PREDICTION_ID: Final[Schema] = {"type": "string", "pattern": "^[0-9A-Za-z-]{1,64}$"}

_CLASSIFIED: Final[Schema] = {"label": {**TEXT, "description": "The best label."}, "score": PROBABILITY}

#: what a task's inputs, answer and target are made of; a contract test wants an entry for each task
OUTPUTS: Final[Mapping[str, Mapping[str, Schema]]] = {
    "text_classification": {
        **_CLASSIFIED,
        "top": {
            "type": "array",
            "maxItems": TOP,
            "items": {"$ref": "#/components/schemas/ScoredLabel"},
            "description": f"The best {TOP} labels with their probabilities, best first.",
        },
    }
}
TARGETS: Final[Mapping[str, Schema]] = {
    "text_classification": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_LABEL_CHARS,
        "description": "What the answer should have been; printable characters.",
    }
}


def ref(name: str) -> Schema:
    """A schema of the document by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, **more}


def either(*schemas: Schema) -> Schema:
    """One of several."""
    return {"oneOf": list(schemas)}


def nullable(schema: Schema) -> Schema:
    """It, or null."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return either(schema, {"type": "null"})


def fields(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    """An object of these fields and no others."""
    found: Schema = {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
        **more,
    }
    return {**found, "required": list(required)} if required else found


def all_schemas(settings: Settings, task: Task) -> dict[str, Schema]:
    """Every schema of the document, by name, for the task and the limits that are set."""
    return {
        **_records(),
        **_inputs(settings, task),
        **_answers(settings, task),
        **_registry_views(),
        **_orders(),
        **_inference(settings),
        **_errors(),
    }


def _records() -> dict[str, Schema]:
    classes = (Promotion, TrainingRun, Verdict, Manifest, Outcome)
    _, document = models_json_schema(
        [(item, "serialization") for item in classes], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Schema] = document["$defs"]
    del found["Outcome"]["properties"]["model"]  # it is shown without
    del found["Manifest"]["properties"][
        "probes"
    ]  # and it without known answers, which are long and say nothing to people
    del found["Probe"]
    for schema in found.values():
        if "properties" in schema:  # a default is written out, too
            schema["required"] = list(schema["properties"])
    return found


def _inputs(settings: Settings, task: Task) -> dict[str, Schema]:
    text = {
        "type": "string",
        "minLength": 1,
        "maxLength": settings.max_text_chars,
        "description": "Not only white space.",
    }
    inputs = dict.fromkeys(task.input_fields, text)
    kinds = {"type": "string", "enum": [kind.value for kind in FeedbackKind], "default": FeedbackKind.CORRECT.value}
    feedback = {
        "prediction_id": {
            **nullable(PREDICTION_ID),
            "description": "The prediction that is meant; without it, send the inputs.",
        },
        "kind": {**kinds, "description": "`correct` and `implicit` need the target; `reject` takes none."},
        task.target_field: nullable(TARGETS[task.name]),
        "annotator": {
            **nullable({**TEXT, "minLength": 1, "maxLength": 200}),
            "description": "Who says so, if the app knows.",
        },
        "asked": {**TRUTH, "default": False, "description": "The person was asked and did not volunteer it."},
        **inputs,
    }
    return {
        "Inputs": fields(inputs, description="One input of the task."),
        "ManyInputs": fields({"inputs": array(ref("Inputs"), minItems=1, maxItems=settings.max_inputs)}),
        "FeedbackRequest": fields({}, feedback, description="A user's word on a prediction or on inputs of their own."),
    }


def _answers(settings: Settings, task: Task) -> dict[str, Schema]:
    answer = {
        "prediction_id": {**TEXT, "description": "For feedback."},
        "model_version": TEXT,
        **OUTPUTS[task.name],
        "truncated": {**TRUTH, "description": "The text was longer than the model reads, and was cut."},
        "audit": {**TRUTH, "description": "Drawn by chance: ask a person what is right, if you can."},
    }
    line = {"line": {"type": "integer", "minimum": 1}}
    review = {"prediction_id": TEXT, "model_version": TEXT, "inputs": ref("Inputs")}
    return {
        "ScoredLabel": fields(_CLASSIFIED),
        "Prediction": fields(answer),
        "ManyPredictions": fields({"predictions": array(ref("Prediction"))}),
        "StreamAnswer": fields({**line, **answer}, description="A line of a stream's answer."),
        "StreamError": fields(
            {**line, "error": ref("Problem")},
            description="The line of a stream's answer for one that cannot be answered.",
        ),
        "FeedbackReceipt": fields({"feedback_id": TEXT}),
        "PendingOutcome": fields(
            {"feedback_id": TEXT, "status": {"const": "pending", "type": "string"}, "reason": TEXT}
        ),
        "ReviewItem": fields(
            {
                **review,
                "output": fields(OUTPUTS[task.name]),
                "reason": {**TEXT, "description": "Why it is worth an answer."},
                "score": {**PROBABILITY, "description": "How much there is to learn."},
                "sampling_probability": {
                    **nullable(PROBABILITY),
                    "description": "With which it was drawn by lot; null for one that the strategy chose.",
                },
                "at": TIME,
            }
        ),
        **_review(),
    }


def _review() -> dict[str, Schema]:
    estimate = {
        "answers": COUNT,
        "share": {**nullable(PROBABILITY), "description": "Null without an answer."},
        **{"low": PROBABILITY, "high": PROBABILITY},
    }
    version = fields({"name": TEXT, **estimate})
    return {
        "Accuracy": fields(
            {"days": COUNT, **estimate, "version": {**nullable(version), "description": "The live one's."}},
            description="Estimated from the answers to what was drawn by lot, with a 95 % interval.",
        ),
        "Review": fields(
            {
                "predictions": array(ref("ReviewItem")),
                "waiting": fields({"drawn": COUNT, "chosen": COUNT}),
                "budget": fields(
                    {"per_day": nullable(COUNT), "answered": COUNT, "left": nullable(COUNT)},
                    description="Answers in 24 hours: `review_budget`, null where there is no limit.",
                ),
                "accuracy": ref("Accuracy"),
            }
        ),
    }


def _registry_views() -> dict[str, Schema]:
    verdict = {"passed": TRUTH, "champion": nullable(TEXT), "reasons": array(TEXT), "low_power": TRUTH, "at": TIME}
    origin = {"parent": nullable(TEXT), "lane": TEXT, "method": TEXT}
    return {
        "ShortVerdict": fields(verdict, description="What the gate said, without the figures."),
        "Hold": fields({"paused": TRUTH, "until": nullable(TIME), "reason": nullable(TEXT)}),
        "LiveModel": fields(
            {
                **{"version": TEXT, "model": TEXT, "task": {"type": "string", "enum": sorted(TASKS)}},
                "labels": array(TEXT),
                **origin,
                "provider": {**TEXT, "description": "Where it really runs, in ONNX Runtime's words."},
                "precision": {**TEXT, "description": "The numbers that its graph calculates with."},
                "artefact": {**nullable(ANYTHING), "description": "Which form of the graph is served, and why."},
                "promotion": {**COUNT, "description": "Number of the entry that made it live."},
                **{"promoted_at": TIME, "reason": TEXT, "actor": TEXT, "evaluation": nullable(ANYTHING)},
                "verdict": nullable(ref("ShortVerdict")),
                "hold": ref("Hold"),
                "degraded": {**nullable(TEXT), "description": "Why this is not the champion; null where it is."},
            }
        ),
        "VersionInList": fields(
            {
                **{"version": TEXT, **origin, "created_at": TIME, "run_id": TEXT, "labels": COUNT, "trained_on": COUNT},
                "verdict": nullable(ref("ShortVerdict")),
                "evaluation": nullable(ANYTHING),
                "refusals": array(ANYTHING),
            }
        ),
        "BrokenVersion": fields({"version": TEXT, "error": TEXT}),
        "VersionList": fields(
            {
                "live": nullable(TEXT),
                "versions": array(either(ref("VersionInList"), ref("BrokenVersion"))),
                "bad_versions": array(TEXT),
                "promotions": array(ref("Promotion")),
                "runs": array(ref("TrainingRun")),
            }
        ),
        "VersionDetails": fields(
            {
                **{"version": TEXT, "manifest": ref("Manifest"), "verdict": nullable(ref("Verdict"))},
                **{"refusals": array(ANYTHING), "bad": TRUTH, "promotions": array(ref("Promotion"))},
            }
        ),
    }


def _orders() -> dict[str, Schema]:
    seconds = {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 366 * 86_400}
    return {
        "Order": fields({"reason": REASON}),
        "RollbackOrder": fields(
            {"reason": REASON},
            {"version": {**nullable(VERSION_NAME), "description": "The one that is meant; 409 where it is not live."}},
        ),
        "PauseOrder": fields(
            {"reason": REASON}, {"until_s": {**seconds, "description": "Seconds after which the hold ends by itself."}}
        ),
        "TrainOrder": fields({}, {"reason": nullable(REASON)}),
        "Moved": fields({"promotion": ref("Promotion")}),
        "TrainReceipt": fields({"command_id": TEXT}),
        "Alive": fields({"ok": TRUTH}),
        "Ready": fields({"ok": TRUTH, "version": TEXT}),
        "NotOk": fields({"ok": TRUTH, "reason": TEXT}),
    }


def _inference(settings: Settings) -> dict[str, Schema]:
    shape = array({"type": "integer", "minimum": -1})
    tensor = {"name": TEXT, "datatype": {"type": "string", "enum": ["BYTES", "FP32", "BOOL"]}, "shape": shape}
    one = array({"type": "integer", "minimum": 1, "maximum": settings.max_inputs}, minItems=1, maxItems=1)
    inputs = {"name": TEXT, "datatype": {"type": "string", "const": "BYTES"}, "shape": one}
    state = {"type": "string", "enum": ["READY", "UNAVAILABLE"]}
    return {
        "InferenceServer": fields({"name": TEXT, "version": TEXT, "extensions": array(TEXT)}),
        "InferenceLive": fields({"live": TRUTH}),
        "InferenceReady": fields({"ready": TRUTH}),
        "InferenceModelReady": fields({"name": TEXT, "ready": TRUTH}),
        "InferenceIndex": array(fields({"name": TEXT, "version": TEXT, "state": state, "reason": TEXT})),
        "TensorMetadata": fields(tensor),
        "InferenceModel": fields(
            {
                **{"name": TEXT, "versions": array(TEXT), "platform": TEXT},
                **{"inputs": array(ref("TensorMetadata")), "outputs": array(ref("TensorMetadata"))},
                "parameters": fields({"task": TEXT, "labels": array(TEXT)}),
            }
        ),
        "InferenceInput": {
            "type": "object",
            "properties": {**inputs, "data": array(TEXT), "parameters": ANYTHING},
            "required": list(inputs),
        },
        "InferenceWanted": {
            "type": "object",
            "properties": {"name": TEXT, "parameters": ANYTHING},
            "required": ["name"],
        },
        "InferenceRequest": {
            "type": "object",
            "properties": {
                "id": TEXT,
                "inputs": array(ref("InferenceInput"), minItems=1),
                "outputs": array(ref("InferenceWanted")),
                "parameters": ANYTHING,
            },
            "required": ["inputs"],
        },
        "InferenceOutput": fields(tensor, {"data": array({}), "parameters": fields({"binary_data_size": COUNT})}),
        "InferenceResponse": fields(
            {"model_name": TEXT, "model_version": TEXT, "outputs": array(ref("InferenceOutput"))}, {"id": TEXT}
        ),
        "InferenceError": fields({"error": TEXT}),
    }


def _errors() -> dict[str, Schema]:
    codes = sorted({code for found in CODES.values() for code in found} | {"http_error"})
    return {
        "Problem": fields({"code": {"type": "string", "enum": codes}, "message": TEXT}),
        "ErrorAnswer": fields({"error": ref("Problem")}),
    }
