"""What a text may be used for, given those that are nearly the same: pure, and the same in whatever order they came.

A text and its near copy must not both train and judge, or the holdout measures what was learned by heart (see
docs/decisions/0014-near-duplicates.md). Only what holds of all texts together decides, never which came first.
"""

from collections.abc import Collection, Sequence
from typing import Final

from core.events import Split
from core.examples import NearText, Rank

JUDGED: Final = "nearly the same as a text that judges"
REJECTED: Final = "its label was rejected, and nobody has named another since"
CROWDED: Final = "more texts are like it than can be told apart"


def judges(text: NearText, near: Sequence[NearText]) -> bool:
    """True for an audit, and for a text that drew the holdout and has no near one above it that drew otherwise."""
    if text.rejected or text.rank == Rank.AUDIT:
        return not text.rejected
    if text.drawn != Split.HOLDOUT or text.crowded:
        return False
    return all(other.drawn == Split.HOLDOUT for other in near if other.place < text.place)


def split_among(
    text: NearText, near: Sequence[NearText], *, judging: Collection[str], copies: int
) -> tuple[Split, str]:
    """The split of a text and, where it is barred, why.

    Args:
        text: the text.
        near: those that are nearly the same.
        judging: ids of those that judge, ``text`` itself included.
        copies: how many near copies with one target may train.
    """
    if text.example_id in judging:
        return Split.HOLDOUT, ""
    if reason := _why_barred(text, near, judging):
        return Split.BARRED, reason
    if text.drawn == Split.VALIDATION:
        return Split.VALIDATION, ""
    above = sum(other.target == text.target and other.place < text.place and not other.rejected for other in near)
    if above >= copies:
        return Split.BARRED, f"{copies} near copies with its target are trained on"
    return Split.TRAIN, ""


def _why_barred(text: NearText, near: Sequence[NearText], judging: Collection[str]) -> str:
    if text.rejected:
        return REJECTED
    if any(other.example_id in judging for other in near):
        return JUDGED
    return CROWDED if text.crowded else ""
