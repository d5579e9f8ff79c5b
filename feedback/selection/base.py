"""The seam of a selection strategy."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SelectionStrategy(Protocol):
    """Scores from 0 (nothing to learn) to 1 (most to learn)."""

    def __call__(self, probabilities: NDArray[np.float64], *, seeds: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Score examples.

        Args:
            probabilities: shape (examples, labels), at least one label, rows that sum to 1.
            seeds: shape (examples,), a number that belongs to each example, for strategies that draw lots.

        Returns:
            Shape (examples,).
        """
        ...
