"""Typical examples of clusters that have no label yet."""

from typing import Final

import numpy as np

from core.selection.base import Candidates, Floats, Rows, Selection
from core.selection.clusters import Vectors, clustered, start

_NEIGHBOURS: Final = 20
_CLUSTERS: Final = 500
"""The paper's: more clusters than that are too small to have a typical member."""


def typicality(candidates: Candidates, budget: int) -> Selection:
    """The most typical example of each cluster, clusters with the fewest labels first, then the largest.

    Hacohen, Dekel and Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets" (TypiClust), ICML
    2022, arXiv 2202.02794. Typical is who is near to its nearest neighbours in the cluster; the score is that nearness.
    """
    by_seed, rng = start(candidates.seeds)
    vectors = np.concatenate([candidates.embeddings[by_seed], candidates.labelled])
    wanted = min(max(0, budget) + len(candidates.labelled), _CLUSTERS)
    member, _ = clustered(vectors, wanted, np.ones(len(vectors)), rng)
    score = _typical(vectors, member)
    free, taken = member[: len(by_seed)], member[len(by_seed) :]
    clusters = max(member.max(initial=-1) + 1, 1)
    labelled, size = np.bincount(taken, minlength=clusters), np.bincount(free, minlength=clusters)
    lots = candidates.lots[by_seed]
    order = np.lexsort((lots, -score[: len(by_seed)], free))
    turn = np.empty(len(by_seed), np.int64)  # a cluster's second example comes after all clusters' first
    turn[order] = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    rows: Rows = np.lexsort((lots, -size[free], turn + labelled[free]))[: max(0, budget)]
    return Selection(rows=by_seed[rows], scores=score[rows])


def _typical(vectors: Vectors, member: Rows) -> Floats:
    """Shape (rows,): the mean likeness to the nearest of the same cluster, from 0 to 1."""
    found = np.zeros(len(vectors))
    for cluster in np.unique(member):
        rows = np.flatnonzero(member == cluster)
        if len(rows) < 2:
            continue
        alike = vectors[rows] @ vectors[rows].T
        np.fill_diagonal(alike, -np.inf)
        count = min(_NEIGHBOURS, len(rows) - 1)
        found[rows] = np.partition(alike, -count, axis=1)[:, -count:].mean(axis=1)
    return np.clip((1.0 + found) / 2, 0.0, 1.0)
