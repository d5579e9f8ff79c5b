"""The default: what is typical while little is labelled, then what is uncertain, spread over its clusters."""

from typing import Final

from core.selection.base import Candidates, Selection
from core.selection.k_means import choose
from core.selection.typicality import typicality

_COLD: Final = 1.0
"""Below so many labelled examples a label, the model's doubt says little, and the typical come first."""
_WIDE: Final = 20.0
_NARROW: Final = 4.0
"""Of the most uncertain, so many times the budget are clustered: wide at first, narrow once the model knows the labels."""
_FEW: Final = 3.0
_ENOUGH: Final = 12.0
"""Labelled examples a label between which the width falls."""


def combined(candidates: Candidates, budget: int) -> Selection:
    """:func:`typicality` at the very start, then :func:`k_means` of ever more uncertain examples.

    That typical examples suit few labels and uncertain ones many is from Hacohen et al. (see :mod:`core.selection.typicality`);
    the turning points were tuned on validation sets (docs/decisions/0016-selection.md).
    """
    known = len(candidates.labelled) if candidates.labelled_count is None else candidates.labelled_count
    each = known / candidates.probabilities.shape[1]
    if each < _COLD:
        return typicality(candidates, budget)
    share = min(1.0, max(0.0, (each - _FEW) / (_ENOUGH - _FEW)))
    return choose(candidates, budget, ahead=_WIDE + share * (_NARROW - _WIDE))
