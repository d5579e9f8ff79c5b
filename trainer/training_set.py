"""What a run may look at, and what it was trained on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from core.bundle import TrainingSet
from core.events import Example, Origin, Split
from core.masking import Masker

_UNBIASED = (Origin.SEED, Origin.AUDIT)


@dataclass(frozen=True, kw_only=True)
class ExamplePool:
    """All examples of a run, by use. The holdout and the corrections are never trained on."""

    new: list[Example]
    old: list[Example]
    #: uniformly drawn: the seed's held-out part and the audits; the only thing that may earn a promotion
    holdout: list[Example]
    #: held-out corrections: what the champion got wrong, so they may only veto
    corrections: list[Example]
    #: the store's sequence number up to which the pool reaches
    through_seq: int

    @property
    def train(self) -> list[Example]:
        """Everything that may be trained on, old first."""
        return self.old + self.new

    def labels(self, known: Sequence[str]) -> list[str]:
        """The known labels in their order, then the new ones that have an example to learn from, by name."""
        found = {str(example.target) for example in self.train}
        return [*known, *sorted(found - set(known))]


def mask_examples(examples: Sequence[Example], masker: Masker) -> list[Example]:
    """The examples with masked inputs, as the manifest will say: a store older than masking holds them as they came.

    Targets stay: a label that an earlier version knows must not become another one.
    """
    return [example.model_copy(update={"inputs": masker.mask_inputs(example.inputs)}) for example in examples]


def make_pool(examples: Sequence[Example], *, after: int) -> ExamplePool:
    """Sort examples by use.

    Args:
        examples: everything in the store, in the order of sequence numbers.
        after: the sequence number up to which the parent's encoder has been trained.
    """
    train = [example for example in examples if example.split == Split.TRAIN]
    held = [example for example in examples if example.split == Split.HOLDOUT]
    return ExamplePool(
        new=[example for example in train if example.seq > after and example.selected],
        old=[example for example in train if example.seq <= after or not example.selected],
        holdout=[example for example in held if example.origin in _UNBIASED],
        corrections=[example for example in held if example.origin == Origin.CORRECTION],
        through_seq=examples[-1].seq if examples else 0,
    )


def describe(pool: ExamplePool, *, replayed: int, encoder_through_seq: int) -> tuple[TrainingSet, str]:
    """The manifest's entry, and the JSON with the ids that it is a digest of. The head sees every one of them."""
    ids = sorted(example.example_id for example in pool.train)
    document = json.dumps({"schema_version": 1, "example_ids": ids})
    entry = TrainingSet(
        count=len(ids),
        new=len(pool.new),
        replayed=replayed,
        digest=hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        through_seq=pool.through_seq,
        encoder_through_seq=encoder_through_seq,
    )
    return entry, document
