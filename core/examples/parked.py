"""Records that a newer Ratchet wrote: kept until this program has been upgraded, and then taken in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select

from core.events import now
from core.examples import tables

_NEWEST: Final = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class ParkedRecord:
    """A record of the log, as it waits."""

    topic: str
    partition: int
    offset: int
    key: str
    #: masked
    value: bytes
    #: the version of records that a program must read to take it in
    schema_version: int
    #: when the log took it
    at: datetime
    #: the number that it waits under; 0 before it does
    seq: int = 0


class ParkedRows:
    """The records that wait, within a transaction or for a reader."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection = connection
        self._model = model

    def add(self, record: ParkedRecord) -> None:
        """Keep a record."""
        row = {name: value for name, value in vars(record).items() if name != "seq"}
        row |= {"key": record.key.replace("\0", "")[:200], "schema_version": min(record.schema_version, _NEWEST)}
        self._connection.execute(insert(tables.parked), [{"model": self._model, "parked_at": now(), **row}])

    def readable(self, *, schema_version: int, limit: int) -> list[ParkedRecord]:
        """The oldest of those that a program can read which reads up to ``schema_version``."""
        table = tables.parked
        mine = (table.c.model == self._model, table.c.schema_version <= schema_version)
        rows = self._connection.execute(select(table).where(*mine).order_by(table.c.seq).limit(limit))
        return [
            ParkedRecord(**{name: value for name, value in row._asdict().items() if name not in ("model", "parked_at")})
            for row in rows
        ]

    def remove(self, parked: Iterable[ParkedRecord]) -> Sequence[ParkedRecord]:
        """Take records out; returns those that were there: another program may have had them."""
        table = tables.parked
        return [
            item
            for item in parked
            if self._connection.execute(
                delete(table).where(table.c.model == self._model, table.c.seq == item.seq)
            ).rowcount
        ]

    def count(self) -> int:
        """How many wait."""
        query = select(func.count()).where(tables.parked.c.model == self._model)
        return int(self._connection.execute(query).scalar_one())
