"""Which labels may be wrong: confident learning on a head that was fitted on all examples but the one in question.

An example is suspect if, for a label that is not its own, the head is at least as sure of that label as it is on average
for the examples that have it. Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021, arXiv 1911.00068.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feedback.evidence.ridge import left_out_probabilities

FEWEST: Final = 5
"""Examples that a label needs before the head without one of them knows it."""


@dataclass(frozen=True, kw_only=True)
class Doubted:
    """A row whose label is suspect."""

    row: int
    likely: str
    margin: float


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """What was found."""

    examined: int
    passed_over: int
    #: the most suspect first
    rows: tuple[Doubted, ...]


def find_suspects(embeddings: NDArray[np.float32], labels: Sequence[str]) -> Doubts:
    """The rows with suspect labels, by how much surer the head is of another one.

    Args:
        embeddings: shape (examples, size), rows of length 1.
        labels: a label for each row.
    """
    counts = Counter(labels)
    names = sorted(name for name, count in counts.items() if count >= FEWEST)
    number = {name: place for place, name in enumerate(names)}
    kept = np.array([row for row, label in enumerate(labels) if label in number], dtype=np.int64)
    passed_over = len(labels) - len(kept)
    if len(names) < 2:
        return Doubts(examined=0, passed_over=len(labels), rows=())
    targets = np.array([number[labels[row]] for row in kept], dtype=np.int64)
    sure = left_out_probabilities(embeddings[kept], targets, np.ones(len(kept)), labels=len(names))
    own = sure[np.arange(len(kept)), targets]
    usual = np.bincount(targets, weights=own, minlength=len(names)) / np.bincount(targets, minlength=len(names))
    likely = np.where(sure >= usual, sure, -1.0).argmax(axis=1)
    margins = sure[np.arange(len(kept)), likely] - own
    found = np.flatnonzero((likely != targets) & (margins > 0))
    order = found[np.argsort(-margins[found], kind="stable")]
    rows = [Doubted(row=int(kept[at]), likely=names[likely[at]], margin=round(float(margins[at]), 4)) for at in order]
    return Doubts(examined=len(kept), passed_over=passed_over, rows=tuple(rows))
