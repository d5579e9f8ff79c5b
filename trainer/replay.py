"""Which older examples are shown again."""

import random
from collections import defaultdict
from collections.abc import Sequence

from core.events import Example


def class_balanced(examples: Sequence[Example], count: int, rng: random.Random) -> list[Example]:
    """``count`` examples, taken from each label in turn, so that rare labels are replayed as often as common ones.

    Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019 (ring buffer per class), arXiv 1902.10486.
    """
    if count >= len(examples):
        return list(examples)
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_label[str(example.target)].append(example)
    queues = [rng.sample(found, len(found)) for _, found in sorted(by_label.items())]
    chosen: list[Example] = []
    while len(chosen) < count:
        rng.shuffle(queues)
        chosen += [queue.pop() for queue in queues[: count - len(chosen)]]
        queues = [queue for queue in queues if queue]
    return chosen
