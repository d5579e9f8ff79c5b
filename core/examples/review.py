"""The review queue in the example store: predictions that wait for a human answer, and what the answers said.

Two parts that never mix. *Drawn* ones are there by a lot that looks at nothing but the prediction's id; they carry the
probability of the draw, and accuracy is estimated from them alone. *Chosen* ones are there because a strategy finds them
worth learning.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, bindparam, delete, func, select, update

from core.events import Prediction
from core.examples import tables
from core.examples.engine import insert_into

_RATE: Final = "review_rate"
_WHOLE: Final = 2**32  # a rate of 1, as the counter keeps it


def lot_of(prediction_id: str) -> float:
    """A number from 0 to 1 that only the id decides: the draw knows neither the text nor what was answered."""
    return int.from_bytes(hashlib.blake2b(prediction_id.encode(), digest_size=6).digest(), "big") / 2**48


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A prediction as it enters the queue."""

    prediction_id: str
    lot: float
    #: the probability of its draw; None for one that was chosen
    probability: float | None
    #: from 0 to 1: how little the model was sure, until a strategy says more
    doubt: float
    at: datetime


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooled:
    """A chosen prediction as the strategies need it. ``embedding`` has shape (size,); None where it has none of a graph."""

    prediction_id: str
    prediction: Prediction
    doubt: float
    embedding: NDArray[np.float32] | None
    answered: bool


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What a strategy made of a chosen prediction; place None: not among those that it asks for."""

    prediction_id: str
    place: int | None
    doubt: float
    #: None where the strategy does not ask for it
    score: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReviewAnswer:
    """A person's answer that was asked for, compared with the prediction."""

    prediction_id: str
    model_version: str
    #: the probability of the draw; None where a strategy chose the prediction
    probability: float | None
    #: the queue asked for it, and not the app
    queued: bool
    correct: bool
    at: datetime


class ReviewWriter:
    """The queue within a transaction of the feedback program."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection = connection
        self._model = model

    def add(self, rows: Sequence[Waiting]) -> None:
        """Let predictions wait; ones that wait already, or have been answered, are left alone."""
        if rows:
            values = [{"model": self._model, "reason": "", "answered": False, **vars(row)} for row in rows]
            self._connection.execute(insert_into(self._connection, tables.review).on_conflict_do_nothing(), values)

    def rate(self) -> float:
        """The probability with which predictions are drawn now; 1 until :meth:`set_rate`."""
        counters = tables.counters
        mine = and_(counters.c.model == self._model, counters.c.name == _RATE)
        found = self._connection.execute(select(counters.c.value).where(mine)).scalar()
        return 1.0 if found is None else int(found) / _WHOLE

    def set_rate(self, rate: float) -> float:
        """Draw with another probability from now on; those drawn above it leave, and the others' probability falls to it.

        Whoever stays has a lot below every rate since it came, so the least of those rates is the probability of its draw.
        Returns the rate as it was kept.
        """
        value = max(1, round(rate * _WHOLE))
        kept = value / _WHOLE
        row = {"model": self._model, "name": _RATE, "value": value}
        keep = insert_into(self._connection, tables.counters).values(row)
        self._connection.execute(keep.on_conflict_do_update(index_elements=["model", "name"], set_={"value": value}))
        table = tables.review
        drawn = and_(table.c.model == self._model, table.c.answered.is_(False), table.c.probability.is_not(None))
        self._connection.execute(delete(table).where(drawn, table.c.lot >= kept))
        self._connection.execute(update(table).where(drawn, table.c.probability > kept).values(probability=kept))
        return kept

    def counts(self) -> tuple[int, int]:
        """How many drawn and how many chosen predictions wait."""
        return waiting(self._connection, self._model)

    def members(self, prediction_ids: Iterable[str]) -> dict[str, float | None]:
        """Those of these that wait, with the probability of their draw; None for a chosen one."""
        ids = set(prediction_ids)
        if not ids:
            return {}
        table = tables.review
        waits = and_(table.c.model == self._model, table.c.answered.is_(False), table.c.prediction_id.in_(ids))
        rows = self._connection.execute(select(table.c.prediction_id, table.c.probability).where(waits))
        return {row.prediction_id: row.probability for row in rows}

    def answered(self, prediction_ids: Iterable[str], *, asked: bool) -> None:
        """Take predictions off the queue.

        A drawn one stays until it is asked for: who answers without being asked mostly does so where something is wrong, and
        the rest would look better than all.
        """
        table = tables.review
        which = and_(table.c.model == self._model, table.c.prediction_id.in_(set(prediction_ids)))
        if not asked:
            which = and_(which, table.c.probability.is_(None))
        self._connection.execute(update(table).where(which).values(answered=True))

    def add_answers(self, answers: Sequence[ReviewAnswer]) -> None:
        """Note what was answered; of two answers on one prediction the first stays."""
        if answers:
            values = [{"model": self._model, **vars(answer)} for answer in answers]
            self._connection.execute(
                insert_into(self._connection, tables.review_answers).on_conflict_do_nothing(), values
            )

    def trim(self, *, chosen: int, before: datetime) -> None:
        """Remove what has waited since before a time, and the least doubtful of more than ``chosen`` chosen ones."""
        table = tables.review
        self._connection.execute(delete(table).where(table.c.model == self._model, table.c.at < before))
        mine = and_(table.c.model == self._model, table.c.answered.is_(False), table.c.probability.is_(None))
        over = (
            select(table.c.prediction_id)
            .where(mine)
            .order_by(table.c.doubt.desc(), table.c.lot, table.c.prediction_id)
            .offset(chosen)
            .limit(100_000)
        )
        rest = [row.prediction_id for row in self._connection.execute(over)]
        for start in range(0, len(rest), 500):
            self._connection.execute(delete(table).where(mine, table.c.prediction_id.in_(rest[start : start + 500])))

    def set_embeddings(self, graph: str, embeddings: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep embeddings of shape (size,) by prediction id, with the digest of the graph that made them."""
        table = tables.review
        rows = [
            {"id": prediction_id, "vector": vector.astype(np.float16).tobytes()}
            for prediction_id, vector in embeddings.items()
        ]
        if rows:
            statement = update(table).where(table.c.model == self._model, table.c.prediction_id == bindparam("id"))
            self._connection.execute(statement.values(graph=graph, embedding=bindparam("vector")), rows)

    def place(self, placed: Sequence[Placed]) -> None:
        """Put the chosen part in another order: of those named here only the ones with a place are asked for."""
        table = tables.review
        rows = [
            {"id": row.prediction_id, **{k: v for k, v in vars(row).items() if k != "prediction_id"}} for row in placed
        ]
        if rows:
            statement = update(table).where(table.c.model == self._model, table.c.prediction_id == bindparam("id"))
            columns: dict[str, Any] = {name: bindparam(name) for name in ("place", "doubt", "score", "reason")}
            self._connection.execute(statement.values(**columns), rows)


def waiting(connection: Connection, model: str) -> tuple[int, int]:
    """How many drawn and how many chosen predictions wait."""
    table = tables.review
    is_drawn = table.c.probability.is_not(None)
    query = select(is_drawn, func.count()).where(table.c.model == model, table.c.answered.is_(False)).group_by(is_drawn)
    found = {bool(drawn): int(count) for drawn, count in connection.execute(query)}
    return found.get(True, 0), found.get(False, 0)
