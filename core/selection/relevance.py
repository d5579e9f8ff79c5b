"""Likeness to what users send of late."""

from typing import Final

import numpy as np

from core.selection.base import Candidates, Floats, Selection, best
from core.selection.clusters import Vectors

_NEIGHBOURS: Final = 10
_STEP: Final = 2048


def relevance(candidates: Candidates, budget: int) -> Selection:
    """More like recent traffic than like what is labelled already.

    Moore and Lewis, "Intelligent Selection of Language Model Training Data", ACL 2010, with mean likeness to the ten nearest in
    place of cross-entropy. Without recent traffic, the candidates themselves are it.
    """
    traffic = candidates.embeddings if candidates.traffic is None else candidates.traffic
    gain = _likeness(candidates.embeddings, traffic) - _likeness(candidates.embeddings, candidates.labelled)
    return best(np.clip((1.0 + gain) / 2, 0.0, 1.0), candidates, budget)


def _likeness(vectors: Vectors, others: Vectors) -> Floats:
    """Shape (rows,): the mean cosine to the nearest of the others; 0 where there are none."""
    found = np.zeros(len(vectors))
    count = min(_NEIGHBOURS, len(others))
    for begin in range(0, len(vectors) if count else 0, _STEP):
        alike = vectors[begin : begin + _STEP] @ others.T
        found[begin : begin + _STEP] = np.partition(alike, -count, axis=1)[:, -count:].mean(axis=1)
    return found
