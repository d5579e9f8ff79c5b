"""Margin sampling."""

import numpy as np
from numpy.typing import NDArray


def margin(probabilities: NDArray[np.float64], *, seeds: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One minus the lead of the best label over the second.

    Scheffer, Decomain and Wrobel, "Active Hidden Markov Models for Information Extraction", IDA 2001.
    """
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    ranked = np.sort(probabilities, axis=1)
    lead: NDArray[np.float64] = 1.0 - (ranked[:, -1] - ranked[:, -2])
    return lead
