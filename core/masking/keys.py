"""Keys and tokens: by the shapes that providers publish, by their randomness, or because the words before say so."""

import re
from typing import Final

from core.masking.cues import follows

BLOCKS: Final = (
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----))*+(?:-----END [A-Z0-9 ]{0,50}-----)?",
    r"S(?<![A-Za-z0-9_]S)G\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}",
    r"y(?<![A-Za-z0-9_]y)a29\.[A-Za-z0-9_\-]{16,}",
    r"[0-9](?<![A-Za-z0-9_][0-9])[0-9]{7,9}:AA[A-Za-z0-9_\-]{33}",
)
"""What no single run of characters shows: a private key in PEM, and the keys of SendGrid, Google and Telegram."""
RUN: Final = r"[A-Za-z0-9_+/\-](?<![A-Za-z0-9_+/\-][A-Za-z0-9_+/\-])[A-Za-z0-9_+/\-]{15,}+={0,2}"
"""A whole run of characters that is long enough to be a key."""
_KNOWN: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_\-]{20,}"  # GitHub, GitLab
    r"|sk-(?=[A-Za-z_\-]{0,40}[0-9])[A-Za-z0-9_\-]{20,}"  # OpenAI and those that do as they do
    r"|[rsp]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{16,}"  # Stripe
    r"|xox[abeoprs]-[A-Za-z0-9\-]{10,}|AIza[A-Za-z0-9_\-]{35}|SK[0-9a-f]{32}"  # Slack, Google, Twilio
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_\-]{50,}|dop_v1_[a-f0-9]{64}"
    r"|eyJ[A-Za-z0-9_\-]{8,})"  # JSON Web Tokens (RFC 7519), up to the first dot
)
_TOKEN_REST: Final = re.compile(r"\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){0,3}")
_CHANGE: Final = re.compile(r"(?<=[a-z])[A-Z]|(?<=[A-Za-z])[0-9]|(?<=[0-9])[A-Za-z]")
_RANDOM: Final = 32
_LOOKED_AT: Final = 128


def key_in(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Where in a run of characters, from ``start`` to ``end``, a key begins and ends; None where none does."""
    for known in _KNOWN.finditer(text, start, end):
        if not known[0].startswith("eyJ"):
            return known.span()
        rest = _TOKEN_REST.match(text, known.end())
        if rest is not None:
            return known.start(), rest.end()
    run = text[start : min(end, start + _LOOKED_AT)]
    is_key = len(run) >= _RANDOM and _is_random(run)
    return (start, end) if is_key or (_is_mixed(run) and follows(text, start, "secret")) else None


def _is_random(run: str) -> bool:
    """True for small letters, capitals and digits that change as often as chance has them change.

    Drawn from 62 characters, 45 % are a capital behind a small letter, or a digit beside a letter; in names made of words, in
    paths and in names of files, fewer than 25 % are.
    """
    looked_at = re.sub(r"[_+/=\-]", "", run)
    kinds = (re.search("[a-z]", looked_at), re.search("[A-Z]", looked_at), re.search("[0-9]", looked_at))
    return all(kinds) and len(_CHANGE.findall(looked_at)) >= 0.28 * len(looked_at)


def _is_mixed(run: str) -> bool:
    """True for letters and digits that are no word with a number behind it."""
    return len(_CHANGE.findall(run)) >= 3
