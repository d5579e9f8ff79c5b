"""A text as it is searched: letters and digits that look alike made one, and invisible characters left out.

People type full-width digits, at signs, or dashes of every length, and hide zero-width characters in an address. The searched
text says where each of its characters stands in the original.
"""

import re
from collections.abc import Sequence
from typing import Final

_DIGIT_ZEROS: Final = (0x660, 0x6F0, 0x966, 0x9E6, 0xE50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6)
"""The zeros of the decimal digits that people write with, or that pass for plain ones (mathematical bold, say)."""
_ALIKE: Final = (
    {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width ASCII
    | {zero + value: str(value) for zero in _DIGIT_ZEROS for value in range(10)}
    | dict.fromkeys(map(ord, "‐‑‒–−﹣"), "-")
    | dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2007\u2009\u202f\u3000"), " ")
    | {ord("﹫"): "@", ord("․"): "."}
)
_INVISIBLE: Final = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


def view_of(text: str) -> tuple[str, Sequence[int] | None]:
    """The text to search, and for each of its characters the place in the original; None where they are the same."""
    if text.isascii():
        return text, None
    alike = text.translate(_ALIKE)
    if not _INVISIBLE.search(alike):
        return alike, None
    places = [place for place, char in enumerate(alike) if not _INVISIBLE.match(char)]
    return "".join(alike[place] for place in places), places
