"""Random selection: what every other strategy must beat."""

import numpy as np
from numpy.typing import NDArray


def random(probabilities: NDArray[np.float64], *, seeds: NDArray[np.uint64]) -> NDArray[np.float64]:
    """A number drawn for each example, the same one whenever it is asked for again."""
    return np.array([np.random.default_rng(int(seed)).random() for seed in seeds])
