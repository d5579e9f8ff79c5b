"""Repair of what users and apps send: encoding, markup, boiler-plate, control characters, white space.

What is repaired is how a text came, never what it says. The same text always gives the same one, and a clean one stays.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any, Final, Self

import ftfy

from core.errors import InvalidInput
from core.events import Inputs
from core.settings import Settings
from feedback.boilerplate import without_boilerplate
from feedback.markup import strip_markup
from feedback.scripts import foreign_script

_JOINERS: Final = "\u200c\u200d"
"""Persian words and many emoji are spelt with these, so within a word they stay."""
_ROUNDS: Final = 8
"""One repair may bring another's work to light (markup that was escaped, say); people's texts need two."""


class Cleaner:
    """Cleans inputs by the settings."""

    def __init__(self, *, boilerplate: Sequence[str] = (), min_chars: int = 1, scripts: Sequence[str] = ()) -> None:
        """What is refused and dropped.

        Args:
            boilerplate: lines that are dropped besides those that are known.
            min_chars: a shorter text is refused.
            scripts: a text that is mostly in others is refused; none: all are taken.
        """
        self._boilerplate = tuple(boilerplate)
        self._min_chars = min_chars
        self._scripts = frozenset(script.upper() for script in scripts)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The cleaner of some settings."""
        return cls(
            boilerplate=settings.boilerplate, min_chars=settings.min_text_chars, scripts=settings.allowed_scripts
        )

    def clean(self, inputs: Inputs) -> Inputs:
        """The inputs with every text repaired; a text that held nothing comes back empty.

        Raises:
            InvalidInput: a text that is too short, or in a script that is not allowed.
        """
        cleaned = {name: self._repair(value) if isinstance(value, str) else value for name, value in inputs.items()}
        for name, value in cleaned.items():
            if value and isinstance(value, str):
                self._check(name, value)
        return cleaned

    def _repair(self, text: str) -> str:
        for _ in range(_ROUNDS):
            before, text = text, self._repair_once(text)
            if text == before:
                break
        return text

    def _repair_once(self, text: str) -> str:
        lines = without_boilerplate(strip_markup(ftfy.fix_text(text)), self._boilerplate)
        if not lines.isprintable():
            lines = "".join(_visible(char) for char in lines)
        words = (word.strip(_JOINERS) for word in lines.split())
        return " ".join(word for word in words if word)

    def _check(self, name: str, text: Any) -> None:
        if len(text) < self._min_chars:
            raise InvalidInput(f"{name!r} has {len(text)} characters; it must have min_text_chars = {self._min_chars}")
        if self._scripts and (script := foreign_script(text, self._scripts)):
            allowed = ", ".join(sorted(self._scripts))
            raise InvalidInput(f"{name!r} is mostly in the script {script}; allowed_scripts are {allowed}")


def _visible(char: str) -> str:
    """Tabs and line ends part words; marks without width (soft hyphens, say) stand inside of them."""
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    return "" if category in ("Cf", "Cs") and char not in _JOINERS else char
