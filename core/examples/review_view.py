"""The review queue as it is read: by the service, by ``ratchet status``, and by what orders it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, and_, func, select

from core.events import Prediction
from core.examples import tables
from core.examples.review import Pooled, ReviewAnswer, waiting


@dataclass(frozen=True, kw_only=True)
class ReviewItem:
    """A prediction that waits for a human answer."""

    prediction: Prediction
    #: the probability of its draw; None for one that a strategy chose
    probability: float | None
    score: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReviewCounts:
    """How much waits in the queue, and how much of what it asked for was answered since a time."""

    drawn: int
    chosen: int
    answered: int
    answered_drawn: int


class ReviewReader:
    """Questions about one model's queue; each is one read."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection = connection
        self._model = model

    def drawn(self, *, limit: int) -> list[ReviewItem]:
        """Unanswered drawn predictions, in the order of their lots, which nothing else decides."""
        table = tables.review
        return self._items(table.c.probability.is_not(None), [table.c.lot, table.c.prediction_id], limit)

    def chosen(self, *, limit: int) -> list[ReviewItem]:
        """Unanswered chosen predictions in the strategy's order; those that it has not seen yet by their doubt, behind."""
        table = tables.review
        order = [table.c.place.is_(None), table.c.place, table.c.doubt.desc(), table.c.lot, table.c.prediction_id]
        return self._items(table.c.probability.is_(None), order, limit)

    def counts(self, *, since: datetime) -> ReviewCounts:
        """How much waits, and how much was answered since then."""
        drawn, chosen = waiting(self._connection, self._model)
        table = tables.review_answers
        query = select(func.count(), func.count(table.c.probability)).where(
            table.c.model == self._model, table.c.queued.is_(True), table.c.at >= since
        )
        answered, answered_drawn = self._connection.execute(query).one()
        return ReviewCounts(drawn=drawn, chosen=chosen, answered=int(answered), answered_drawn=int(answered_drawn))

    def answers(self, *, since: datetime, limit: int = 20_000) -> list[ReviewAnswer]:
        """What was answered on drawn predictions since then, newest first."""
        table = tables.review_answers
        query = (
            select(table)
            .where(table.c.model == self._model, table.c.probability.is_not(None), table.c.at >= since)
            .order_by(table.c.at.desc())
            .limit(limit)
        )
        names = ("prediction_id", "model_version", "probability", "queued", "correct", "at")
        rows = self._connection.execute(query).mappings()
        return [ReviewAnswer(**{name: row[name] for name in names}) for row in rows]

    def pool(self, *, graph: str) -> list[Pooled]:
        """The chosen part with the embeddings of one graph, by prediction id; the answered ones that are still kept, too."""
        table, kept = tables.review, tables.predictions
        query = (
            select(
                table.c.prediction_id, table.c.doubt, table.c.answered, table.c.graph, table.c.embedding, kept.c.event
            )
            .join(kept, and_(kept.c.model == table.c.model, kept.c.prediction_id == table.c.prediction_id))
            .where(table.c.model == self._model, table.c.probability.is_(None))
            .order_by(table.c.prediction_id)
        )
        return [
            Pooled(
                prediction_id=row.prediction_id,
                prediction=Prediction.model_validate(row.event),
                doubt=row.doubt,
                embedding=_vector(row.embedding) if row.graph == graph and row.embedding else None,
                answered=row.answered,
            )
            for row in self._connection.execute(query)
        ]

    def _items(self, which: ColumnElement[bool], order: Sequence[ColumnElement[Any]], limit: int) -> list[ReviewItem]:
        table, kept = tables.review, tables.predictions
        query = (
            select(table.c.probability, table.c.score, table.c.doubt, table.c.reason, kept.c.event)
            .join(kept, and_(kept.c.model == table.c.model, kept.c.prediction_id == table.c.prediction_id))
            .where(table.c.model == self._model, table.c.answered.is_(False), which)
            .order_by(*order)
            .limit(limit)
        )
        return [
            ReviewItem(
                prediction=Prediction.model_validate(row.event),
                probability=row.probability,
                score=row.doubt if row.score is None else row.score,
                reason=row.reason,
            )
            for row in self._connection.execute(query)
        ]


def _vector(value: bytes) -> NDArray[np.float32]:
    return np.frombuffer(value, dtype=np.float16).astype(np.float32)
