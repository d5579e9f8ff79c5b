"""One score for each claim: what head and neighbours say without it, and how reliable its source has been.

Two rounds: in the second a claim bears others out only as far as it was itself believed in the first.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feedback.evidence.annotators import capped_weights, reliability_log_odds
from feedback.evidence.neighbours import neighbour_votes
from feedback.evidence.pushing import is_pushing
from feedback.evidence.ridge import left_out_probabilities

THRESHOLD: Final = 2.75
"""Log-odds against a claim above which it waits: 4 of 100 right ones on banking77 (benchmarks/LOG.md)."""
SOURCE_CAP: Final = 2.0
PUSHED: Final = 20.0
"""What is added against a claim whose source pushes its target: more than any evidence is worth."""
_FLOOR: Final = 1e-4
_EVEN: Final = 0.1
"""A claim of which the others make a probability so high counts half in the second round."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Trusted examples and claims as arrays.

    Attributes:
        embeddings: shape (trusted + claims, size), rows of length 1, the trusted examples first.
        targets: shape (trusted + claims,), label numbers.
        answers: shape (claims,), what the model that was live then had answered.
        sources: shape (claims,), source numbers from 0.
        labels: how many labels there are.
    """

    embeddings: NDArray[np.float32]
    targets: NDArray[np.int64]
    answers: NDArray[np.int64]
    sources: NDArray[np.int64]
    labels: int


def claim_scores(claims: Claims, *, cap: float = SOURCE_CAP) -> NDArray[np.float64]:
    """Shape (claims,): log-odds against each claim.

    Args:
        claims: what is claimed, and the trusted examples.
        cap: how many examples one source may weigh in one confusion of answer and target.
    """
    first = len(claims.targets) - len(claims.sources)
    targets, rows = claims.targets[first:], np.arange(len(claims.sources))
    weights = np.ones(len(claims.targets))
    capped = capped_weights(claims.sources, claims.answers * claims.labels + targets, cap=cap)
    pushed = is_pushing(claims.sources, targets)
    belief = np.ones(len(rows))
    for _ in range(2):
        weights[first:] = np.where(pushed, 0.0, capped * belief)
        head = left_out_probabilities(claims.embeddings, claims.targets, weights, labels=claims.labels)[first:]
        votes = neighbour_votes(claims.embeddings, claims.targets, weights, asked=first + rows, labels=claims.labels)
        found = (head + votes) / 2
        mine = found[rows, targets]
        belief = np.minimum(1.0, mine / (mine + _EVEN) / 0.9)
    rival = found.copy()
    rival[rows, targets] = 0.0
    against = np.log(rival.max(axis=1) + _FLOOR) - np.log(mine + _FLOOR)
    right = 1 / (1 + np.exp(against - THRESHOLD))
    scores: NDArray[np.float64] = against - reliability_log_odds(claims.sources, right) + PUSHED * pushed
    return scores
