"""A lease per model and lane keeps training runs apart.

Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed file cache consistency", SOSP 1989; the
fencing number, which rises with every new holder, is what lets a latecomer be told apart from the holder.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, func, select, update

from core.errors import LeaseLost
from core.events import now
from core.examples import tables
from core.examples.engine import connected, insert_into


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to train on a lane, until ``expires_at`` unless renewed."""

    lane: str
    holder: str
    fencing: int
    expires_at: datetime


class LeaseKeeper:
    """Takes, renews and gives back leases for one holder."""

    def __init__(self, engine: Engine, model: str, *, holder: str, ttl_s: float) -> None:
        self._engine = engine
        self._model = model
        self._holder = holder
        self._ttl = timedelta(seconds=ttl_s)

    def acquire(self, lane: str) -> Lease | None:
        """The lease, if nobody else holds it; a dead holder's is taken over once it has expired."""
        table = tables.leases
        with connected(self._engine, write=True) as connection:
            at = _clock(connection)
            nobody = {"model": self._model, "lane": lane, "holder": "", "fencing": 0, "expires_at": at}
            connection.execute(insert_into(connection, table).on_conflict_do_nothing(), [nobody])
            mine = (table.c.model == self._model, table.c.lane == lane)
            taken = connection.execute(
                update(table)
                .where(*mine, (table.c.expires_at <= at) | (table.c.holder == self._holder))
                .values(holder=self._holder, fencing=table.c.fencing + 1, expires_at=at + self._ttl)
            )
            if taken.rowcount != 1:
                return None
            fencing = connection.execute(select(table.c.fencing).where(*mine)).scalar_one()
        return Lease(lane=lane, holder=self._holder, fencing=fencing, expires_at=at + self._ttl)

    def renew(self, lease: Lease) -> Lease:
        """Hold on to a lease. Raises LeaseLost when another has taken it over."""
        return self._extend(lease, self._ttl)

    def release(self, lease: Lease) -> None:
        """Give a lease back, so that the next holder need not wait. Raises LeaseLost."""
        self._extend(lease, timedelta(0))

    def _extend(self, lease: Lease, ttl: timedelta) -> Lease:
        table = tables.leases
        with connected(self._engine, write=True) as connection:
            until = _clock(connection) + ttl
            held = connection.execute(
                update(table)
                .where(table.c.model == self._model, table.c.lane == lease.lane, table.c.fencing == lease.fencing)
                .values(expires_at=until)
            )
        if held.rowcount != 1:
            raise LeaseLost(f"the lease on {self._model}/{lease.lane} (fencing {lease.fencing}) was taken over")
        return Lease(lane=lease.lane, holder=lease.holder, fencing=lease.fencing, expires_at=until)


def _clock(connection: Connection) -> datetime:
    """The database's time where it has one: the holders' own clocks may differ."""
    if connection.dialect.name == "postgresql":
        return connection.execute(select(func.clock_timestamp())).scalar_one()  # type: ignore[no-any-return]
    return now()
