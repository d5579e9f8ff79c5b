"""What every reader of seed data gives: rows with the place that each came from, and what could not be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from core.errors import RatchetError
from core.events import Split

LABEL_STUDIO_LABEL: Final = "annotated label"
"""The column under which the annotators' label of a Label Studio task is found."""


class BadSeedFile(RatchetError):
    """The seed file cannot be used."""


@dataclass(frozen=True, kw_only=True)
class SeedOptions:
    """What a person says of the data, where it is not found out."""

    text_column: str | None = None
    label_column: str | None = None
    #: a row keeps the split that its file's name or its column ``split`` says; without it, all are split by hash
    keep_splits: bool = False
    #: take what is whole and leave out the lines with faults
    skip_faults: bool = False


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """One row as it lay in the data."""

    #: for people: ``line 3``, or ``test.csv, line 3``
    where: str
    fields: Mapping[str, Any]
    #: what the name of its file says
    split: Split | None = None


@dataclass(kw_only=True)
class Source:
    """What was read of a file or folder; readers add to it."""

    format: str
    rows: list[RawRow] = field(default_factory=list)
    #: ``line 3: what is wrong``
    faults: list[str] = field(default_factory=list)
    #: names of the classes that a column gives by number
    names: dict[str, list[str]] = field(default_factory=dict)
    #: Label Studio tasks that nobody has labelled
    unlabelled: int = 0
    #: Label Studio tasks on which as many annotators say one thing as another
    ties: list[str] = field(default_factory=list)

    def add(self, other: "Source", *, file: str, split: Split | None) -> None:
        """Take over what another file held, each place with the name of the file."""
        self.rows += [RawRow(where=f"{file}, {row.where}", fields=row.fields, split=split) for row in other.rows]
        self.faults += [f"{file}, {fault}" for fault in other.faults]
        self.ties += [f"{file}, {tie}" for tie in other.ties]
        self.names |= other.names
        self.unlabelled += other.unlabelled
