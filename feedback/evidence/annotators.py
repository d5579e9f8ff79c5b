"""How reliable each source is, by a Beta posterior over how often it is right.

Goh, Tkachenko and Mueller, "CROWDLAB: Supervised learning to infer consensus labels and quality scores for data with multiple
annotators", 2022, arXiv 2210.06812: the model is one more annotator, and each annotator is weighed by its agreement with the
consensus. With one annotator an example the consensus is the evidence of the others, so agreement counts by how sure that is.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_RIGHT, _WRONG = 18.0, 2.0
"""What is thought of a source that is not known: right nine times in ten, as if it had been seen twenty times."""
_MOST: Final = 2.0
"""A record moves the log-odds of a claim by at most so much: nobody is believed, or doubted, for the name alone."""


def reliability_log_odds(sources: NDArray[np.int64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each claim's source adds to the log-odds that the claim is right; a claim never vouches for itself.

    Args:
        sources: shape (claims,), source numbers from 0.
        right: shape (claims,), the probability by other evidence that each claim is right.
    """
    count = np.bincount(sources)[sources] - 1
    total = np.bincount(sources, weights=right)[sources] - right
    # Evidence is unsure of right claims too; what counts is how a source compares with all others.
    others = right.mean() if len(right) else 1.0
    share = np.clip(total / np.maximum(count, 1) / max(others, 1e-9) * _RIGHT / (_RIGHT + _WRONG), 0.0, 1.0)
    alpha, beta = _RIGHT + count * share, _WRONG + count * (1 - share)
    odds: NDArray[np.float64] = np.log(alpha / beta) - np.log(_RIGHT / _WRONG)
    return np.clip(odds, -_MOST, _MOST)


def capped_weights(sources: NDArray[np.int64], confusions: NDArray[np.int64], *, cap: float) -> NDArray[np.float64]:
    """Weights of shape (claims,): all that one source says of one confusion weighs at most ``cap`` examples.

    Beyond the cap the sum falls with every further claim: who repeats a thing fifty times shall not bear himself out by it.

    Args:
        sources: shape (claims,), source numbers from 0.
        confusions: shape (claims,), a number for each pair of the model's answer and the claimed target.
        cap: how many examples one source may weigh in one confusion.
    """
    pairs = sources * (int(confusions.max(initial=0)) + 1) + confusions
    _, group, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = np.minimum(1.0, cap / counts[group]) ** 2
    return weights
