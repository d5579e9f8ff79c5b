"""Repair of what users and apps send: encoding, control characters, white space."""

import unicodedata
from typing import Any, Final

import ftfy

from core.events import Inputs

_JOINERS: Final = "\u200c\u200d"
"""Persian words and many emoji are spelt with these, so within a word they stay."""


def clean(inputs: Inputs) -> Inputs:
    """The inputs with every text repaired; a text that held nothing comes back empty."""
    return {name: _clean(value) for name, value in inputs.items()}


def _clean(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    repaired = "".join(_visible(char) for char in ftfy.fix_text(value))
    words = (word.strip(_JOINERS) for word in repaired.split())
    return " ".join(word for word in words if word)


def _visible(char: str) -> str:
    """Tabs and line ends part words; marks without width (soft hyphens, say) stand inside of them."""
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    return "" if category in ("Cf", "Cs") and char not in _JOINERS else char
