"""What a check of seed data found, for people and for programs."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from core.examples.identity import ALWAYS_TRAINED

SHOWN: Final = 10
"""So many faults are told one by one; all are counted."""
RARE: Final = ALWAYS_TRAINED
"""A label with fewer examples has none to be judged by."""


@dataclass(kw_only=True)
class Validation:
    """The report on seed data."""

    source: str
    format: str
    #: which columns are text and label, and how that was found out
    columns: str = ""
    #: rows with a label, those with faults among them
    rows: int = 0
    #: different texts, each with the first label that it has
    taken: int = 0
    duplicates: int = 0
    #: the same text with another label: the first one holds
    conflicts: int = 0
    #: rows whose text is empty, or holds nothing but what the cleaning takes off; they are among the faults
    empty_texts: int = 0
    #: Label Studio tasks without an annotation that counts
    unlabelled: int = 0
    #: Label Studio tasks on which annotators are divided; they are left out
    ties: int = 0
    faults: int = 0
    first_faults: list[str] = field(default_factory=list)
    first_ties: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    longest_text_chars: int = 0
    #: sizes in an empty store, before near-duplicates are looked for
    splits: dict[str, int] = field(default_factory=dict)
    #: what a person should know of it
    notes: list[str] = field(default_factory=list)
    #: why nothing of it is stored; None: it can be
    problem: str | None = None

    @property
    def rare_labels(self) -> dict[str, int]:
        """Labels with fewer than five examples."""
        return {label: count for label, count in self.labels.items() if count < RARE}

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "rare_labels": self.rare_labels}
