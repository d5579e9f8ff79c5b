"""A source whose claims gather at one target far more than its share of all claims explains.

Chernoff's bound on the binomial tail (Hoeffding, "Probability Inequalities for Sums of Bounded Random Variables", JASA 1963):
the chance that a source which makes a share p of all claims makes k or more of the n claims of one target is at most
exp(-n KL(k/n, p)). A source that makes all claims, as where an app names no annotators, pushes nothing by that.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_FEWEST: Final = 4
_UNLIKELY: Final = 14.0
"""Minus the logarithm of a chance of about one in a million: there are thousands of pairs of source and target."""


def is_pushing(sources: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which claims, shape (claims,), are of a source that pushes their target.

    Args:
        sources: shape (claims,), source numbers from 0.
        targets: shape (claims,), label numbers.
    """
    share = np.bincount(sources)[sources] / max(1, len(sources))
    pairs = sources * (int(targets.max(initial=0)) + 1) + targets
    _, group, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    mine, all_of_target = counts[group], np.bincount(targets)[targets]
    found = mine / all_of_target
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = found * np.log(found / share) + np.where(
            found < 1, (1 - found) * np.log((1 - found) / (1 - share)), 0.0
        )
    pushing: NDArray[np.bool_] = (mine >= _FEWEST) & (found > share) & (all_of_target * apart > _UNLIKELY)
    return pushing
