"""Phone numbers: Chinese mobile and fixed ones, North American, with a country code, with a leading zero, or announced.

Where a number's form alone says nothing (eight digits in a row), it is a phone's only if the words before it say so; and
a form that orders have as well is not one's where the words before it speak of an order.
"""

import re
from typing import Final

from core.masking.cues import follows

_MOST: Final = {"1": 11, "7": 11, "86": 13, "44": 12, "33": 11, "49": 13}
_LEAST: Final = {"1": 11, "7": 11, "86": 11, "44": 11, "33": 11}
_COUNTRY: Final = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-69][0-9]|3[578][0-9]|42[0-9]|5[09][0-9]|6[7-9][0-9]|"
    r"8[058][0-9]|9[679][0-9]"
)
_ABROAD: Final = re.compile(r"(?:\+|\(\+|00(?=[1-9]))[1-9](?:[ ().\-/]{0,2}[0-9]){6,14}")
_MOBILE: Final = re.compile(
    r"(?:\(?86\)?[ -]?)?1[3-9](?:[0-9]{9}|[0-9]([ -])[0-9]{4}\1?[0-9]{4}|[0-9]{5}[ -][0-9]{4}|"
    r"[0-9][ -][0-9]{3}[ -][0-9]{5}|[0-9]{2}[ -][0-9]{3}[ -][0-9]{4})(?![0-9])"
)
_AMERICAN: Final = re.compile(
    r"(?:1[ .-])?(?!\(?[2-7]00)(?:\([2-9][0-9]{2}\)[ .-]?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?![0-9])"
)
_HOTLINE: Final = re.compile(r"[48]00[ -](?:[0-9]{3}[ -]?[0-9]{4}|[0-9]{4}[ -]?[0-9]{3})(?![0-9])")
_TRUNK: Final = re.compile(r"\(?0[1-9][0-9]{0,3}(?:\)[ -]?|[ ./-])[0-9]{2,8}(?:[ ./-][0-9]{2,8}){0,4}(?![0-9])")
_COMPACT: Final = re.compile(r"0[1-9][0-9]{8,10}(?![0-9])")
_ANNOUNCED: Final = re.compile(r"\(?[0-9](?:[ ().\-/]{0,2}[0-9]){6,12}(?![0-9])")
_DATE: Final = re.compile(
    r"[0-9]{1,2}([ ./-])[0-9]{1,2}\1(?:[0-9]{4}(?![0-9])|[0-9]{2}(?!\1?[0-9]))"
    r"|(?:19|20)[0-9]{2}([ ./-]?)[01][0-9]\2[0-3][0-9](?![0-9])"
)
_DOCUMENT: Final = re.compile(r"[0-9]{2,3}[-/](?:19|20)[0-9]{2}[-/]")
_PREFIX: Final = re.compile(r"(?:tel|phone|mobile|cell|call|fax|mob|ph|whatsapp|wechat|qq)\Z", re.IGNORECASE | re.ASCII)


def phone_end(text: str, start: int) -> int | None:
    """Where a phone number that begins at ``start`` ends; None where none does.

    Args:
        text: as ``view_of`` gives it; 7 digits or more follow, with separators of two characters at most.
        start: of a digit, a ``+`` or a ``(``, with no digit before it.
    """
    if not _may_begin(text, start):
        return None
    end = _abroad(text, start) if text[start] in "+(0" else None
    if end is None:
        end = _at_home(text, start)
    if end is None and follows(text, start, "phone"):
        end = _announced(text, start)
    if end is None or re.match(r"[A-Za-z_]|[.,][0-9]|元|块", text[end : end + 2]):
        return None
    return end


def _may_begin(text: str, start: int) -> bool:
    before = text[max(0, start - 8) : start]
    if not before:
        return True
    if before[-1].isascii() and (before[-1].isalnum() or before[-1] == "_"):
        return _PREFIX.search(before) is not None
    return not re.search(r"[0-9][.,+*/]\Z|[0-9] ?[+*×÷] ?\Z|[$€£¥￥] ?\Z", before)


def _abroad(text: str, start: int) -> int | None:
    """With a country code: as many digits as that country's numbers have at most."""
    found = _ABROAD.match(text, start)
    if found is None:
        return None
    digits = re.sub("[^0-9]", "", found[0])
    digits = digits.removeprefix("00") if text[start] == "0" else digits
    country = _COUNTRY.match(digits)
    if country is None or "000000" in digits or len(digits) < _LEAST.get(country[0], 9):
        return None
    end, left = found.end(), len(digits) - _MOST.get(country[0], 13)
    while left > 0:  # what follows is another number
        end -= 1
        left -= text[end].isdigit()
    end = len(text[:end].rstrip(" ().-/")) if end < found.end() else end
    return None if text[end : end + 1].isdigit() else end


def _at_home(text: str, start: int) -> int | None:
    """In a form that a country's own numbers have."""
    mobile = _MOBILE.match(text, start) or _COMPACT.match(text, start)
    if mobile is not None:
        return None if follows(text, start, "numbered") else mobile.end()
    fixed = _AMERICAN.match(text, start) or _HOTLINE.match(text, start)
    if fixed is not None:
        return None if follows(text, start, "numbered") else fixed.end()
    trunk = _TRUNK.match(text, start)
    if trunk is None or _DATE.match(text, start) or _DOCUMENT.match(text, start) or follows(text, start, "numbered"):
        return None
    return _groups(text, start, trunk.end(), least=9, most=12)


def _announced(text: str, start: int) -> int | None:
    found = _ANNOUNCED.match(text, start)
    if found is None or _DATE.match(text, start):
        return None
    return _groups(text, start, found.end(), least=7, most=13)


def _groups(text: str, start: int, end: int, *, least: int, most: int) -> int | None:
    """The end of as many whole groups of digits as make a number of that length."""
    while True:
        count = len(re.sub("[^0-9]", "", text[start:end]))
        if count < least:
            return None
        if count <= most:
            return end
        shorter = re.search(r"[ ().\-/]+[0-9]+\Z", text[start:end])
        if shorter is None:
            return None
        end = start + shorter.start()
