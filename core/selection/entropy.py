"""Uncertainty sampling by entropy."""

import numpy as np
from numpy.typing import NDArray


def entropy(probabilities: NDArray[np.float64], *, seeds: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Shannon entropy of the labels, as a share of the greatest that so many labels can have.

    Settles, "Active Learning Literature Survey", University of Wisconsin-Madison, 2009, section 3.1.
    """
    labels = probabilities.shape[1]
    if labels < 2:
        return np.zeros(len(probabilities))
    logs = np.log(np.clip(probabilities, 1e-300, 1.0))
    found: NDArray[np.float64] = -(probabilities * logs).sum(axis=1) / np.log(labels)
    return np.clip(found, 0.0, 1.0)
