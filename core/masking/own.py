"""Patterns of one's own: checked when the settings are read, since one that is slow would hold up every text."""

import re
import time
from collections.abc import Iterator, Mapping
from typing import Final

_NAME: Final = re.compile(r"[A-Z][A-Z_]{0,31}")
_SLOW_S: Final = 0.02
"""Of processor time, for a text of :data:`_LONGEST` characters: a good pattern takes a hundredth of it."""
_LONGEST: Final = 4096
_LENGTHS: Final = (*range(8, 64, 2), 128, 256, 512, 1024, 2048, _LONGEST)
"""Small steps first: a pattern whose time doubles with each character is found out before it takes a second."""
_USUAL: Final = ("a", "1", "A", " ", "-", "a1", "a ", "1-", "1 ", "a@a.")


def faults_of(patterns: Mapping[str, str]) -> list[str]:
    """A sentence for each pattern that cannot be used: its name, its syntax, or the time that it takes."""
    return [
        f"masking_patterns: {name}: {fault}" for name, pattern in patterns.items() if (fault := _fault(name, pattern))
    ]


def _fault(name: str, pattern: str) -> str | None:
    if not _NAME.fullmatch(name):
        return "a name has 1 to 32 capitals and underscores and begins with a capital, such as CUSTOMER_NUMBER"
    try:
        re.compile(pattern)  # by itself, too: "a)(b" is one only between parentheses
        compiled = re.compile(f"(?:{pattern})", re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        return f"{pattern!r} is not a regular expression: {error}"
    if compiled.groups:
        return f"{pattern!r} has a group that captures; write (?:…) in place of (…)"
    if compiled.search("") or compiled.match("[A_1]"):
        return f"{pattern!r} matches an empty text or a placeholder; let it ask for a character that only the value has"
    return _slowness(pattern, compiled)


def _slowness(pattern: str, compiled: re.Pattern[str]) -> str | None:
    """How slow it is on texts made to be hard for it. Not every slow pattern is found out, but every usual one is."""
    for piece in _pieces(pattern):
        for length in _LENGTHS:
            text = (piece * length)[:length] + "\n"  # it matches nearly to the end, and then must try everything else
            seconds = min(_timed(compiled, text) for _ in range(1 if length < 64 else 2))
            if seconds > _SLOW_S:
                return (
                    f"{pattern!r} is too slow: {seconds * 1000:.0f} ms for {length} characters of {piece!r}; "
                    "bound its repetitions, as in [0-9]{1,20}, and repeat nothing that repeats"
                )
    return None


def _pieces(pattern: str) -> Iterator[str]:
    """What hard texts are made of: usual characters, and those that the pattern itself speaks of."""
    yield from dict.fromkeys([*_USUAL, *(char for char in pattern if char.isalnum() or ord(char) > 127)])


def _timed(compiled: re.Pattern[str], text: str) -> float:
    started = time.thread_time()
    for _ in compiled.finditer(text):
        pass
    return time.thread_time() - started
