"""Where two voices differ: the model and the person who corrected it, or the model and the labelled neighbours."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.selection.base import Candidates, Floats, Rows, Selection, best

_NEIGHBOURS: Final = 10
_STEP: Final = 2048


def disagreement(candidates: Candidates, budget: int) -> Selection:
    """How likely two voices answer differently, each by its probabilities.

    Where the answer is known (an example that was corrected), the second voice is that answer. Where it is not, it is the ten
    nearest labelled examples: a committee of two, as in Seung, Opper and Sompolinsky, "Query by Committee", COLT 1992. Without
    labelled examples it is the model once more.
    """
    said = candidates.probabilities
    if candidates.targets is not None:
        agreed: Floats = said[np.arange(len(said)), candidates.targets]
    elif len(candidates.labelled):
        votes = neighbours(candidates.embeddings, candidates.labelled, candidates.labelled_targets, said.shape[1])
        agreed = np.einsum("ij,ij->i", said, votes)
    else:
        agreed = np.einsum("ij,ij->i", said, said)
    return best(np.clip(1.0 - agreed, 0.0, 1.0), candidates, budget)


def neighbours(
    vectors: NDArray[np.float32], labelled: NDArray[np.float32], targets: Rows, labels: int
) -> NDArray[np.float64]:
    """Shape (rows, labels): how the nearest labelled examples vote, each by the square of its likeness."""
    votes = np.zeros((len(vectors), labels))
    count = min(_NEIGHBOURS, len(labelled))
    for begin in range(0, len(vectors), _STEP):
        alike = vectors[begin : begin + _STEP] @ labelled.T
        nearest = np.argpartition(alike, -count, axis=1)[:, -count:]
        weight = np.square(np.take_along_axis(alike, nearest, axis=1).astype(np.float64)) + 1e-12
        rows = np.repeat(np.arange(len(alike)), count) + begin
        np.add.at(votes, (rows, targets[nearest].ravel()), weight.ravel())
    shares: Floats = votes / votes.sum(axis=1, keepdims=True)
    return shares
