"""Diversity by clusters of what is uncertain."""

from typing import Final

import numpy as np

from core.selection.base import Candidates, Floats, Rows, Selection, best, ordered
from core.selection.clusters import clustered, first_of_each, start
from core.selection.margin import margin

_AHEAD: Final = 10
"""Of the most uncertain, so many times the budget are clustered: the paper's beta."""


def k_means(candidates: Candidates, budget: int) -> Selection:
    """The example nearest to the centre of each of ``budget`` clusters of the most uncertain, weighed by their uncertainty.

    Zhdanov, "Diverse mini-batch Active Learning", 2019, arXiv 1901.05954.
    """
    return choose(candidates, budget, margin(candidates.probabilities, seeds=candidates.seeds))


def choose(candidates: Candidates, budget: int, doubt: Floats) -> Selection:
    """The same by any ``doubt`` of shape (examples,), from 0 to 1."""
    rows: Rows = np.sort(best(doubt, candidates, max(0, budget) * _AHEAD).rows)
    by_seed, rng = start(candidates.seeds[rows])
    rows = rows[by_seed]
    vectors = candidates.embeddings[rows]
    member, centres = clustered(vectors, budget, doubt[rows], rng)
    near = np.einsum("ij,ij->i", vectors, centres[member]) if len(rows) and budget > 0 else doubt[rows]
    return ordered(rows[first_of_each(member, near, candidates.lots[rows])], doubt, candidates, budget)
