"""The seam of a selection strategy: what it may look at, and what it answers."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Candidates:
    """Examples to choose from, as the live model sees them, and what is labelled already.

    Everything beyond the first four fields may be missing; a strategy says what it does without.
    """

    #: shape (examples, labels), at least one label, rows that sum to 1
    probabilities: Floats
    #: shape (examples, size), rows of length 1
    embeddings: NDArray[np.float32]
    #: shape (examples,), a number that belongs to each example: lots are drawn by it, so order changes nothing
    seeds: NDArray[np.uint64]
    #: shape (labelled, size): embeddings of the labelled examples, of the same graph
    labelled: NDArray[np.float32]
    #: shape (labelled,): their columns of ``probabilities``
    labelled_targets: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    #: labelled examples in all, where ``labelled`` holds only some of them; None: it holds all
    labelled_count: int | None = None
    #: shape (examples,): the candidates' own columns, where the answer is known (a run that chooses what it trains on)
    targets: Rows | None = None
    #: shape (examples, labels): what an earlier model said of the candidates
    earlier: Floats | None = None
    #: shape (texts, size): embeddings of recent traffic
    traffic: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def lots(self) -> Floats:
        """Shape (examples,): a number from 0 to 1 drawn for each, the same one whenever it is asked for again."""
        return lots(self.seeds)

    @property
    def labels(self) -> Rows:
        """Shape (examples,): the known answer's column, else that of the model's best."""
        found: Rows = self.probabilities.argmax(axis=1) if self.targets is None else self.targets
        return found


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Selection:
    """Rows that are chosen, best first, with a score from 0 (nothing to learn) to 1 for each."""

    rows: Rows
    scores: Floats


class SelectionStrategy(Protocol):
    """Chooses what is most worth learning, or most worth a human answer."""

    def __call__(self, candidates: Candidates, budget: int) -> Selection:
        """Choose at most ``budget`` candidates (as many as there are, if they are fewer), none twice.

        The choice is a function of the candidates as a set: the same whatever their order, and at every call.
        """
        ...


class Score(Protocol):
    """Scores each example by itself, from 0 (nothing to learn) to 1 (most to learn)."""

    def __call__(self, probabilities: Floats, *, seeds: NDArray[np.uint64]) -> Floats:
        """Shape (examples,) from probabilities of shape (examples, labels) and the numbers that lots are drawn by."""
        ...


def lots(seeds: NDArray[np.uint64]) -> Floats:
    """A number from 0 to 1 for each seed: the mixing step of SplitMix64, whose output is uniform.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
    """
    mixed = seeds.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def best(scores: Floats, candidates: Candidates, budget: int) -> Selection:
    """The highest scores; lots decide among equals."""
    rows: Rows = np.lexsort((candidates.lots, -scores))[: max(0, budget)].astype(np.int64)
    return Selection(rows=rows, scores=scores[rows])


def ordered(rows: Rows, scores: Floats, candidates: Candidates, budget: int) -> Selection:
    """Those rows by falling score; where they are fewer than the budget, the best of the others behind them."""
    chosen: Rows = rows[np.lexsort((candidates.lots[rows], -scores[rows]))][: max(0, budget)]
    if len(chosen) < min(budget, len(candidates)):
        left = np.ones(len(candidates), dtype=bool)
        left[chosen] = False
        others = np.flatnonzero(left)
        more = others[np.lexsort((candidates.lots[others], -scores[others]))][: budget - len(chosen)]
        chosen = np.concatenate([chosen, more])
    return Selection(rows=chosen.astype(np.int64), scores=scores[chosen])


@dataclass(frozen=True, slots=True)
class ByScore:
    """The strategy that takes the highest scores of a function that scores each example by itself."""

    score: Score

    def __call__(self, candidates: Candidates, budget: int) -> Selection:
        """As :class:`SelectionStrategy`."""
        return best(self.score(candidates.probabilities, seeds=candidates.seeds), candidates, budget)
