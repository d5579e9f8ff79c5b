"""Holding a lease while a run goes on."""

import threading
from types import TracebackType
from typing import Self

from core.errors import LeaseLost, RatchetError, StoreUnavailable
from core.examples import Lease, LeaseKeeper
from core.logs import get_logger
from trainer import metrics


class HeldLease:
    """Renews a lease in a thread of its own; :meth:`check` tells whether it still holds."""

    def __init__(self, keeper: LeaseKeeper, lease: Lease, *, interval_s: float) -> None:
        self._keeper = keeper
        self._lease = lease
        self._interval_s = interval_s
        self._lost: RatchetError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        metrics.LEASE_HELD.set(1)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        metrics.LEASE_HELD.set(0)
        try:
            self._keeper.release(self._lease)
        except (LeaseLost, StoreUnavailable) as fault:  # it runs out by itself
            get_logger().warning("lease not released", lane=self._lease.lane, reason=str(fault))

    def check(self) -> None:
        """Raises LeaseLost once another trainer may hold the lane."""
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """Ask the database, before something that cannot be taken back. Raises LeaseLost, or StoreUnavailable."""
        self.check()
        self._lease = self._keeper.renew(self._lease)

    def _renew(self) -> None:
        failures = 0
        while not self._stop.wait(self._interval_s):
            try:
                self._keeper.renew(self._lease)
                failures = 0
            except LeaseLost as error:
                self._lost = error
                return
            except StoreUnavailable as error:
                failures += 1
                if failures >= 3:
                    self._lost = LeaseLost(f"the lease on {self._lease.lane} could not be renewed: {error}")
                    return
