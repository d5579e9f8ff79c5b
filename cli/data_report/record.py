"""The figures of the report: gathered once, and shown in three ways."""

from dataclasses import dataclass
from typing import Final

RARE: Final = 10
"""A label that fewer examples train is rare."""


@dataclass(frozen=True, kw_only=True)
class LabelCount:
    """The examples of one label by what they are used for."""

    label: str
    train: int
    validation: int
    holdout: int
    barred: int
    #: fewer than ``RARE`` train
    rare: bool

    @property
    def total(self) -> int:
        """All of them."""
        return self.train + self.validation + self.holdout + self.barred


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many there are of something."""

    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Scripts:
    """In which scripts the texts are written; that is no language, which nothing here detects."""

    #: texts that were looked at
    looked_at: int
    #: by the script of most of a text's letters
    counts: tuple[Count, ...]


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What was found twice."""

    #: feedback that said what was known already
    exact: int
    #: pairs of examples that are nearly the same, and examples in such a pair
    near_pairs: int
    near_texts: int
    #: examples that neither train nor judge, by the reason
    barred: tuple[Count, ...]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Feedback that was not learned from, by the reason that the ledger gives."""

    quarantined: tuple[Count, ...]
    #: claims in quarantine, and how many of them have come to be their example's label since
    claims: int
    confirmed: int
    rejected: tuple[Count, ...]
    #: feedback whose prediction never came
    unmatched: int


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """An example whose label may be wrong."""

    example_id: str
    text: str
    label: str
    likely: str
    #: probability of the likely label less that of its own, by a head that was not fitted on it
    margin: float


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """What confident learning makes of the labels."""

    #: why there is no figure; empty where there is one
    missing: str
    #: examples that were examined
    examined: int = 0
    #: examples of labels with too few examples to say anything
    passed_over: int = 0
    #: examples with a suspect label
    suspects: int = 0
    most: tuple[Suspect, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Far:
    """A recent text that is unlike everything labelled."""

    text: str
    #: cosine with the nearest labelled example
    likeness: float


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Whether the examples cover what the model is asked, and what it answers."""

    missing: str
    #: labels of the live model without an example that trains, and labels of examples that it does not know
    without_examples: tuple[str, ...] = ()
    not_known: tuple[str, ...] = ()
    #: recent predictions that were looked at
    predictions: int = 0
    #: cosine with the nearest labelled example below which a text counts as far
    threshold: float | None = None
    #: share of the predictions that are far; a share of ``expected`` is usual
    far_share: float | None = None
    expected: float | None = None
    farthest: tuple[Far, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One comparison with the seed."""

    #: what is compared: labels, length or meaning
    what: str
    #: with which texts
    of: str
    #: how many of the seed and how many of the others were compared
    seed: int
    others: int
    #: the distance; None where there are too few to say
    distance: float | None
    #: what chance alone would exceed one time in twenty, and how often it would reach the distance
    chance: float | None
    p_value: float | None
    #: the same in words
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything, of one model at one time."""

    model: str
    at: str
    #: the live version, by which texts were compared; None where there is none
    version: str | None
    examples: int
    labels: tuple[LabelCount, ...]
    origins: tuple[Count, ...]
    trust: tuple[Count, ...]
    scripts: Scripts
    duplicates: Duplicates
    refused: Refused
    suspects: Suspects
    coverage: Coverage
    drift: tuple[Drift, ...]
