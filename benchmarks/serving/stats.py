"""Quantiles, ratios with their spread, and slopes."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.float64]


def quantile(values: Values, share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed (nearest rank); NaN where there is none.

    No interpolation: a p99 between two answers is an answer that nobody got.
    """
    if not len(values):
        return math.nan
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)])


def latency_summary(seconds: Values) -> dict[str, float]:
    """Quantiles, mean and maximum in milliseconds, of latencies in seconds."""
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    found = {name: round(quantile(seconds, share) * 1e3, 3) for name, share in shares.items()}
    return {**found, "mean": round(float(np.mean(seconds)) * 1e3, 3) if len(seconds) else math.nan}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over rounds: the median, its range, and a 95 % bootstrap interval of the median."""

    median: float
    low: float
    high: float
    interval: tuple[float, float]
    rounds: int

    def document(self) -> dict[str, Any]:
        """It as JSON."""
        return asdict(self)


def spread(values: Values, *, resamples: int = 2000, seed: int = 0) -> Spread:
    """Median, range and percentile-bootstrap interval (Efron 1979) of one figure a round."""
    found = np.asarray(values, dtype=np.float64)
    if not len(found) or not np.isfinite(found).all():
        return Spread(median=math.nan, low=math.nan, high=math.nan, interval=(math.nan, math.nan), rounds=len(found))
    draws = np.random.default_rng(seed).choice(found, size=(resamples, len(found)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Spread(
        median=float(np.median(found)), low=float(found.min()), high=float(found.max()),
        interval=(float(low), float(high)), rounds=len(found),
    )  # fmt: skip


def ratio(ours: Values, theirs: Values) -> Spread:
    """Ours over theirs, round by round: what disturbs a whole round disturbs both, and drops out.

    Raises:
        ValueError: the rounds are not paired.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds against {len(theirs)}: only paired rounds can be compared")
    return spread(np.asarray(ours, dtype=np.float64) / np.asarray(theirs, dtype=np.float64))


def difference(ours: Values, theirs: Values) -> Spread:
    """Ours minus theirs, round by round. Raises ValueError as :func:`ratio`."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds against {len(theirs)}: only paired rounds can be compared")
    return spread(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class Slope:
    """A straight line through measurements: growth per step, its standard error, and where it starts."""

    per_step: float
    error: float
    start: float
    points: int


def slope(steps: Values, values: Values) -> Slope:
    """Least squares. Raises ValueError for fewer than three points."""
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(x) < 3 or len(x) != len(y):
        raise ValueError(f"a slope needs three points or more, got {len(x)} steps and {len(y)} values")
    centred = x - x.mean()
    scale = float(centred @ centred)
    per_step = float(centred @ y) / scale
    start = float(y.mean() - per_step * x.mean())
    rest = y - (start + per_step * x)
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / scale)
    return Slope(per_step=per_step, error=error, start=start, points=len(x))
