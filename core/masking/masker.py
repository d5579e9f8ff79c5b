"""From what recognisers find to a text with placeholders: the same value is the same placeholder within a text."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Self

from core.errors import BadSettings
from core.masking.own import faults_of
from core.masking.patterns import PLACEHOLDER, Patterns
from core.masking.policy import Policy
from core.masking.recogniser import Found, Recogniser, load_recogniser
from core.masking.view import view_of

_PLACEHOLDER: Final = re.compile(PLACEHOLDER)
_NUMBERED: Final = re.compile(r"\[([A-Z][A-Z_]{0,31})_([0-9]{1,6})\]")
_KIND: Final = re.compile(r"[A-Z][A-Z_]{0,31}")
_SHOWN: Final = frozenset(":@.+")
_ROUNDS: Final = 4  # patterns of one's own might go on for ever


class Masker:
    """Masks texts; pure, and the same in every thread and program that has the same policy.

    A value becomes ``[KIND_n]``, numbered by kind in the order in which the values come. Masking what is masked changes
    nothing. A text in which nothing is found comes back as the very same object.
    """

    def __init__(
        self,
        recognisers: Sequence[Recogniser],
        report: Callable[[str], None] | None = None,
        keep: frozenset[str] = frozenset(),
    ) -> None:
        self._recognisers = tuple(recognisers)
        self._report = report
        self._keep = keep

    @classmethod
    def of(
        cls,
        policy: Policy | None,
        report: Callable[[str], None] | None = None,
        keep: frozenset[str] = frozenset(),
    ) -> Self:
        """The masker of a policy; None masks nothing.

        Args:
            policy: of the settings, or of a version's manifest.
            report: told the kind of each value that is masked.
            keep: kinds that are left as they are.

        Raises:
            BadSettings: a pattern cannot be used, or the recogniser is not installed.
        """
        if policy is None:
            return cls((), report, keep)
        return cls(_recognisers(tuple(policy.patterns.items()), policy.recogniser), report, keep)

    def mask(self, text: str) -> str:
        """The text with placeholders."""
        found = self._find(text)
        return self._replace(text, found, _Numbers([text])) if found else text

    def mask_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A task's inputs with every text in them masked, numbered together."""
        if len(inputs) == 1:
            ((name, value),) = inputs.items()
            if type(value) is str:  # what nearly every request is
                masked = self.mask(value)
                return inputs if masked is value else {name: masked}
        return dict(self.mask_document(inputs))

    def mask_document(self, document: Any) -> Any:
        """A JSON value with every text in it masked, names of fields included, and numbers that read as something."""
        if not self._recognisers:
            return document
        return self._mask_value(document, _Numbers(_texts(document)))

    def kind_of(self, text: str) -> str | None:
        """The kind of the first value in a text; None where nothing is found."""
        found = self._find(text)
        return found[0].kind if found else None

    def _mask_value(self, value: Any, numbers: "_Numbers") -> Any:
        if isinstance(value, str):
            found = self._find(value)
            return self._replace(value, found, numbers) if found else value
        if isinstance(value, Mapping):
            return {
                str(self._mask_value(name, numbers)): self._mask_value(item, numbers) for name, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._mask_value(item, numbers) for item in value]
        if isinstance(value, int) and abs(value) > 999_999 and self._find(str(value)):
            return self._mask_value(str(value), numbers)
        return value

    def _find(self, text: str) -> Sequence[Found]:
        if len(self._recognisers) == 1:  # the built-in one gives them in order and apart
            found = self._recognisers[0].find(text)
        else:
            every = [item for recogniser in self._recognisers for item in recogniser.find(text)]
            found = _apart(text, every) if every else ()
        return [item for item in found if item.kind not in self._keep] if self._keep else found

    def _replace(self, text: str, found: Sequence[Found], numbers: "_Numbers") -> str:
        """Again until nothing is found: behind a placeholder, what was glued to a value may stand by itself."""
        for _ in range(_ROUNDS):
            text = self._replace_once(text, found, numbers)
            found = self._find(text)
            if not found:
                break
        return text

    def _replace_once(self, text: str, found: Sequence[Found], numbers: "_Numbers") -> str:
        pieces: list[str] = []
        place = 0
        for item in found:
            pieces += (text[place : item.start], numbers.placeholder(item.kind, text[item.start : item.end]))
            place = item.end
            if self._report is not None:
                self._report(item.kind)
        pieces.append(text[place:])
        return "".join(pieces)


class _Numbers:
    """The placeholders of one text (or of one record's), beginning behind those that it has already."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._last: dict[str, int] = {}
        self._known: dict[tuple[str, str], str] = {}
        for text in texts:
            for kind, number in _NUMBERED.findall(text) if "[" in text else ():
                self._last[kind] = max(self._last.get(kind, 0), int(number))

    def placeholder(self, kind: str, value: str) -> str:
        """The same for the same value, however it is spaced or wide and whatever its case."""
        key = (kind, "".join(char for char in view_of(value)[0].casefold() if char.isalnum() or char in _SHOWN))
        if key not in self._known:
            self._last[kind] = self._last.get(kind, 0) + 1
            self._known[key] = f"[{kind}_{self._last[kind]}]"
        return self._known[key]


@lru_cache(maxsize=16)
def _recognisers(patterns: tuple[tuple[str, str], ...], recogniser: str) -> tuple[Recogniser, ...]:
    """Made once for each policy: the checks of one's own patterns take a while. Raises BadSettings."""
    own = dict(patterns)
    if faults := faults_of(own):
        raise BadSettings("; ".join(faults))
    built_in = Patterns(own)
    return (built_in, load_recogniser(recogniser)) if recogniser else (built_in,)


def _apart(text: str, found: Sequence[Found]) -> list[Found]:
    """In order and without overlaps: what begins first counts, then what is longer; placeholders are left alone."""
    taken = [Found(match.start(), match.end(), "") for match in _PLACEHOLDER.finditer(text)]
    good = (item for item in found if 0 <= item.start < item.end <= len(text) and _KIND.fullmatch(item.kind))
    kept: list[Found] = []
    end = 0
    for item in sorted(good, key=lambda item: (item.start, -item.end)):
        if item.start >= end and not any(item.start < other.end and other.start < item.end for other in taken):
            kept.append(item)
            end = item.end
    return kept


def _texts(value: Any) -> list[str]:
    """All texts of a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for item in pair for text in _texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return []
