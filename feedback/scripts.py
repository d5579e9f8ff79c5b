"""In which script a text is written, by the names that Unicode gives its letters."""

import unicodedata
from collections import Counter
from collections.abc import Collection
from typing import Final

_ALIASES: Final = {"CJK": "HAN", "KANGXI": "HAN", "IDEOGRAPHIC": "HAN", "FULLWIDTH": "LATIN", "MODIFIER": "LATIN"}


def scripts_of(text: str) -> Counter[str]:
    """Letters by script: LATIN, CYRILLIC, HAN, ARABIC, HIRAGANA and so on."""
    counts: Counter[str] = Counter()
    for char, count in Counter(text).items():
        if char.isalpha():
            word = unicodedata.name(char, "UNKNOWN").split()[0].split("-")[0]
            counts[_ALIASES.get(word, word)] += count
    return counts


def foreign_script(text: str, allowed: Collection[str]) -> str | None:
    """The commonest script of a text most of whose letters are in scripts that are not allowed; None for any other text."""
    counts = scripts_of(text)
    foreign = Counter({script: count for script, count in counts.items() if script not in allowed})
    return foreign.most_common(1)[0][0] if foreign.total() * 2 > counts.total() else None
