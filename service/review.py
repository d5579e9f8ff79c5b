"""``GET /v1/review``: what is most worth a human answer, a fixed share of it drawn by lot."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response

from core.events import now
from core.settings import Role
from service.auth import Caller
from service.problems import JsonResponse
from service.program import Program
from service.schemas import parse_limit
from service.web import Endpoint

if TYPE_CHECKING:
    from core.examples import ExampleStore
    from core.examples.review_view import ReviewItem

_DEFAULT: Final = 20
_MOST: Final = 500
_JUST_ANSWERED: Final = 200
"""More than is asked for is read: some may have been answered a moment ago, which the store does not know yet."""


async def review(program: Program, request: Request, caller: Caller) -> Response:
    """``GET /v1/review?limit=``."""
    limit = parse_limit(request.query_params.get("limit"), default=_DEFAULT, most=_MOST)
    return JsonResponse(await program.ask_store(lambda store: _review(program, store, limit)))


def _review(program: Program, store: "ExampleStore", limit: int) -> dict[str, Any]:
    from core.examples.review_report import DAY, estimate_accuracy  # noqa: PLC0415  # see Program.store

    settings, live = program.settings, program.swapper.live
    with store.review() as queue:
        counts = queue.counts(since=now() - DAY)
        drawn, chosen = queue.drawn(limit=limit + _JUST_ANSWERED), queue.chosen(limit=limit + _JUST_ANSWERED)
        accuracy = estimate_accuracy(queue, version=live.version if live else None)
    left = max(0, settings.review_budget - counts.answered) if settings.review_budget else None
    items = interleave(
        [item for item in drawn if item.prediction.prediction_id not in program.answered],
        [item for item in chosen if item.prediction.prediction_id not in program.answered],
        limit=limit if left is None else min(limit, left),
        share=settings.review_random_share,
        answered=counts.answered,
        answered_drawn=counts.answered_drawn,
    )
    return {
        "predictions": [_show(item) for item in items],
        "waiting": {"drawn": counts.drawn, "chosen": counts.chosen},
        "budget": {"per_day": settings.review_budget or None, "answered": counts.answered, "left": left},
        "accuracy": accuracy,
    }


def interleave(
    drawn: Sequence["ReviewItem"],
    chosen: Sequence["ReviewItem"],
    *,
    limit: int,
    share: float,
    answered: int,
    answered_drawn: int,
) -> list["ReviewItem"]:
    """The two parts in one list in which, with what was answered before, ``share`` is drawn: however few are asked for.

    Where one part is used up, the other goes on.
    """
    lots, picks = iter(drawn), iter(chosen)
    found: list[ReviewItem] = []
    used = answered_drawn
    while len(found) < limit:
        owed = used < math.ceil(share * (answered + len(found) + 1) - 1e-9)
        first, second = (lots, picks) if owed else (picks, lots)
        item = next(first, None) or next(second, None)
        if item is None:
            break
        used += item.probability is not None
        found.append(item)
    return found


def _show(item: "ReviewItem") -> dict[str, Any]:
    prediction = item.prediction
    is_drawn = item.probability is not None
    return {
        "prediction_id": prediction.prediction_id,
        "model_version": prediction.model_version,
        "inputs": prediction.inputs,
        "output": prediction.output,
        "reason": "drawn by lot: accuracy is estimated from such" if is_drawn else item.reason or "not yet scored",
        "score": round(item.score, 4),
        "sampling_probability": item.probability,
        "at": prediction.at,
    }


REVIEW_ENDPOINT: Final = Endpoint(method="GET", path="/v1/review", name="review", role=Role.OPERATOR, handler=review)
