"""The records that travel between the programs, as versioned JSON.

Every event carries ``schema_version``, ``model``, an id and a UTC time ``at``. They are frozen: a fact that was written
down is never edited, only followed by another.
"""

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import uuid_utils
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.errors import MalformedEvent, UnsupportedSchema

SCHEMA_VERSION: Final = 1

INTERACTIONS: Final = "interactions"
EXAMPLES: Final = "examples"
DEAD_LETTERS: Final = "dead-letters"

Inputs = dict[str, Any]
"""A task's input fields by name, e.g. ``{"text": "where is my parcel"}``."""
Target = Any
"""What the answer should have been; its type is the task's (for classification the label, a string)."""


def now() -> datetime:
    """The present time in UTC, the only clock that records carry."""
    return datetime.now(UTC)


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and ordered by the time it was made."""
    return str(uuid_utils.uuid7())


class Record(BaseModel):
    """A frozen record that refuses unknown fields, so that a misspelt one is an error and not a loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(Record):
    """What all events carry."""

    schema_version: Literal[1] = 1
    model: str = "default"
    at: AwareDatetime = Field(default_factory=now)


class Prediction(Event):
    """What the service answered, so that a later correction can be joined to it."""

    type: Literal["prediction"] = "prediction"
    prediction_id: str
    model_version: str
    task: str
    inputs: Inputs
    output: dict[str, Any]
    confidence: float = Field(ge=0, le=1)
    truncated: bool = False
    embedding: list[float] | None = None
    api_key_id: str = "local"
    #: the chance with which this prediction was drawn for an audit; None where it was not drawn
    audit_probability: float | None = Field(default=None, gt=0, le=1)


class FeedbackKind(StrEnum):
    """What a user said about a prediction."""

    CORRECT = "correct"
    CONFIRM = "confirm"
    REJECT = "reject"
    IMPLICIT = "implicit"


class Feedback(Event):
    """A user's word on a prediction (by id) or on inputs of their own."""

    type: Literal["feedback"] = "feedback"
    feedback_id: str
    kind: FeedbackKind = FeedbackKind.CORRECT
    prediction_id: str | None = None
    inputs: Inputs | None = None
    target: Target | None = None
    #: who said so: the end user that the app names, else the API key
    annotator: str = "local"
    api_key_id: str = "local"
    #: the API key's trust is a setting; the service resolves it, so that the event says what held then
    trusted: bool = False
    #: the person was asked for this answer (an audit or the review queue) and did not volunteer it
    asked: bool = False


class Command(Event):
    """An operator's order that must reach the trainer through the log."""

    type: Literal["command"] = "command"
    command_id: str
    action: Literal["train"] = "train"
    actor: str = "local"
    reason: str = ""


class Origin(StrEnum):
    """Where an example comes from."""

    SEED = "seed"
    AUDIT = "audit"
    CORRECTION = "correction"
    CONFIRMATION = "confirmation"
    IMPLICIT = "implicit"
    PSEUDO_LABEL = "pseudo_label"
    AUGMENTED = "augmented"


class Split(StrEnum):
    """What an example may be used for. The holdout is never trained on; what is barred neither trains nor judges."""

    TRAIN = "train"
    VALIDATION = "validation"
    HOLDOUT = "holdout"
    BARRED = "barred"


class Example(Event):
    """A labelled text that the feedback program found worth keeping."""

    type: Literal["example"] = "example"
    example_id: str
    #: rises by one with every write to the store, so "newer than n" is a complete question
    seq: int = Field(ge=0)
    task: str
    inputs: Inputs
    target: Target
    origin: Origin
    split: Split
    #: why it is barred
    split_reason: str = ""
    #: selected examples are trained on as new; the others are kept for replay and for judging
    selected: bool = True
    sampling_probability: float | None = None
    weight: float = Field(default=1.0, ge=0)
    trust: float = Field(default=1.0, ge=0, le=1)
    selection_score: float = 0.0
    selection_reason: str = ""
    #: ids of the feedback (or seed rows) that say so, oldest first
    sources: list[str] = Field(default_factory=list)


class OutcomeStatus(StrEnum):
    """What became of a feedback."""

    ACCEPTED = "accepted"
    QUARANTINED = "quarantined"
    DUPLICATE = "duplicate"
    UNMATCHED = "unmatched"
    REJECTED = "rejected"


class Outcome(Record):
    """One row in the ledger per feedback_id: recorded once, never recomputed."""

    model: str
    feedback_id: str
    status: OutcomeStatus
    reason: str
    prediction_id: str | None = None
    example_id: str | None = None
    at: AwareDatetime = Field(default_factory=now)


class DeadLetter(Event):
    """A record that could not be processed, kept with the reason and the place it came from."""

    type: Literal["dead_letter"] = "dead_letter"
    topic: str
    partition: int
    offset: int
    key: str
    #: the record's bytes, as latin-1 text so that nothing is lost
    value: str
    #: the number of bytes that the record has, where only its beginning is kept here
    cut_from: int | None = None
    reason: str
    #: when an operator put the record back into its topic; None: nobody has
    replayed_at: AwareDatetime | None = None


AnyEvent = Annotated[Prediction | Feedback | Command | Example | DeadLetter, Field(discriminator="type")]
_ANY_EVENT: TypeAdapter[Prediction | Feedback | Command | Example | DeadLetter] = TypeAdapter(AnyEvent)


def encode(event: Event) -> bytes:
    """The event as UTF-8 JSON."""
    return event.model_dump_json().encode()


def decode(value: bytes) -> Prediction | Feedback | Command | Example | DeadLetter:
    """Read an event that :func:`encode` wrote.

    Raises:
        UnsupportedSchema: it was written by a newer Ratchet.
        MalformedEvent: it is not an event.
    """
    try:
        return _ANY_EVENT.validate_json(value)
    except ValidationError as error:
        version = _schema_version(value)
        if version is not None and version > SCHEMA_VERSION:
            raise UnsupportedSchema(
                f"the event has schema_version {version}, this program reads up to {SCHEMA_VERSION}; upgrade it",
                schema_version=version,
            ) from error
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "event"
        raise MalformedEvent(f"the record is not a Ratchet event: {place}: {first['msg']}") from error


def _schema_version(value: bytes) -> int | None:
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return None
    version = document.get("schema_version") if isinstance(document, dict) else None
    return version if isinstance(version, int) else None
