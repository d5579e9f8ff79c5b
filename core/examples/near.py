"""The rows by which near-duplicates are found: the keys of each text, which texts are near each other, and what each drew."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Table, and_, bindparam, select, update

from core.events import Inputs, Split
from core.examples import tables
from core.examples.engine import insert_into

T = TypeVar("T")
_ASKED: Final = 10_000
"""Values in one statement: SQLite takes 32,766, PostgreSQL 65,535."""


class Rank(IntEnum):
    """Whose word on the split weighs more among near texts; the smaller one does."""

    AUDIT = 0
    SEED = 1
    FEEDBACK = 2
    PSEUDO_LABEL = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class NearText:
    """What decides on the split of an example and of those near it."""

    example_id: str
    rank: Rank
    #: the split that its own id (or an audit) drew
    drawn: Split
    #: True where so many share its keys that texts near it may be overlooked
    crowded: bool = False
    #: True where somebody says that its target is wrong, and nobody's word is above that
    rejected: bool = False
    target: str = ""
    #: the split that it has
    split: Split = Split.TRAIN

    @property
    def place(self) -> tuple[int, str]:
        """Its place in the order of near texts, the first above the others."""
        return self.rank, self.example_id


class NearRows:
    """The rows of one model within a transaction. Made by :attr:`StoreTransaction.near`."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection = connection
        self._model = model

    def bands(self, keys: Iterable[int]) -> list[tuple[int, str]]:
        """Keys and the examples that have them."""
        return self._rows(tables.near_bands, ("band", "example_id"), keys)

    def add_bands(self, rows: Iterable[tuple[int, str]]) -> None:
        """Note that examples have keys."""
        self._insert(tables.near_bands, [{"band": band, "example_id": example_id} for band, example_id in rows])

    def pairs(self, ids: Iterable[str]) -> list[tuple[str, str]]:
        """Examples with those near them."""
        return self._rows(tables.near_pairs, ("example_id", "other_id"), ids)

    def add_pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Note that examples are near each other, each pair once."""
        both = [pair for one, other in pairs for pair in ((one, other), (other, one))]
        self._insert(tables.near_pairs, [{"example_id": one, "other_id": other} for one, other in both])

    def put(self, texts: Sequence[NearText]) -> None:
        """Note what texts drew; a later draw (an audit's) replaces an earlier one."""
        rows = [
            {"model": self._model, "example_id": text.example_id, "rank": int(text.rank), "drawn": text.drawn,
             "crowded": text.crowded, "rejected": text.rejected}
            for text in texts
        ]  # fmt: skip
        if rows:
            statement = insert_into(self._connection, tables.near_texts)
            renewed = {name: statement.excluded[name] for name in ("rank", "drawn", "rejected")}
            keys = ["model", "example_id"]
            self._connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=renewed), rows)

    def mark_rejected(self, flags: Mapping[str, bool]) -> None:
        """Note of texts whether their target is rejected."""
        table = tables.near_texts
        rows = [{"of": name, "flag": flag} for name, flag in flags.items()]
        if rows:
            mine = (table.c.model == self._model, table.c.example_id == bindparam("of"))
            self._connection.execute(update(table).where(*mine).values(rejected=bindparam("flag")), rows)

    def texts(self, ids: Iterable[str]) -> dict[str, NearText]:
        """What is known of these; of one that is not stored yet the target and the split are empty."""
        table, examples = tables.near_texts, tables.examples
        same = and_(examples.c.model == table.c.model, examples.c.example_id == table.c.example_id)
        query = select(table, examples.c.label, examples.c.split).outerjoin(examples, same)
        found: dict[str, NearText] = {}
        for some in _some(ids):
            rows = self._connection.execute(query.where(table.c.model == self._model, table.c.example_id.in_(some)))
            for row in rows:
                found[row.example_id] = NearText(
                    example_id=row.example_id,
                    rank=Rank(row.rank),
                    drawn=Split(row.drawn),
                    crowded=row.crowded,
                    rejected=row.rejected,
                    target=row.label or "",
                    split=Split(row.split or row.drawn),
                )
        return found

    def inputs(self, ids: Iterable[str]) -> dict[str, Inputs]:
        """The inputs of stored examples."""
        table = tables.examples
        found: dict[str, Inputs] = {}
        for some in _some(ids):
            query = select(table.c.example_id, table.c.event).where(
                table.c.model == self._model, table.c.example_id.in_(some)
            )
            found |= {row.example_id: row.event["inputs"] for row in self._connection.execute(query)}
        return found

    def unplaced(self, *, limit: int) -> list[str]:
        """Examples that a version of Ratchet stored which knew no near-duplicates, oldest first."""
        table, examples = tables.near_texts, tables.examples
        same = and_(examples.c.model == table.c.model, examples.c.example_id == table.c.example_id)
        query = (
            select(examples.c.example_id)
            .outerjoin(table, same)
            .where(examples.c.model == self._model, table.c.example_id.is_(None))
            .order_by(examples.c.seq)
            .limit(limit)
        )
        return list(self._connection.execute(query).scalars())

    def _rows(self, table: Table, columns: tuple[str, str], values: Iterable[Any]) -> list[tuple[Any, Any]]:
        """Two columns of the rows of which the first has one of the values."""
        key, other = (table.c[name] for name in columns)
        query = select(key, other).where(table.c.model == self._model)
        return [
            (one, two) for some in _some(values) for one, two in self._connection.execute(query.where(key.in_(some)))
        ]

    def _insert(self, table: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            for row in rows:
                row["model"] = self._model
            self._connection.execute(insert_into(self._connection, table).on_conflict_do_nothing(), rows)


def _some(values: Iterable[T]) -> Iterator[list[T]]:
    """As many at a time as a statement takes."""
    rest = iter(values)
    while found := list(islice(rest, _ASKED)):
        yield found
