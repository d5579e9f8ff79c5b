"""What is masked, as a record: the settings make one, and a version's manifest says which one it was trained under."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

RULES: Final = 1
"""Rises when the built-in kinds change so much that a model trained under the older ones should be trained anew."""


class Policy(BaseModel):
    """Everything that decides how a text is masked. Two equal policies mask every text alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: the built-in kinds, as of :data:`RULES`
    rules: int = Field(default=RULES, ge=1)
    #: patterns of one's own by the kind that their placeholders name
    patterns: dict[str, str] = Field(default_factory=dict)
    #: a recogniser from another package, by its entry point; empty: none
    recogniser: str = Field(default="", max_length=100)
