"""Lines that say nothing: what mail programs put under a message, signatures behind their mark, and an operator's own."""

import re
from collections.abc import Iterable
from typing import Final

_DEVICE: Final = (
    r"(?:iphone|ipad|android|samsung|galaxy|huawei|xiaomi|pixel|blackberry|smartphone|mobile|handy|t[ée]l[ée]phone|m[óo]vil)"
    r"(?: (?:device|phone|mobile|smartphone|tablet|[\w+-]*\d[\w+-]*))*"
)
_KNOWN: Final = re.compile(
    rf"sent from my {_DEVICE}|von meinem {_DEVICE} gesendet|gesendet von meinem {_DEVICE}|envoy[ée] (?:de|depuis) mon {_DEVICE}"
    rf"|enviado (?:desde|do|de) (?:mi|meu) {_DEVICE}|inviato (?:da|dal) mio {_DEVICE}|verzonden vanaf mijn {_DEVICE}"
    r"|(?:get|download) outlook for (?:ios|android)|(?:发自|從|从)我的\s?[\w ]{1,20}?(?:发送|傳送)?"
    r"|this (?:e-?mail|message)(?: and any attachments?| message| transmission)?,? (?:is|are|may be|contains?)\b.{0,60}"
    r"\b(?:confidential|privileged)\b.*"
    r"|diese (?:e-?mail|nachricht) (?:enthält|ist)\b.{0,60}\bvertraulich\w*\b.*"
    r"|(?:please )?(?:consider|think of) the environment before printing\b.*",
    re.IGNORECASE,
)
_MARK: Final = "--"
"""RFC 3676, section 4.3: two hyphens on a line of their own part a message from its signature."""
_SIGNATURE_LINES: Final = 10
_LONGEST: Final = 1_000


def without_boilerplate(text: str, own: Iterable[str] = ()) -> str:
    """The lines of a text without those that say nothing; nothing of a text that has no others.

    Args:
        text: with its line ends.
        own: lines that an operator names, compared without regard to case and white space.
    """
    dropped = {_folded(line) for line in own}
    lines = _before_signature(text.splitlines())
    return "\n".join(line for line in lines if _folded(line) not in dropped and not _is_known(line))


def _before_signature(lines: list[str]) -> list[str]:
    """A mark at the very beginning, or with a long text behind it, is none."""
    for place, line in enumerate(lines):
        if line.strip() == _MARK and any(map(str.strip, lines[:place])) and len(lines) - place <= _SIGNATURE_LINES + 1:
            return lines[:place]
    return lines


def _is_known(line: str) -> bool:
    return len(line) <= _LONGEST and _KNOWN.fullmatch(line.strip().rstrip(".")) is not None


def _folded(line: str) -> str:
    return " ".join(line.casefold().split())
