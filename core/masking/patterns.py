"""The built-in kinds, found in one pass: e-mail addresses, phones, bank cards, IBANs, Chinese identity numbers, IPs, keys.

One regular expression walks the text and stops where something may begin; what needs a checksum or a look at the words
before is decided there. All repetitions are possessive or bounded: the time is linear in the text, whoever wrote it.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from core.masking.checksums import IBAN_LENGTHS, is_card, is_chinese_id, is_iban
from core.masking.cues import follows
from core.masking.keys import BLOCKS, RUN, key_in
from core.masking.phones import phone_end
from core.masking.recogniser import Found
from core.masking.view import view_of

KINDS: Final = ("EMAIL", "PHONE", "CARD", "IBAN", "CN_ID", "IP", "KEY")
PLACEHOLDER: Final = r"\[(?:[A-Z][A-Z_]{0,31})_[0-9a-f]{1,16}\]"
"""What masking puts in place of a value; masking a masked text leaves it alone."""

_EUROPEAN: Final = "ßÀ-ɏͰ-ϿЀ-ӿ"
_USER: Final = rf"A-Za-z0-9_.+\-{_EUROPEAN}"
_HOST: Final = rf"A-Za-z0-9\-{_EUROPEAN}"
_EMAIL: Final = (
    rf"[{_USER}](?<![{_USER}][{_USER}])(?<![{_USER}]'[{_USER}])[{_USER}]*+(?:'[{_USER}]++)*+"
    rf"(?:@|%40)[{_HOST}]++(?:\.[{_HOST}]++)*+"
)
_IPV4: Final = (
    r"[0-9](?:(?<![A-Za-z0-9_.][0-9])|(?<=[Ii][Pp][0-9]))[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![A-Za-z0-9_]|\.[0-9])"
)
_IPV6: Final = (
    r"[0-9A-Fa-f:](?<![A-Za-z0-9_.][0-9A-Fa-f:])(?<![0-9A-Fa-f:]:[0-9A-Fa-f:])"
    r"(?=[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:]{0,34}:)[0-9A-Fa-f:]{2,39}"
    r"(?:(?:\.[0-9]{1,3}){3})?(?![A-Za-z0-9_:])"
)
_ADDRESS: Final = re.compile(r"(?=.*[0-9])(?:.*[A-Fa-f]|.*[0-9]{4}|.*:.*:.*:)")  # and not 12::30
_UUID: Final = (
    r"[0-9A-Fa-f](?<![A-Za-z0-9_\-][0-9A-Fa-f])[0-9A-Fa-f]{7}-"
    r"(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![A-Za-z0-9_\-])"
)
_MAYBES: Final = (
    r"[A-Za-z](?<![A-Za-z0-9_][A-Za-z])(?=[A-Za-z][0-9]{2}[ -]?[A-Za-z0-9]{4})",  # an IBAN
    # seven digits or more: a card, an identity number, a phone
    r"[0-9](?<![0-9_][0-9])(?=(?:[ ().\-/]{0,2}[0-9]){6})",
    r"[+(](?=[+(]?[0-9](?:[ ().\-/]{0,2}[0-9]){6})",
)
_HINT_ASCII: Final = re.compile("[0-9@]")
_HINT: Final = re.compile(r"[\d@＠﹫]")
_TOP: Final = re.compile(rf"xn--[a-z0-9-]+|[A-Za-z{_EUROPEAN}]{{2,}}")
_FILES: Final = re.compile(r"\.(?:png|jpe?g|gif|svg|webp|ico|pdf|js|css|html?)\Z", re.IGNORECASE)
_IDENTITY: Final = re.compile(
    r"(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])[0-9]{4}[ -]?"
    r"(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[ -]?[0-9]{3}[0-9Xx](?![A-Za-z0-9_])"
)
_CARDS: Final = (
    re.compile(r"[0-9]{13,19}(?![0-9])"),
    re.compile(r"[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}\1[0-9]{1,3}(?![0-9])"),
    re.compile(r"[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?![0-9])"),
    re.compile(r"[0-9]{4}([ -])[0-9]{6}\1[0-9]{4,5}(?![0-9])"),
)


class Patterns:
    """The built-in kinds and patterns of one's own, which go first."""

    def __init__(self, own: Mapping[str, str] | None = None) -> None:
        """``own``: regular expressions by kind, as ``faults_of`` found them good."""
        self._has_own = bool(own)
        own_kinds = [f"(?:{pattern})(?P<{kind}>)" for kind, pattern in (own or {}).items()]
        built_in = [("email", _EMAIL), ("uuid", _UUID), ("ipv6", _IPV6), ("ipv4", _IPV4), ("run", RUN)]
        built_in[1:1] = [(f"block_{number}", pattern) for number, pattern in enumerate(BLOCKS)]
        built_in += [(f"maybe_{number}", pattern) for number, pattern in enumerate(_MAYBES)]
        # A group that stands behind its alternative and holds nothing: so `re` sees each one's first character, and passes
        # over those that cannot begin here. Inside of a word nothing begins.
        here = "|".join(f"{pattern}(?P<{name}>)" for name, pattern in built_in)
        every = [f"{PLACEHOLDER}(?P<kept>)", *own_kinds, f"(?:(?<![A-Za-z])|(?![A-Za-z]))(?:{here})"]
        self._scan = re.compile("|".join(every), re.ASCII)

    def find(self, text: str) -> Sequence[Found]:
        """What is in a text, in order, without overlaps."""
        hint = _HINT_ASCII if text.isascii() else _HINT
        if not self._has_own and not hint.search(text):
            return ()
        view, places = view_of(text)
        found = self._find(view)
        if places is None:
            return found
        return [Found(places[item.start], places[item.end - 1] + 1, item.kind) for item in found]

    def _find(self, view: str) -> list[Found]:
        found: list[Found] = []
        place = 0
        while match := self._scan.search(view, place):
            start, group = match.start(), (match.lastgroup or "").partition("_")[0]
            if match.lastgroup is not None and match.lastgroup[0].isupper():  # a pattern of one's own
                one: Found | None = Found(start, match.end(), match.lastgroup)
            elif group in _CHECKS:
                one = _CHECKS[group](view, start, match.end()) or _decide(view, start)
            else:
                one = _decide(view, start)
            place = start + 1 if one is None else max(one.end, start + 1)
            if one is not None and one.kind != "kept" and one.end > one.start:
                found.append(one)
        return found


def _decide(view: str, start: int) -> Found | None:
    """What begins at a place where a number or a run of characters begins."""
    if view[start].isalpha():
        end, kind = _iban_end(view, start), "IBAN"
    elif view[start].isdigit() or view[start] in "+(":
        end, kind = _number_end(view, start)
    else:
        return None
    return None if end is None else Found(start, end, kind)


def _number_end(view: str, start: int) -> tuple[int | None, str]:
    if view[start] not in "+(" and not _is_glued(view, start):
        identity = _IDENTITY.match(view, start)
        if identity is not None and is_chinese_id(re.sub("[ -]", "", identity[0])):
            return identity.end(), "CN_ID"
        for form in _CARDS:
            card = form.match(view, start)
            if card is not None and is_card(re.sub("[ -]", "", card[0])) and not _goes_on(view, card.end()):
                return card.end(), "CARD"
    return phone_end(view, start), "PHONE"


def _is_glued(view: str, start: int) -> bool:
    """True for a place right behind a letter, a digit, or a number's point."""
    if start == 0:
        return False
    before = view[start - 1]
    if before in ".,":
        return start > 1 and view[start - 2].isdigit()
    return before.isascii() and (before.isalnum() or before == "_")


def _goes_on(view: str, end: int) -> bool:
    after = view[end : end + 2]
    if after[:1] in (".", ","):
        return after[1:].isdigit()
    return after[:1].isascii() and (after[:1].isalnum() or after[:1] == "_")


def _iban_end(view: str, start: int) -> int | None:
    """Where an IBAN ends, in one piece or in groups: after as many characters as its country's have."""
    length = IBAN_LENGTHS.get(view[start : start + 2].upper())
    if length is None:
        return None
    code, end = "", start
    while len(code) < length and end < len(view):
        char = view[end]
        if char.isascii() and char.isalnum():
            code += char.upper()
        elif char not in " -" or view[end - 1] in " -":
            return None
        end += 1
    return end if is_iban(code) and not _goes_on(view, end) else None


def _email(view: str, start: int, end: int) -> Found | None:
    """An address has a domain that ends with letters; a file's name and a version behind an ``@`` do not make one."""
    address = view[start:end].rstrip("-")
    host = re.split("@|%40", address, maxsplit=1)[1]
    top = host.rpartition(".")[2]
    letters = _TOP.match(top)
    if "." not in host or letters is None:
        return None
    address = address[: len(address) - len(top) + letters.end()]  # words may follow behind a hyphen
    if _FILES.search(address):
        return None
    return Found(start, start + len(address), "EMAIL")


def _ipv4(view: str, start: int, end: int) -> Found | None:
    parts = view[start:end].split(".")
    if any(int(part) > 255 or part != str(int(part)) for part in parts) or follows(view, start, "version"):
        return None
    return Found(start, end, "IP")


def _ipv6(view: str, start: int, end: int) -> Found | None:
    address = view[start:end]
    if "::" not in address and address.count(":") != 7 and "." not in address:  # a time, say
        return None
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return None
    return Found(start, end, "IP") if _ADDRESS.search(address) else None


def _uuid(view: str, start: int, end: int) -> Found | None:
    """Ours and other programs' ids are random, too, and no secrets unless somebody says so."""
    return Found(start, end, "KEY" if follows(view, start, "secret") else "kept")


def _run(view: str, start: int, end: int) -> Found | None:
    key = key_in(view, start, end)
    return None if key is None else Found(*key, "KEY")


def _block(view: str, start: int, end: int) -> Found | None:
    return Found(start, end, "KEY")


def _kept(view: str, start: int, end: int) -> Found | None:
    return Found(start, end, "kept")


_CHECKS: Final[dict[str, Callable[[str, int, int], Found | None]]] = {
    "kept": _kept,
    "email": _email,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "block": _block,
    "uuid": _uuid,
    "run": _run,
}
