"""The append-only log of promotions: which version is live, and since when, and why.

``promotions/<n>.json`` is written with put-if-absent, so that of any number of racing writers one wins. Everything that
moves or holds the champion is an entry: promotions, rollbacks, pauses and their ends. The newest entry is the whole truth.
"""

import contextlib
import threading
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, Field

from core.errors import Conflict, PromotionsPaused, RegistryUnavailable, UnknownVersion, VerdictVoid
from core.events import Record, now
from core.registry.objects import ObjectStore, readable


class PromotionKind(StrEnum):
    """What an entry does."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    PAUSE = "pause"
    RESUME = "resume"


class Promotion(Record):
    """One entry of the log."""

    schema_version: Literal[1] = 1
    number: int = Field(ge=1)
    kind: PromotionKind
    version: str
    previous: str | None
    reason: str
    actor: str
    #: True where the gate decided, False where a person did
    automatic: bool = False
    #: automatic promotions are held from here on, until ``hold_until`` or, where that is None, until resumed
    hold: bool = False
    hold_until: AwareDatetime | None = None
    #: versions that this entry declares bad: no rollback returns to them
    bad: list[str] = Field(default_factory=list)
    at: AwareDatetime = Field(default_factory=now)

    def holds(self, at: datetime) -> bool:
        """True while automatic promotions are held."""
        return self.hold and (self.hold_until is None or at < self.hold_until)


class PromotionLog:
    """The log of one model. Thread-safe. Entries never change, so what was read once is kept.

    Questions read what is new first; with ``fresh=False`` they are answered from what was read before, and do not raise.
    """

    def __init__(self, objects: ObjectStore, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix
        self._entries: list[Promotion] = []
        self._lock = threading.Lock()

    def refresh(self) -> Promotion | None:
        """Read what is new and return the newest entry; None where nothing was ever promoted.

        Raises:
            RegistryUnavailable: out of reach, or an entry that cannot be read.
        """
        with self._lock:
            while (document := self._objects.get(path := self._path(len(self._entries) + 1))) is not None:
                with readable(path):
                    self._entries.append(Promotion.model_validate_json(document))
            return self._entries[-1] if self._entries else None

    def entries(self, *, fresh: bool = True) -> list[Promotion]:
        """All entries, oldest first."""
        if fresh:
            self.refresh()
        with self._lock:
            return list(self._entries)

    def live_since(self, *, fresh: bool = True) -> Promotion | None:
        """The entry that made the present champion live."""
        entries = self.entries(fresh=fresh)
        for entry in reversed(entries):
            if entry.kind in (PromotionKind.PROMOTE, PromotionKind.ROLLBACK):
                return entry
        return None

    def bad_versions(self, *, fresh: bool = True) -> set[str]:
        """Versions that a rollback left behind and no operator has promoted again since."""
        bad: set[str] = set()
        for entry in self.entries(fresh=fresh):
            bad |= set(entry.bad)
            bad.discard(entry.version)
        return bad

    def promote(
        self, version: str, *, judged_against: int, reason: str, actor: str, automatic: bool = True
    ) -> Promotion:
        """Make a version the champion, if the log still ends where it was judged.

        Args:
            version: the version that passed.
            judged_against: number of the newest entry at the time of the verdict; 0 where there was none.
            reason: what the verdict says.
            actor: who promotes.
            automatic: False where a person has decided.

        Raises:
            VerdictVoid: the log has grown since; judge again.
            PromotionsPaused: automatic promotions are held.
        """
        newest = self.refresh()
        number = newest.number if newest else 0
        if number != judged_against:
            raise VerdictVoid(f"judged against promotion {judged_against}, but {number} is the newest; judge again")
        if automatic and newest and newest.holds(now()):
            until = newest.hold_until.isoformat(timespec="seconds") if newest.hold_until else "an operator resumes them"
            raise PromotionsPaused(f"automatic promotions are paused until {until}: {newest.reason}")
        entry = Promotion(
            number=number + 1,
            kind=PromotionKind.PROMOTE,
            version=version,
            previous=newest.version if newest else None,
            reason=reason,
            actor=actor,
            automatic=automatic,
        )
        if not self._append(entry):
            raise VerdictVoid(f"promotion {number + 1} was written by another meanwhile; judge again")
        return entry

    def promote_by_operator(self, version: str, *, reason: str, actor: str) -> Promotion:
        """Make a version the champion whatever it is judged to be; a hold stays as it is."""
        while True:
            newest = self.refresh()
            entry = Promotion(
                number=newest.number + 1 if newest else 1,
                kind=PromotionKind.PROMOTE,
                version=version,
                previous=newest.version if newest else None,
                reason=reason,
                actor=actor,
                hold=newest.hold if newest else False,
                hold_until=newest.hold_until if newest else None,
            )
            if self._append(entry):
                return entry

    def rollback(
        self, *, reason: str, actor: str, hold_until: datetime | None, bad_version: str | None = None
    ) -> Promotion:
        """Return to the newest good version before the champion, mark the champion bad, hold automatic promotions.

        Args:
            reason: why; it is kept.
            actor: who.
            hold_until: end of the hold; None: until it is resumed. An earlier hold that lasts longer stays.
            bad_version: the version that is meant; None: whatever is live.

        Raises:
            UnknownVersion: there is no earlier good version.
            Conflict: ``bad_version`` is not live any more.
        """
        while True:
            newest = self._newest()
            if bad_version not in (None, newest.version):
                raise Conflict(f"{bad_version} is not live any more, {newest.version} is; look again")
            target = self.rollback_target()
            if target is None:
                raise UnknownVersion(f"there is no good version before {newest.version} to roll back to")
            entry = Promotion(
                number=newest.number + 1,
                kind=PromotionKind.ROLLBACK,
                version=target,
                previous=newest.version,
                reason=reason,
                actor=actor,
                hold=True,
                hold_until=_later_end(newest, hold_until),
                bad=[newest.version],
            )
            if self._append(entry):
                return entry

    def pause(self, *, reason: str, actor: str, until: datetime | None = None) -> Promotion:
        """Hold automatic promotions."""
        return self._hold(PromotionKind.PAUSE, hold=True, until=until, reason=reason, actor=actor)

    def resume(self, *, reason: str, actor: str) -> Promotion:
        """End a hold."""
        return self._hold(PromotionKind.RESUME, hold=False, until=None, reason=reason, actor=actor)

    def _hold(self, kind: PromotionKind, *, hold: bool, until: datetime | None, reason: str, actor: str) -> Promotion:
        while True:
            newest = self._newest()
            entry = Promotion(
                number=newest.number + 1,
                kind=kind,
                version=newest.version,
                previous=newest.version,
                reason=reason,
                actor=actor,
                hold=hold,
                hold_until=_later_end(newest, until) if hold else None,
            )
            if self._append(entry):
                return entry

    def _newest(self) -> Promotion:
        newest = self.refresh()
        if newest is None:
            raise Conflict("no version is live yet, so there is nothing to hold or to roll back")
        return newest

    def rollback_target(self, *, fresh: bool = True) -> str | None:
        """The version that a rollback would return to now; None where there is none."""
        entries = self.entries(fresh=fresh)
        refused = self.bad_versions(fresh=False) | {entry.version for entry in entries[-1:]}
        return next((entry.version for entry in reversed(entries) if entry.version not in refused), None)

    def _append(self, entry: Promotion) -> bool:
        written = self._objects.create(self._path(entry.number), entry.model_dump_json(indent=1).encode())
        with contextlib.suppress(RegistryUnavailable):  # the entry stands; the next call reads it
            self.refresh()
        return written

    def _path(self, number: int) -> str:
        return f"{self._prefix}/promotions/{number:08d}.json"


def _later_end(newest: Promotion, until: datetime | None) -> datetime | None:
    """The end of a new hold: a short pause must not cut short a longer hold, and None is endless."""
    if not newest.holds(now()):
        return until
    if until is None or newest.hold_until is None:
        return None
    return max(until, newest.hold_until)
