"""The seam of a continual-learning method: choose the data, add to the loss, consolidate."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from core.events import Example
from trainer.classifier import Classifier
from trainer.replay import class_balanced


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many older examples a run may show again: ``ratio`` for each new one, but at least ``minimum``."""

    ratio: float
    minimum: int

    def for_new(self, count: int) -> int:
        """The number for ``count`` new examples."""
        return max(round(self.ratio * count), self.minimum)


class ContinualMethod(Protocol):
    """A way to learn new examples without forgetting the old ones."""

    name: str

    def choose(
        self, new: Sequence[Example], old: Sequence[Example], *, budget: Budget, rng: random.Random
    ) -> list[Example]:
        """The older examples that are trained on together with the new ones."""
        ...

    def penalty(self, model: Classifier, parent: Classifier) -> Tensor | None:
        """A scalar that each step adds to its loss; None for nothing."""
        ...

    def consolidate(self, model: Classifier, parent: Classifier) -> None:
        """Change the trained model in place, before its head is refitted and it is exported."""
        ...


class WithReplay:
    """Class-balanced replay and nothing else: what most methods start from."""

    def choose(
        self, new: Sequence[Example], old: Sequence[Example], *, budget: Budget, rng: random.Random
    ) -> list[Example]:
        """A class-balanced sample of the older examples."""
        return class_balanced(old, budget.for_new(len(new)), rng)

    def penalty(self, model: Classifier, parent: Classifier) -> Tensor | None:
        """Nothing."""
        return None

    def consolidate(self, model: Classifier, parent: Classifier) -> None:
        """Nothing."""
