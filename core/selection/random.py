"""Random selection: what every other strategy must beat."""

import numpy as np
from numpy.typing import NDArray

from core.selection.base import Floats, lots


def random(probabilities: Floats, *, seeds: NDArray[np.uint64]) -> Floats:
    """A number drawn for each example, the same one whenever it is asked for again."""
    return lots(seeds)
