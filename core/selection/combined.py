"""The default: what is typical while little is labelled, then what is uncertain, spread over its clusters."""

from typing import Final

from core.selection.base import Candidates, Selection
from core.selection.k_means import choose, k_means
from core.selection.ratio import ratio
from core.selection.typicality import typicality

_COLD: Final = 1
"""Below so many labelled examples a label, the model's doubt says little, and the typical come first."""
_WARM: Final = 10
"""From so many on, doubt between two labels is what is left, and their ratio tells it best."""


def combined(candidates: Candidates, budget: int) -> Selection:
    """:func:`typicality` at the very start, then :func:`k_means`: first of examples of little margin, later of an even ratio.

    That typical examples suit few labels and uncertain ones many is from Hacohen et al. (see :mod:`core.selection.typicality`);
    what was tried beside it is in docs/decisions/0016-selection.md.
    """
    known = len(candidates.labelled) if candidates.labelled_count is None else candidates.labelled_count
    each = known / candidates.probabilities.shape[1]
    if each < _COLD:
        return typicality(candidates, budget)
    if each < _WARM:
        return k_means(candidates, budget)
    return choose(candidates, budget, ratio(candidates.probabilities, seeds=candidates.seeds))
