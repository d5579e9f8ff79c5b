"""Checksums and formats that tell a number from any other of its length: bank cards, IBANs, Chinese identity numbers."""

from typing import Final

_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_DIGITS: Final = "10X98765432"
#: first digits and lengths of issued cards (ISO/IEC 7812): without them one number in ten of any kind would pass
_ISSUERS: Final = (
    (("4",), (13, 16, 19)),
    (("34", "37"), (15,)),
    (("300", "301", "302", "303", "304", "305", "36", "38", "39"), (14, 16)),
    (("51", "52", "53", "54", "55", *map(str, range(222, 273)), "2221"), (16,)),
    (("62", "65", "6011", "644", "645", "646", "647", "648", "649", "81", "9558"), (16, 17, 18, 19)),
    (("2200", "2201", "2202", "2203", "2204", *map(str, range(3528, 3590))), (16, 17, 18, 19)),
    (("50", "56", "57", "58", "60", "63", "67"), (16, 18, 19)),
)
_LENGTHS: Final = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
    "YE30"
)
IBAN_LENGTHS: Final = {item[:2]: int(item[2:]) for item in _LENGTHS.split()}
"""The length of a country's IBANs (SWIFT's IBAN registry)."""


def is_card(digits: str) -> bool:
    """True for a number that a bank card may have: an issuer's first digits, its length, and Luhn's checksum."""
    known = any(len(digits) in lengths and digits.startswith(firsts) for firsts, lengths in _ISSUERS)
    return known and luhn(digits)


def luhn(digits: str) -> bool:
    """Luhn's checksum (ISO/IEC 7812-1, annex B)."""
    odd = sum(map(int, digits[-1::-2]))
    return (odd + sum(_DOUBLED[int(digit)] for digit in digits[-2::-2])) % 10 == 0


def is_iban(code: str) -> bool:
    """True for an IBAN in capitals and without spaces: its country's length, and 1 modulo 97 (ISO 13616, ISO 7064)."""
    if IBAN_LENGTHS.get(code[:2]) != len(code):
        return False
    return int("".join(str(int(char, 36)) for char in code[4:] + code[:4])) % 97 == 1


def is_chinese_id(number: str) -> bool:
    """True for 17 digits with the right last character (GB 11643: ISO 7064, modulo 11-2)."""
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, number, strict=False))
    return _ID_DIGITS[total % 11] == number[17].upper()
