"""Diverse gradients."""

from typing import Final

import numpy as np

from core.selection.base import Candidates, Selection, best, ordered
from core.selection.clusters import spread, start

_MOST: Final = 5_000
"""Of more candidates the least certain are looked at; the others' gradients are next to nothing."""


def badge(candidates: Candidates, budget: int) -> Selection:
    """Drawn by k-means++ on the gradients that the head would get if the model's own answer were right.

    Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds" (BADGE), ICLR 2020, arXiv 1906.03671.
    An uncertain example has a long gradient, and examples of one kind have alike ones. The score is the lack of confidence.
    """
    doubt = 1.0 - candidates.probabilities.max(axis=1)
    rows = best(doubt, candidates, max(_MOST, budget)).rows
    by_seed, rng = start(candidates.seeds[rows])
    rows = rows[by_seed]
    pull = candidates.probabilities[rows].copy()
    pull[np.arange(len(rows)), pull.argmax(axis=1)] -= 1.0
    drawn = spread([pull, candidates.embeddings[rows]], budget, np.ones(len(rows)), rng)
    return ordered(rows[drawn], doubt, candidates, budget)
