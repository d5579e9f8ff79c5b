"""One text in, one label of many out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from core.errors import InvalidInput, InvalidTarget
from core.events import Inputs
from core.tasks.base import Output

TOP: Final = 5
MAX_LABEL_CHARS: Final = 200


class TextClassification:
    """``{"text": …}`` → ``label``, ``score`` and the ``top`` five labels with their probabilities."""

    name = "text_classification"
    input_fields: tuple[str, ...] = ("text",)
    target_field = "label"

    def parse_inputs(self, raw: Mapping[str, Any], *, max_chars: int) -> Inputs:
        """Check the text. Raises InvalidInput."""
        unknown = sorted(set(raw) - set(self.input_fields))
        if unknown:
            raise InvalidInput(f"unknown field {unknown[0]!r}; this task takes: text")
        if "text" not in raw:
            raise InvalidInput("the field 'text' is missing")
        text = raw["text"]
        if not isinstance(text, str):
            raise InvalidInput(f"'text' must be a string, got {_json_type(text)}")
        if not text.strip():
            raise InvalidInput("'text' is empty")
        if len(text) > max_chars:
            raise InvalidInput(f"'text' has {len(text)} characters; at most {max_chars} are allowed")
        _refuse_unencodable(text, "text")
        return {"text": text}

    def parse_target(self, raw: Any) -> str:
        """Check a label. Raises InvalidTarget."""
        if not isinstance(raw, str):
            raise InvalidTarget(f"'label' must be a string, got {_json_type(raw)}")
        label = raw.strip()
        if not label:
            raise InvalidTarget("'label' is empty")
        if len(label) > MAX_LABEL_CHARS:
            raise InvalidTarget(f"'label' has {len(label)} characters; at most {MAX_LABEL_CHARS} are allowed")
        if not label.isprintable():
            raise InvalidTarget("'label' has characters that cannot be printed")
        return label

    def text_of(self, inputs: Inputs) -> str:
        """The text."""
        return str(inputs["text"])

    def decode(self, logits: NDArray[np.float32], labels: Sequence[str]) -> list[Output]:
        """Softmax, best label first."""
        if not len(logits):
            return []
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
        # Rounded as doubles, so that JSON shows six digits; all at once, as a number by itself costs as much as a row.
        scores = np.take_along_axis(probabilities, best, axis=1).astype(np.float64)
        rounded = np.minimum(scores, 1.0).round(6)
        outputs: list[Output] = []
        for columns, row in zip(best.tolist(), rounded.tolist(), strict=True):
            top = [{"label": labels[column], "score": score} for column, score in zip(columns, row, strict=True)]
            outputs.append({**top[0], "top": top})
        return outputs

    def confidence_of(self, output: Output) -> float:
        """The best label's probability."""
        return float(output["score"])

    def target_of(self, output: Output) -> str:
        """The best label."""
        return str(output["label"])

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, Any]:
        """Accuracy, macro F1 over the labels that occur as targets, and recall and support of each."""
        if len(answers) != len(targets):
            raise ValueError(f"{len(answers)} answers for {len(targets)} targets")
        right = Counter(target for answer, target in zip(answers, targets, strict=True) if answer == target)
        support, answered = Counter(targets), Counter(answers)
        f1 = [2 * right[label] / (support[label] + answered[label]) for label in support]
        return {
            "accuracy": sum(right.values()) / len(targets) if targets else 0.0,
            "macro_f1": sum(f1) / len(f1) if f1 else 0.0,
            "count": len(targets),
            "per_label": {
                label: {"recall": right[label] / support[label], "support": support[label]} for label in sorted(support)
            },
        }


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        list: "an array",
        dict: "an object",
        str: "a string",
    }
    return names.get(type(value), type(value).__name__)


def _refuse_unencodable(text: str, field: str) -> None:
    """JSON may smuggle in lone surrogates, which no UTF-8 store can keep."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{field!r} is not valid Unicode: lone surrogate at character {error.start}") from error
