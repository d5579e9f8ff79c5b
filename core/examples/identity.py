"""What makes two inputs the same example, and which split an example belongs to."""

import hashlib
import hmac
import json
import unicodedata
from typing import Any, Final

from core.events import Inputs, Split

ALWAYS_TRAINED: Final = 5
"""A label's first seeds go to train, or a rare label could never be learned."""


def normalise(inputs: Inputs) -> Inputs:
    """The inputs with what does not change their meaning taken out: Unicode form, case, runs of white space."""
    return {name: _normalise(value) for name, value in sorted(inputs.items())}


def _normalise(value: Any) -> Any:
    if isinstance(value, str):
        folded = unicodedata.normalize("NFKC", value).casefold()
        return " ".join(unicodedata.normalize("NFKC", folded).split())  # folding takes some Greek letters apart
    return value


def example_id(key: bytes, *, model: str, task: str, inputs: Inputs) -> str:
    """Keyed HMAC-SHA256 (128 bits, hex) of model, task and normalised inputs: no digest of a bare text is ever kept."""
    document = json.dumps([model, task, normalise(inputs)], ensure_ascii=False, sort_keys=True)
    return hmac.new(key, document.encode(), hashlib.sha256).hexdigest()[:32]


def split_of(identity: str, *, holdout: float, validation: float) -> Split:
    """The split that an id draws; near-duplicates may set it aside.

    Args:
        identity: the example id.
        holdout: share that only judges.
        validation: share that only tunes.
    """
    place = int(identity[-8:], 16) / 0x1_0000_0000
    if place < holdout:
        return Split.HOLDOUT
    return Split.VALIDATION if place < holdout + validation else Split.TRAIN
