"""The computing budget: which of the new examples a run trains on, where there are more than it may take."""

import random
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.events import Example
from core.runtime import Servable
from core.selection import Candidates, get_strategy
from core.settings import Settings
from trainer.replay import class_balanced

_LOOKED_AT: Final = 5
"""Of very many, so many times the budget are embedded and looked at: what is not looked at costs nothing."""


def choose_new(
    examples: Sequence[Example],
    labels: Sequence[str],
    settings: Settings,
    *,
    servable: Servable | None,
    rng: random.Random,
) -> list[Example]:
    """At most ``run_examples`` examples, by ``run_selection``; the others are replayed by later runs.

    ``random``, and every strategy where there is no live model to ask, takes each label in turn.

    Args:
        examples: the new ones.
        labels: all labels; the live model's come first.
        settings: the budget and the strategy.
        servable: the live model.
        rng: draws.

    Raises:
        BadSettings: no such strategy.
    """
    budget = settings.run_examples
    if len(examples) <= budget or settings.run_selection == "random" or servable is None:
        return class_balanced(examples, budget, rng)
    looked_at = class_balanced(examples, _LOOKED_AT * budget, rng)
    logits, embeddings = servable.infer([example.inputs for example in looked_at])
    columns = {label: column for column, label in enumerate(labels)}
    candidates = Candidates(
        probabilities=_probabilities(logits, len(labels)),
        embeddings=embeddings,
        seeds=np.array([int(example.example_id[:15], 16) for example in looked_at], dtype=np.uint64),
        labelled=np.empty((0, embeddings.shape[1]), np.float32),
        labelled_count=servable.manifest.training_set.count,
        targets=np.array([columns[str(example.target)] for example in looked_at], dtype=np.int64),
    )
    return [looked_at[row] for row in get_strategy(settings.run_selection)(candidates, budget).rows]


def _probabilities(logits: NDArray[np.float32], labels: int) -> NDArray[np.float64]:
    """Shape (examples, labels); the labels that the live model does not know yet are impossible to it."""
    found = np.zeros((len(logits), labels))
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    found[:, : logits.shape[1]] = shifted / shifted.sum(axis=1, keepdims=True)
    return found
