"""Every label in turn."""

import numpy as np

from core.selection.base import Candidates, Rows, Selection
from core.selection.margin import margin


def class_balance(candidates: Candidates, budget: int) -> Selection:
    """Labels with the fewest examples first, each time the least certain example of that (known or answered) label.

    After Bengar et al., "Class-Balanced Active Learning for Image Classification", WACV 2022, arXiv 2110.04543, with turns in
    place of their optimisation. The score is that of :func:`margin`.
    """
    scores = margin(candidates.probabilities, seeds=candidates.seeds)
    labels, lots = candidates.labels, candidates.lots
    order = np.lexsort((lots, -scores, labels))
    sizes = np.bincount(labels, minlength=candidates.probabilities.shape[1])
    turn = np.empty(len(order), np.int64)
    turn[order] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    had = np.bincount(candidates.labelled_targets, minlength=len(sizes))
    rows: Rows = np.lexsort((lots, -scores, turn + had[labels]))[: max(0, budget)].astype(np.int64)
    return Selection(rows=rows, scores=scores[rows])
