"""Strategies that score how much an example is worth learning, one file each.

A strategy is a plain function from class probabilities to scores; entering one here is what makes the contract tests run on it.
"""

from core.settings import entry
from feedback.selection.base import SelectionStrategy
from feedback.selection.entropy import entropy
from feedback.selection.least_confidence import least_confidence
from feedback.selection.margin import margin
from feedback.selection.random import random

STRATEGIES: dict[str, SelectionStrategy] = {
    "entropy": entropy,
    "least_confidence": least_confidence,
    "margin": margin,
    "random": random,
}


def get_strategy(name: str) -> SelectionStrategy:
    """The strategy of that name.

    Raises:
        BadSettings: no such strategy.
    """
    return entry(STRATEGIES, name, "selection strategy")


__all__ = ["STRATEGIES", "SelectionStrategy", "get_strategy"]
