"""How right the model is, by the answers to what was drawn by lot: the same figures for service, metrics and commands."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from core.events import now
from core.examples.review import ReviewAnswer
from core.examples.review_view import ReviewReader
from core.stats import estimate_share

DAY: Final = timedelta(days=1)
_WINDOW: Final = timedelta(days=30)


def estimate_accuracy(
    review: ReviewReader, *, version: str | None = None, at: datetime | None = None
) -> dict[str, Any]:
    """Accuracy on the traffic of the last 30 days, and of the version that is named.

    ``share`` is null without an answer; ``low`` and ``high`` are the bounds of a 95 % interval.
    """
    answers = review.answers(since=(at or now()) - _WINDOW)
    own = [answer for answer in answers if answer.model_version == version]
    return {
        "days": _WINDOW.days,
        **_shown(answers),
        "version": None if version is None else {"name": version, **_shown(own)},
    }


def _shown(answers: Sequence[ReviewAnswer]) -> dict[str, Any]:
    drawn = [answer for answer in answers if answer.probability is not None]
    found = estimate_share([answer.correct for answer in drawn], [answer.probability or 1.0 for answer in drawn])
    return {
        "answers": found.count,
        "share": round(found.share, 4) if found.count else None,
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }
