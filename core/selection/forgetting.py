"""What training is about to lose."""

import numpy as np

from core.selection.base import Candidates, Selection, best
from core.selection.margin import margin


def forgetting(candidates: Candidates, budget: int) -> Selection:
    """How much less probable the answer has become than it was to an earlier model.

    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019, arXiv 1812.05159,
    with a difference of probabilities in place of counted events, as in Aljundi et al., "Online Continual Learning with
    Maximally Interfered Retrieval", NeurIPS 2019, arXiv 1908.04742. Where the answer is not known, it is the earlier model's.
    Without an earlier model it is :func:`margin`: near the boundary is what is forgotten first.
    """
    now, before = candidates.probabilities, candidates.earlier
    if before is None:
        return best(margin(now, seeds=candidates.seeds), candidates, budget)
    answers = before.argmax(axis=1) if candidates.targets is None else candidates.targets
    rows = np.arange(len(now))
    return best(np.clip(before[rows, answers] - now[rows, answers], 0.0, 1.0), candidates, budget)
