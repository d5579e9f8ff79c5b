"""How far newer texts are from the seed, against what chance alone would make of it: permutation tests.

Which texts are the seed's is dealt anew many times; the share of the deals that are as far apart as the real ones is the
p value (Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 2005; one is added to both counts, as in Phipson and
Smyth, "Permutation P-values Should Never Be Zero", 2010).
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cli.data_report.record import Drift

FEWEST: Final = 50
"""Below so many texts on a side there is no comparison."""
_DEALS: Final = 499
_P: Final = 0.01
"""Several comparisons are made at once, so 5 % would find something by chance in every fifth report."""


def compare_labels(seed: Mapping[str, int], others: Mapping[str, int], *, of: str) -> Drift:
    """Total variation of the label distributions: half the sum of the differences of the shares, from 0 to 1."""
    names = sorted({*seed, *others})
    first = np.array([seed.get(name, 0) for name in names], dtype=np.int64)
    second = np.array([others.get(name, 0) for name in names], dtype=np.int64)
    counts = int(first.sum()), int(second.sum())
    if min(counts) < FEWEST:
        return _too_few("labels", of, counts)
    dealt = np.random.default_rng(0).multivariate_hypergeometric(
        first + second, counts[0], size=_DEALS, method="marginals"
    )
    rest = (first + second) - dealt
    by_chance = 0.5 * np.abs(dealt / counts[0] - rest / counts[1]).sum(axis=1)
    distance = float(0.5 * np.abs(first / counts[0] - second / counts[1]).sum())
    furthest = int(np.argmax(np.abs(first / counts[0] - second / counts[1])))
    moved = f"{_short(names[furthest])} {first[furthest] / counts[0]:.1%} → {second[furthest] / counts[1]:.1%}"
    words = f"{distance:.0%} of them would need another label to be distributed as the seed; the most: {moved}"
    return _tested("labels", of, counts, distance, by_chance, words)


def compare_lengths(seed: NDArray[np.int64], others: NDArray[np.int64], *, of: str) -> Drift:
    """Kolmogorov and Smirnov's distance of the text lengths (characters): the largest gap of the distributions, 0 to 1."""
    counts = len(seed), len(others)
    if min(counts) < FEWEST:
        return _too_few("text length", of, counts)
    values, place = np.unique(np.concatenate([seed, others]), return_inverse=True)
    totals = np.bincount(place, minlength=len(values))
    first = np.bincount(place[: counts[0]], minlength=len(values))
    dealt = np.random.default_rng(0).multivariate_hypergeometric(totals, counts[0], size=_DEALS, method="marginals")

    def gap(taken: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.abs(np.cumsum(taken / counts[0] - (totals - taken) / counts[1], axis=-1)).max(
            axis=-1
        )
        return found

    words = (
        f"half of the seed's texts are longer than {np.median(seed):.0f} characters, of these {np.median(others):.0f}"
    )
    return _tested("text length", of, counts, float(gap(first)), gap(dealt), words)


def compare_meanings(seed: NDArray[np.float32], others: NDArray[np.float32], *, of: str) -> Drift:
    """Distance of the mean embeddings, each of shape (texts, size) with rows of length 1: from 0 to 2."""
    counts = len(seed), len(others)
    if min(counts) < FEWEST:
        return _too_few("meaning", of, counts)
    both = np.concatenate([seed, others]).astype(np.float64)
    rng = np.random.default_rng(0)
    total = both.sum(axis=0)
    by_chance = np.empty(_DEALS)
    for deal in range(_DEALS):
        taken = both[rng.permutation(len(both))[: counts[0]]].sum(axis=0)
        by_chance[deal] = np.linalg.norm(taken / counts[0] - (total - taken) / counts[1])
    distance = float(np.linalg.norm(seed.mean(axis=0, dtype=np.float64) - others.mean(axis=0, dtype=np.float64)))
    return _tested("meaning", of, counts, distance, by_chance, "the mean embeddings are so far apart")


def _tested(
    what: str, of: str, counts: tuple[int, int], distance: float, by_chance: NDArray[np.float64], words: str
) -> Drift:
    chance = float(np.quantile(by_chance, 0.95))
    p_value = float((1 + np.count_nonzero(by_chance >= distance - 1e-12)) / (_DEALS + 1))
    verdict = "more than chance explains" if p_value <= _P else "no more than chance may make"
    return Drift(
        what=what,
        of=of,
        seed=counts[0],
        others=counts[1],
        distance=round(distance, 4),
        chance=round(chance, 4),
        p_value=round(p_value, 4),
        meaning=f"{verdict}: {words}",
    )


def _too_few(what: str, of: str, counts: tuple[int, int]) -> Drift:
    meaning = f"too few to compare: it takes {FEWEST} of each"
    return Drift(
        what=what, of=of, seed=counts[0], others=counts[1], distance=None, chance=None, p_value=None, meaning=meaning
    )


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"
