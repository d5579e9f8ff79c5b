"""The seam between Ratchet and a kind of task."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from core.events import Inputs, Target

Output = dict[str, Any]
"""A task's answer as it goes into the HTTP response and the Prediction record."""


class Task(Protocol):
    """What a task kind knows without torch."""

    name: str
    #: the fields of a request, in order
    input_fields: tuple[str, ...]
    #: the field that carries the target in a feedback request
    target_field: str

    def parse_inputs(self, raw: Mapping[str, Any], *, max_chars: int) -> Inputs:
        """Check the fields and keep only them. Raises InvalidInput, naming field and fault."""
        ...

    def parse_target(self, raw: Any) -> Target:
        """Check a target. Raises InvalidTarget."""
        ...

    def text_of(self, inputs: Inputs) -> str | tuple[str, str]:
        """What the tokenizer gets: a text or a pair."""
        ...

    def decode(self, logits: NDArray[np.float32], labels: Sequence[str]) -> list[Output]:
        """Answers from logits of shape (texts, labels)."""
        ...

    def confidence_of(self, output: Output) -> float:
        """The probability, 0 to 1, that the model gives its own answer."""
        ...

    def target_of(self, output: Output) -> Target:
        """The target that an output amounts to, for confirmations and for comparing with a target."""
        ...

    def score(self, answers: Sequence[Target], targets: Sequence[Target]) -> dict[str, Any]:
        """Metrics of answers against targets: ``accuracy`` first, then what the task adds, and ``per_label``."""
        ...
