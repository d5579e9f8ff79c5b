"""Best against second best, as a ratio."""

import numpy as np
from numpy.typing import NDArray

from core.selection.base import Floats


def ratio(probabilities: Floats, *, seeds: NDArray[np.uint64]) -> Floats:
    """The probability of the second label as a share of the best one's: the margin between their logits.

    Settles (see :mod:`core.selection.entropy`), section 3.1, names margin and ratio as one idea. They differ where a model of
    many labels is sure of nothing: a small difference of small probabilities is no doubt between two labels.
    """
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    ranked = np.sort(probabilities, axis=1)
    found: Floats = ranked[:, -2] / ranked[:, -1]
    return found
