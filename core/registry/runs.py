"""The record of a training run."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from core.events import Record, now


class RunState(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    REJECTED = "rejected"
    PROMOTED = "promoted"
    FAILED = "failed"


class TrainingRun(Record):
    """One attempt to make a better version."""

    schema_version: Literal[1] = 1
    run_id: str
    lane: str
    trigger: str
    parent: str | None
    seed: int
    settings: dict[str, Any] = Field(default_factory=dict)
    state: RunState
    #: the store's sequence number up to which the run looked at examples
    through_seq: int = Field(ge=0)
    #: commands that asked for this run
    commands: list[str] = Field(default_factory=list)
    version: str | None = None
    #: False where promotions were held or the champion kept moving: what such a run looked at is still news
    judged: bool = True
    reasons: list[str] = Field(default_factory=list)
    started_at: AwareDatetime = Field(default_factory=now)
    finished_at: AwareDatetime | None = None
