"""Agreement among neighbours in embedding space.

Zhu, Dong and Liu, "Detecting Corrupted Labels Without Training a Model to Predict" (SimiFeat), ICML 2022, arXiv 2110.06283:
a label that the nearest neighbours don't share is suspect. Here votes fall off with distance, and each has its weight.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_NEIGHBOURS: Final = 30
_REACH: Final = 0.05
"""A neighbour so much less similar (cosine) than the nearest one votes with 1/e of its weight."""
_DOUBT: Final = 0.5
"""Votes that are spread over all labels, so that a lone neighbour is no certainty."""
_CHUNK: Final = 512


def neighbour_votes(
    embeddings: NDArray[np.float32],
    targets: NDArray[np.int64],
    weights: NDArray[np.float64],
    *,
    asked: NDArray[np.int64],
    labels: int,
) -> NDArray[np.float64]:
    """Shares of the votes, shape (asked, labels); nobody votes on itself.

    Args:
        embeddings: shape (examples, size), rows of length 1.
        targets: shape (examples,), label numbers.
        weights: shape (examples,), how much each example's vote counts.
        asked: shape (asked,), the rows to be voted on.
        labels: how many labels there are.
    """
    count = min(_NEIGHBOURS, len(embeddings) - 1)
    votes = np.zeros((len(asked), labels))
    for start in range(0, len(asked) if count > 0 else 0, _CHUNK):
        rows = asked[start : start + _CHUNK]
        here = np.arange(len(rows))[:, None]
        likeness = embeddings[rows] @ embeddings.T
        likeness[here[:, 0], rows] = -2.0
        nearest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        found = likeness[here, nearest]
        strength = np.exp((found - found.max(axis=1, keepdims=True)) / _REACH) * weights[nearest]
        np.add.at(votes, (start + here, targets[nearest]), strength)
    shares: NDArray[np.float64] = (votes + _DOUBT / labels) / (votes.sum(axis=1, keepdims=True) + _DOUBT)
    return shares
