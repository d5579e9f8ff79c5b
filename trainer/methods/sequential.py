"""Plain sequential fine-tuning: only the new examples. The baseline that forgets; kept to be measured against."""

import random
from collections.abc import Sequence

from core.events import Example
from trainer.methods.base import Budget, WithReplay


class Sequential(WithReplay):
    """McCloskey and Cohen, "Catastrophic Interference in Connectionist Networks", 1989, describe what it does."""

    name = "sequential"

    def choose(
        self, new: Sequence[Example], old: Sequence[Example], *, budget: Budget, rng: random.Random
    ) -> list[Example]:
        """None."""
        return []
