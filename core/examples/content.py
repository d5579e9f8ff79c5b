"""What the store holds, counted by the database; of texts only as many are read as are asked for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, ColumnElement, Connection, Text, and_, case, cast, distinct, func, select

from core.events import Example, Origin, OutcomeStatus, Prediction, Split
from core.examples import tables


@dataclass(frozen=True, kw_only=True)
class NearCounts:
    """How much is nearly the same as something else."""

    #: pairs of examples
    pairs: int
    #: examples that are in a pair
    texts: int


@dataclass(frozen=True, kw_only=True)
class HeldCounts:
    """The claims that were put into quarantine, and what became of them since."""

    claims: int
    #: of these, how many have the label that their example has by now
    confirmed: int


class ContentReader:
    """Questions about one model's examples, outcomes and predictions, in one transaction that only reads."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection = connection
        self._model = model

    def labels(self) -> dict[str, dict[Split, int]]:
        """Examples by label and split."""
        table = tables.examples
        query = (
            select(table.c.label, table.c.split, func.count())
            .where(table.c.model == self._model)
            .group_by(table.c.label, table.c.split)
        )
        found: dict[str, dict[Split, int]] = {}
        for label, split, count in self._connection.execute(query):
            found.setdefault(label, {})[Split(split)] = int(count)
        return found

    def labels_of(self, *, seed: bool) -> dict[str, int]:
        """Examples by label: those of the seed, or all others that people labelled."""
        table = tables.examples
        query = (
            select(table.c.label, func.count())
            .where(table.c.model == self._model, _of_seed(seed))
            .group_by(table.c.label)
        )
        return {label: int(count) for label, count in self._connection.execute(query)}

    def origins(self) -> dict[Origin, int]:
        """Examples by where they come from."""
        table = tables.examples
        query = select(table.c.origin, func.count()).where(table.c.model == self._model).group_by(table.c.origin)
        return {Origin(origin): int(count) for origin, count in self._connection.execute(query)}

    def trust(self) -> dict[str, int]:
        """Examples by whom they rest on: ``trusted`` (trust 1), ``earned`` (less than 1), ``none`` (0)."""
        table = tables.examples
        trust = self._event()["trust"].as_float()
        kind = case((trust >= 1.0, "trusted"), (trust > 0.0, "earned"), else_="none").label("kind")
        counted = select(kind).where(table.c.model == self._model).subquery()
        query = select(counted.c.kind, func.count()).group_by(counted.c.kind)
        return {name: int(count) for name, count in self._connection.execute(query)}

    def barred(self, *, limit: int) -> dict[str, int]:
        """Examples that neither train nor judge by the reason, the commonest reasons first."""
        table = tables.examples
        reason = self._event()["split_reason"].as_string().label("reason")
        counted = select(reason).where(table.c.model == self._model, table.c.split == Split.BARRED).subquery()
        query = (
            select(counted.c.reason, func.count())
            .group_by(counted.c.reason)
            .order_by(func.count().desc(), counted.c.reason)
            .limit(limit)
        )
        return {reason or "": int(count) for reason, count in self._connection.execute(query)}

    def near(self) -> NearCounts:
        """Near-duplicates among the examples."""
        table = tables.near_pairs
        query = select(func.count(), func.count(distinct(table.c.example_id))).where(table.c.model == self._model)
        rows, texts = self._connection.execute(query).one()
        return NearCounts(pairs=int(rows) // 2, texts=int(texts))

    def outcomes(self) -> dict[OutcomeStatus, int]:
        """Rows of the ledger by status."""
        table = tables.outcomes
        query = select(table.c.status, func.count()).where(table.c.model == self._model).group_by(table.c.status)
        return {OutcomeStatus(status): int(count) for status, count in self._connection.execute(query)}

    def reasons(self, status: OutcomeStatus, *, limit: int) -> dict[str, int]:
        """Rows of the ledger with a status by the reason, the commonest reasons first."""
        table = tables.outcomes
        query = (
            select(table.c.reason, func.count())
            .where(table.c.model == self._model, table.c.status == status)
            .group_by(table.c.reason)
            .order_by(func.count().desc(), table.c.reason)
            .limit(limit)
        )
        return {reason: int(count) for reason, count in self._connection.execute(query)}

    def held(self) -> HeldCounts:
        """What was put into quarantine."""
        table, examples = tables.quarantine, tables.examples
        same = and_(
            examples.c.model == table.c.model,
            examples.c.example_id == table.c.example_id,
            examples.c.label == table.c.target,
        )
        query = (
            select(func.count(), func.count(examples.c.example_id))
            .select_from(table.outerjoin(examples, same))
            .where(table.c.model == self._model)
        )
        claims, confirmed = self._connection.execute(query).one()
        return HeldCounts(claims=int(claims), confirmed=int(confirmed))

    def sample(self, *, limit: int, seed: bool | None = None, barred: bool = True) -> list[Example]:
        """Examples in the order of their ids, which are keyed digests: as good as drawn by lot.

        Args:
            limit: at most so many.
            seed: True: of the seed; False: what people labelled since; None: all.
            barred: False: only those that train or judge.
        """
        table = tables.examples
        query = select(table.c.event).where(table.c.model == self._model).order_by(table.c.example_id).limit(limit)
        if seed is not None:
            query = query.where(_of_seed(seed))
        if not barred:
            query = query.where(table.c.split != Split.BARRED, table.c.origin.not_in(_GUESSES))
        return [Example.model_validate(row.event) for row in self._connection.execute(query)]

    def recent(self, *, limit: int) -> list[Prediction]:
        """The newest predictions that are kept, newest first."""
        table = tables.predictions
        query = select(table.c.event).where(table.c.model == self._model).order_by(table.c.at.desc()).limit(limit)
        return [Prediction.model_validate(row.event) for row in self._connection.execute(query)]

    def _event(self) -> ColumnElement[Any]:
        """The examples' JSON, of which a field can be asked.

        PostgreSQL refuses to read any field of a document with a NUL, which texts may have: a blank takes its place.
        """
        event = tables.examples.c.event
        if self._connection.dialect.name != "postgresql":
            return event
        return cast(func.replace(cast(event, Text), "\\u0000", "\\u0020"), JSON)


_GUESSES: Iterable[Origin] = (Origin.PSEUDO_LABEL, Origin.IMPLICIT)
"""What no person said."""


def _of_seed(seed: bool) -> ColumnElement[bool]:
    origin = tables.examples.c.origin
    return origin == Origin.SEED if seed else origin.not_in((Origin.SEED, *_GUESSES))
