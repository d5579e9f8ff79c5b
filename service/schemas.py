"""The HTTP API's documents: what a request may say, with a sentence for everything that it may not."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from core.bundle import is_version_name
from core.errors import InvalidInput
from core.events import FeedbackKind, Inputs, Target
from core.registry import Promotion, Verdict, VersionSummary
from core.settings import Settings
from core.tasks import Task
from service.problems import HttpError
from service.swap import Live

_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
_NAMESPACE: Final = uuid.UUID("3f0e5f0c-3a55-5d0b-9c57-2f7f5a1d8e64")
_MOST_DIGITS: Final = 9
_MAX_REASON: Final = 1_000
_MAX_ANNOTATOR: Final = 200
_MAX_HOLD_S: Final = 366 * 86_400.0

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """Texts to answer; ``many`` where they came as a list and the answer is one, too."""

    inputs: list[Inputs]
    many: bool


@dataclass(frozen=True, kw_only=True)
class FeedbackRequest:
    """A user's word, on a prediction or on inputs of their own."""

    kind: FeedbackKind
    prediction_id: str | None
    inputs: Inputs | None
    target: Target | None
    annotator: str | None
    asked: bool


def parse_predict(document: Document, task: Task, settings: Settings) -> PredictRequest:
    """Read ``{<fields>}`` or ``{"inputs": [{<fields>}, …]}``. Raises InvalidInput."""
    if "inputs" not in document:
        return PredictRequest(inputs=[task.parse_inputs(document, max_chars=settings.max_text_chars)], many=False)
    refuse_unknown(document, ("inputs",))
    items = document["inputs"]
    if not isinstance(items, list) or not items:
        raise InvalidInput("'inputs' must be a list of at least one object")
    if len(items) > settings.max_inputs:
        raise InvalidInput(f"'inputs' has {len(items)} items; at most {settings.max_inputs} are allowed")
    inputs = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidInput(f"inputs[{index}] must be an object")
        try:
            inputs.append(task.parse_inputs(item, max_chars=settings.max_text_chars))
        except InvalidInput as error:
            raise InvalidInput(f"inputs[{index}]: {error}") from error
    return PredictRequest(inputs=inputs, many=True)


def parse_feedback(document: Document, task: Task, settings: Settings) -> FeedbackRequest:
    """Read feedback. Raises InvalidInput or InvalidTarget."""
    refuse_unknown(document, ("prediction_id", "kind", "annotator", "asked", task.target_field, *task.input_fields))
    kind = _kind(document.get("kind", FeedbackKind.CORRECT.value))
    prediction_id = _prediction_id(document)
    own = {field: document[field] for field in task.input_fields if field in document}
    if prediction_id is not None and own:
        raise InvalidInput(f"send either 'prediction_id' or {_names(task)}, not both")
    if prediction_id is None and not own:
        raise InvalidInput(f"'prediction_id' is missing; without one, send {_names(task)}")
    has_target = document.get(task.target_field) is not None
    _check_combination(kind, task.target_field, has_target=has_target, has_prediction=prediction_id is not None)
    return FeedbackRequest(
        kind=kind,
        prediction_id=prediction_id,
        inputs=task.parse_inputs(own, max_chars=settings.max_text_chars) if own else None,
        target=task.parse_target(document[task.target_field]) if has_target else None,
        annotator=_short_text(document, "annotator", _MAX_ANNOTATOR),
        asked=_boolean(document, "asked"),
    )


def _kind(raw: Any) -> FeedbackKind:
    try:
        return FeedbackKind(raw)
    except ValueError:
        raise InvalidInput(f"'kind' must be one of {', '.join(FeedbackKind)}, got {str(raw)[:50]!r}") from None


def _check_combination(kind: FeedbackKind, target_field: str, *, has_target: bool, has_prediction: bool) -> None:
    if kind in (FeedbackKind.CORRECT, FeedbackKind.IMPLICIT) and not has_target:
        raise InvalidInput(f"feedback of kind {kind.value!r} needs {target_field!r}")
    if kind is FeedbackKind.CONFIRM and has_prediction == has_target:
        raise InvalidInput(
            f"a confirmation needs either 'prediction_id' (and no {target_field!r}: it confirms what was answered), "
            f"or the inputs with {target_field!r}"
        )
    if kind is FeedbackKind.REJECT and not has_prediction:
        raise InvalidInput("a rejection needs 'prediction_id'")
    if kind is FeedbackKind.REJECT and has_target:
        raise InvalidInput(f"a rejection takes no {target_field!r}; who knows better sends kind 'correct'")


def _prediction_id(document: Document) -> str | None:
    raw = document.get("prediction_id")
    if raw is None:
        return None
    if not isinstance(raw, str) or not _ID.fullmatch(raw):
        raise InvalidInput("'prediction_id' must be a string of at most 64 digits, letters and hyphens")
    return raw


def is_id(raw: str) -> bool:
    """True for a string that could be an id of ours."""
    return _ID.fullmatch(raw) is not None


def stable_id(header: str | None, *, api_key_id: str, model: str) -> str | None:
    """The id that an ``Idempotency-Key`` stands for; None without one. The same key of another caller is another id.

    Raises:
        HttpError: 400 for a key that is too long or has other than visible ASCII characters.
    """
    if header is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(header):
        raise HttpError(400, "bad_idempotency_key", "Idempotency-Key must be 1 to 200 visible ASCII characters")
    return str(uuid.uuid5(_NAMESPACE, f"{model}\n{api_key_id}\n{header}"))


def parse_reason(document: Document, *, others: tuple[str, ...] = (), required: bool = True) -> str:
    """The ``reason`` of an operator's order. Raises InvalidInput."""
    refuse_unknown(document, ("reason", *others))
    reason = _short_text(document, "reason", _MAX_REASON)
    if reason is None and required:
        raise InvalidInput("'reason' is missing: say why, it is kept")
    return reason or ""


def parse_version(document: Document) -> str | None:
    """The ``version`` that a rollback means; None: whatever is live. Raises InvalidInput."""
    raw = document.get("version")
    if raw is None:
        return None
    if not isinstance(raw, str) or not is_version_name(raw):
        raise InvalidInput("'version' is not the name of a version")
    return raw


def parse_hold(document: Document) -> float | None:
    """The seconds that a pause lasts; None: until it is resumed. Raises InvalidInput."""
    raw = document.get("until_s")
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw <= _MAX_HOLD_S:
        raise InvalidInput(f"'until_s' must be a number of seconds above 0 and at most {_MAX_HOLD_S:g}")
    return float(raw)


def parse_limit(raw: str | None, *, default: int, most: int) -> int:
    """A ``limit`` in the query. Raises InvalidInput."""
    if raw is None:
        return default
    if len(raw) > _MOST_DIGITS or not raw.isascii() or not raw.isdigit() or not 1 <= int(raw) <= most:
        raise InvalidInput(f"'limit' must be a number from 1 to {most}, got {raw[:50]!r}")
    return int(raw)


def refuse_unknown(document: Document, known: tuple[str, ...]) -> None:
    """Refuse a field that we do not know: it may be a misspelt one. Raises InvalidInput."""
    for name in document:
        if name not in known:
            raise InvalidInput(f"unknown field {name[:100]!r}; there are: {', '.join(known)}")


def _short_text(document: Document, name: str, most: int) -> str | None:
    raw = document.get(name)
    if raw is None:
        return None
    if not isinstance(raw, str) or not raw.strip() or len(raw) > most or not raw.isprintable():
        raise InvalidInput(f"{name!r} must be a printable string of 1 to {most} characters")
    return raw.strip()


def _boolean(document: Document, name: str) -> bool:
    raw = document.get(name, False)
    if not isinstance(raw, bool):
        raise InvalidInput(f"{name!r} must be true or false")
    return raw


def _names(task: Task) -> str:
    return " and ".join(repr(field) for field in task.input_fields)


# answers


def show_live(live: Live, newest: Promotion | None) -> dict[str, Any]:
    """``GET /v1/model``."""
    manifest, promotion = live.servable.manifest, live.promotion
    return {
        "version": manifest.version,
        "model": manifest.model,
        "task": manifest.task,
        "labels": manifest.labels,
        "parent": manifest.parent,
        "lane": manifest.lane,
        "method": manifest.method,
        "provider": live.servable.provider,
        "precision": live.servable.precision,
        "artefact": manifest.artefact.model_dump(mode="json") if manifest.artefact else None,
        "promotion": promotion.number,
        "promoted_at": promotion.at,
        "reason": promotion.reason,
        "actor": promotion.actor,
        "evaluation": live.verdict.evaluation if live.verdict else None,
        "verdict": show_verdict(live.verdict),
        # a version goes live a moment before its promotion counts as seen
        "hold": _show_hold(max(newest or promotion, promotion, key=lambda entry: entry.number)),
        "degraded": live.degraded or None,
    }


def _show_hold(newest: Promotion) -> dict[str, Any]:
    return {"paused": newest.hold, "until": newest.hold_until, "reason": newest.reason if newest.hold else None}


def show_verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    """What the gate said, without the figures."""
    if verdict is None:
        return None
    return verdict.model_dump(mode="json", include={"passed", "champion", "reasons", "low_power", "at"})


def show_version(summary: VersionSummary) -> dict[str, Any]:
    """A version in a list."""
    manifest = summary.manifest
    return {
        **manifest.model_dump(mode="json", include={"version", "parent", "lane", "method", "created_at", "run_id"}),
        "labels": len(manifest.labels),
        "trained_on": manifest.training_set.count,
        "verdict": show_verdict(summary.verdict),
        "evaluation": _without_labels(summary.verdict.evaluation) if summary.verdict else None,
        "refusals": summary.refusals,
    }


def _without_labels(evaluation: dict[str, Any]) -> dict[str, Any]:
    """An evaluation without the figures of each label: they are many, and the version's own page has them."""
    return {
        name: {key: item for key, item in value.items() if key != "per_label"} if isinstance(value, dict) else value
        for name, value in evaluation.items()
    }
