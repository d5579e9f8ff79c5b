"""Small statistics that more than one program needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Z_95_ONE_SIDED: Final = 1.6448536269514722
Z_95_TWO_SIDED: Final = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How two models differ on the same texts; positive where the first is better."""

    #: texts
    count: int
    #: only the first was right
    gained: int
    #: only the second was right
    lost: int

    @property
    def estimate(self) -> float:
        """Accuracy of the first minus that of the second."""
        return (self.gained - self.lost) / self.count if self.count else 0.0

    def lower_bound(self, z: float = Z_95_ONE_SIDED) -> float:
        """Lower confidence bound of the difference of two paired proportions, with two pseudo-pairs.

        Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
        data", Journal of Educational and Behavioral Statistics 37 (2012).
        """
        total = self.count + 2
        gained, lost = (self.gained + 1) / total, (self.lost + 1) / total
        spread = math.sqrt(max(gained + lost - (gained - lost) ** 2, 0.0) / total)
        return gained - lost - z * spread


def compare(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Compare two models by whether each was right on the same texts."""
    pairs = list(zip(first, second, strict=True))
    return PairedDifference(
        count=len(pairs),
        gained=sum(one and not other for one, other in pairs),
        lost=sum(other and not one for one, other in pairs),
    )


def wilson_interval(right: float, count: float, z: float = Z_95_TWO_SIDED) -> tuple[float, float]:
    """Confidence interval of a proportion. Wilson, "Probable inference", JASA 22 (1927)."""
    if count == 0:
        return 0.0, 1.0
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - spread), min(1.0, middle + spread)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share estimated from a sample, with its 95 % interval."""

    #: answers in the sample
    count: int
    #: as many answers of equal weight would say as much
    effective: float
    share: float
    low: float
    high: float


def estimate_share(right: Sequence[bool], probabilities: Sequence[float]) -> Estimate:
    """The share of a whole from a sample whose members were each drawn with a probability of their own.

    Each counts the inverse of its probability (Horvitz and Thompson, JASA 47, 1952), the share is that of the total weight
    (Hájek's ratio, which is steadier), and the interval is Wilson's for Kish's effective sample size (Survey Sampling, 1965).

    Args:
        right: whether each member has what is counted.
        probabilities: with which each was drawn; above 0.
    """
    weights = [1.0 / probability for probability in probabilities]
    total, squares = sum(weights), sum(weight * weight for weight in weights)
    if not total:
        return Estimate(count=0, effective=0.0, share=0.0, low=0.0, high=1.0)
    share = sum(weight for weight, is_right in zip(weights, right, strict=True) if is_right) / total
    effective = total * total / squares
    low, high = wilson_interval(share * effective, effective)
    return Estimate(count=len(weights), effective=effective, share=share, low=low, high=high)
