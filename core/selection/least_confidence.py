"""Uncertainty sampling by the least confident answer."""

import numpy as np
from numpy.typing import NDArray


def least_confidence(probabilities: NDArray[np.float64], *, seeds: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One minus the probability of the best label.

    Lewis and Gale, "A Sequential Algorithm for Training Text Classifiers", SIGIR 1994, arXiv cmp-lg/9407020.
    """
    best: NDArray[np.float64] = probabilities.max(axis=1)
    return 1.0 - best
