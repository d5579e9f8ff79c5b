"""Clusters of embeddings, the tool of several strategies: k-means on the unit sphere, in numpy alone.

Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory 28 (1982); started by k-means++: Arthur and
Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007; on the sphere: Dhillon and Modha, "Concept
Decompositions for Large Sparse Text Data using Clustering", Machine Learning 42 (2001).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.selection.base import Floats, Rows

Vectors = NDArray[np.float32]
_ROUNDS: Final = 10
_SAME: Final = 1e-6
"""A squared distance below which two vectors are one: what float32 leaves between equal ones."""


def start(seeds: NDArray[np.uint64]) -> tuple[Rows, np.random.Generator]:
    """Rows in the order of their seeds, and a generator that belongs to the set of seeds: order of arrival changes nothing."""
    rows: Rows = np.argsort(seeds, kind="stable").astype(np.int64)
    mixed = int(np.bitwise_xor.reduce(seeds.astype(np.uint64))) if len(seeds) else 0
    return rows, np.random.default_rng([mixed, len(seeds)])


def spread(factors: Sequence[NDArray[np.floating]], count: int, weights: Floats, rng: np.random.Generator) -> Rows:
    """Rows drawn one after the other, in proportion to weight and squared distance from the nearest drawn before.

    Args:
        factors: arrays of shape (rows, any size); a row's vector is the outer product of its parts, which need not be made.
        count: how many; fewer where there are fewer different vectors.
        weights: shape (rows,), not negative.
        rng: draws.
    """
    lengths = np.prod([np.einsum("ij,ij->i", factor, factor) for factor in factors], axis=0)
    distance = np.full(len(weights), np.inf)
    mass = np.asarray(weights, dtype=np.float64)
    drawn: list[int] = []
    while len(drawn) < count and (total := mass.sum()) > 0:
        row = int(np.searchsorted(np.cumsum(mass), rng.random() * total, side="right"))
        row = min(row, int(np.flatnonzero(mass)[-1]))  # rounding may lead past the last
        drawn.append(row)
        alike = np.prod([factor @ factor[row] for factor in factors], axis=0)
        distance = np.minimum(distance, lengths + lengths[row] - 2 * alike)
        distance[row] = 0.0
        mass = weights * np.where(distance < _SAME, 0.0, distance)
    return np.array(drawn, dtype=np.int64)


def clustered(vectors: Vectors, count: int, weights: Floats, rng: np.random.Generator) -> tuple[Rows, Vectors]:
    """The cluster of each row, and the centres of shape (clusters, size), rows of length 1.

    Args:
        vectors: shape (rows, size), rows of length 1.
        count: clusters wanted; fewer come where there are fewer different vectors.
        weights: shape (rows,), how much each row pulls its centre; not negative.
        rng: draws the first centres.
    """
    if not len(vectors) or count < 1:
        return np.zeros(len(vectors), np.int64), np.empty((0, vectors.shape[1]), np.float32)
    weights = weights if weights.any() else np.ones(len(vectors))
    centres = vectors[spread([vectors], count, weights, rng)]
    member = np.full(len(vectors), -1, np.int64)
    pull = vectors * weights[:, None].astype(np.float32)
    for _ in range(_ROUNDS):
        found = (vectors @ centres.T).argmax(axis=1)
        if (found == member).all():
            break
        member = found
        order = np.argsort(member, kind="stable")
        clusters, starts = np.unique(member[order], return_index=True)
        sums = np.add.reduceat(pull[order], starts, axis=0)
        lengths = np.linalg.norm(sums, axis=1)
        moved = lengths > 0  # of a cluster whose rows cancel out or weigh nothing, the centre stays
        centres[clusters[moved]] = sums[moved] / lengths[moved, None]
    return member, centres


def first_of_each(member: Rows, scores: Floats, lots: Floats) -> Rows:
    """The row of the highest score in each cluster; lots decide among equals."""
    order = np.lexsort((lots, -scores, member))
    _, starts = np.unique(member[order], return_index=True)
    rows: Rows = order[starts].astype(np.int64)
    return rows
