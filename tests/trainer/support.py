"""Examples for training: texts made of words that belong to their label."""

import random

from core.events import Example, Origin, Split, new_id, now
from core.examples import ExampleStore


def example(
    text: str,
    label: str,
    *,
    seq: int = 0,
    origin: Origin = Origin.SEED,
    split: Split = Split.TRAIN,
    selected: bool = True,
) -> Example:
    """One example."""
    return Example(
        example_id=new_id().replace("-", ""), seq=seq, task="text_classification", inputs={"text": text}, target=label,
        origin=origin, split=split, selected=selected,
    )  # fmt: skip


def texts(label: str, count: int, *, seed: int = 0) -> list[str]:
    """Texts of five words of the label's own vocabulary (labels are named by one of the letters a to f)."""
    rng = random.Random(f"{label}{seed}")
    return [" ".join(f"{label}{rng.randrange(12)}" for _ in range(5)) for _ in range(count)]


def fill(
    store: ExampleStore, labels: str, *, each: int, origin: Origin = Origin.SEED, holdout: int = 3, seed: int = 0
) -> None:
    """Store examples of some labels, the first ``holdout`` of each held out."""
    with store.transaction() as transaction:
        for label in labels:
            for number, text in enumerate(texts(label, each, seed=seed)):
                split = Split.HOLDOUT if number < holdout else Split.TRAIN
                transaction.put_example(
                    example(text, label, origin=origin, split=split), target_at=now(), target_by="t"
                )
