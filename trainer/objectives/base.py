"""The seam of a task's torch half."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from core.events import Example
from trainer.classifier import Classifier

Row = dict[str, Any]
Batch = dict[str, Tensor]


class Objective(Protocol):
    """What training needs to know of a task."""

    task: str

    def row(self, example: Example, token_ids: Sequence[int], labels: Sequence[str]) -> Row:
        """One training row."""
        ...

    def collate(self, rows: Sequence[Row], *, pad: int) -> Batch:
        """Rows padded into one batch."""
        ...

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """The scalar to minimise on a batch."""
        ...
