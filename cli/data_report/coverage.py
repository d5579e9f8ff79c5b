"""Which recent texts are unlike all that is labelled: by the nearest labelled example, with a threshold from the examples."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FEWEST: Final = 50
"""Labelled examples, or predictions, below which there is no figure."""
EXPECTED: Final = 0.05
"""So many of the labelled examples themselves are farther from all others than the threshold."""
_CHUNK: Final = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class Reached:
    """How near each recent text is to what is labelled."""

    threshold: float
    #: cosines of shape (recent,) with the nearest labelled example
    likeness: NDArray[np.float32]

    @property
    def far_share(self) -> float:
        """Share of the recent texts that are farther than the threshold."""
        return float(np.mean(self.likeness < self.threshold))


def reach(labelled: NDArray[np.float32], recent: NDArray[np.float32]) -> Reached:
    """Compare with the nearest labelled example.

    Any number of examples may be given: the threshold is what is usual among just these, each against the rest.

    Args:
        labelled: shape (examples, size), at least two rows, of length 1.
        recent: shape (texts, size), rows of length 1.
    """
    among = _nearest(labelled, labelled, apart=True)
    threshold = float(np.quantile(among, EXPECTED))
    return Reached(threshold=threshold, likeness=_nearest(recent, labelled, apart=False))


def _nearest(rows: NDArray[np.float32], among: NDArray[np.float32], *, apart: bool) -> NDArray[np.float32]:
    """Each row's largest cosine; ``apart``: the rows are those of ``among``, and none counts for itself."""
    found = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        likeness = part @ among.T
        if apart:
            here = np.arange(len(part))
            likeness[here, start + here] = -2.0
        found[start : start + len(part)] = likeness.max(axis=1)
    return found
