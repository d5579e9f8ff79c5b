"""The default: what is typical while little is labelled, then what is uncertain, spread over its clusters."""

from typing import Final

from core.selection.base import Candidates, Selection
from core.selection.k_means import k_means
from core.selection.typicality import typicality

_COLD: Final = 1.0
"""Below so many labelled examples a label, the model's doubt says little, and the typical come first."""


def combined(candidates: Candidates, budget: int) -> Selection:
    """:func:`typicality` at the very start, then :func:`k_means`.

    That typical examples suit few labels and uncertain ones many is from Hacohen et al. (see :mod:`core.selection.typicality`);
    what was tried beside it is in docs/decisions/0016-selection.md.
    """
    known = len(candidates.labelled) if candidates.labelled_count is None else candidates.labelled_count
    is_cold = known < _COLD * candidates.probabilities.shape[1]
    return typicality(candidates, budget) if is_cold else k_means(candidates, budget)
