"""Strategies that choose what is most worth learning, one file each.

Entering one in ``STRATEGIES`` is what makes the contract tests run on it, and what makes a setting accept its name.
"""

from core.selection.badge import badge
from core.selection.base import ByScore, Candidates, Score, Selection, SelectionStrategy
from core.selection.class_balance import class_balance
from core.selection.combined import combined
from core.selection.core_set import core_set
from core.selection.disagreement import disagreement
from core.selection.entropy import entropy
from core.selection.forgetting import forgetting
from core.selection.k_means import k_means
from core.selection.least_confidence import least_confidence
from core.selection.margin import margin
from core.selection.random import random
from core.selection.ratio import ratio
from core.selection.relevance import relevance
from core.selection.typicality import typicality
from core.settings import entry

STRATEGIES: dict[str, SelectionStrategy] = {
    "badge": badge,
    "class_balance": class_balance,
    "combined": combined,
    "core_set": core_set,
    "disagreement": disagreement,
    "entropy": ByScore(entropy),
    "forgetting": forgetting,
    "k_means": k_means,
    "least_confidence": ByScore(least_confidence),
    "margin": ByScore(margin),
    "random": ByScore(random),
    "ratio": ByScore(ratio),
    "relevance": relevance,
    "typicality": typicality,
}


def get_strategy(name: str) -> SelectionStrategy:
    """The strategy of that name.

    Raises:
        BadSettings: no such strategy.
    """
    return entry(STRATEGIES, name, "selection strategy")


def get_score(name: str) -> Score:
    """What scores an example by itself: the strategy's own score or, where it only chooses among many, the margin.

    Raises:
        BadSettings: no such strategy.
    """
    strategy = get_strategy(name)
    return strategy.score if isinstance(strategy, ByScore) else margin


__all__ = [
    "STRATEGIES",
    "ByScore",
    "Candidates",
    "Score",
    "Selection",
    "SelectionStrategy",
    "get_score",
    "get_strategy",
]
