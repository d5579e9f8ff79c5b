"""Coverage by the greedy k-centre."""

import numpy as np

from core.selection.base import Candidates, Selection


def core_set(candidates: Candidates, budget: int) -> Selection:
    """One after the other, the example farthest from everything that is labelled or chosen.

    Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018, arXiv 1708.00489
    (the greedy k-centre). Its score is the distance at the time of the choice, as a share of the greatest possible.
    """
    vectors = candidates.embeddings
    nearest = np.full(len(candidates), -1.0)
    if len(candidates.labelled):
        nearest = (vectors @ candidates.labelled.T).max(axis=1).astype(np.float64)
    rows, scores = [], []
    for _ in range(min(budget, len(candidates))):
        row = int(np.lexsort((candidates.lots, nearest))[0])
        rows.append(row)
        scores.append((1.0 - nearest[row]) / 2)
        nearest = np.maximum(nearest, vectors @ vectors[row])
        nearest[rows] = np.inf
    return Selection(rows=np.array(rows, np.int64), scores=np.clip(np.array(scores, np.float64), 0.0, 1.0))
