"""The watch over the registry: when the champion changes, the servable changes, without a request noticing.

The new version is fetched, verified, loaded and warmed beside the present one; then one reference is exchanged. The one
before stays in memory, so that a rollback is the exchange alone. A version that cannot be served is refused on the
record and the present one goes on. While the registry is out of reach, nothing changes.
"""

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from core.bundle import Manifest
from core.errors import BundleError, RegistryUnavailable, TrialUnavailable, UnknownVersion
from core.logs import get_logger
from core.registry import Promotion, PromotionKind, Registry, Verdict
from core.registry.versions import forget_cached
from core.runtime import Engine, Servable
from service.loading import Loader, timed
from service.metrics import REFUSED_BUNDLES, REGISTRY_ERRORS, SWAPS
from service.threads import Backoff, Loop, at_low_priority

_ACTOR: Final = "service"
_EXPECTED_S: Final = 900.0  # so long a version that was loaded early waits for its promotion
_PATIENCE_S: Final = 1.0
"""For an early load that is under way; then the version is loaded once more, with more claim on the processor."""
_REST_S: Final = 2.0
"""After a flip the requests come first: to free a session and its files keeps them waiting for some 10 ms each."""
_log = get_logger()


@dataclass(frozen=True, kw_only=True)
class Live:
    """What answers now."""

    servable: Servable
    #: the entry that made it live
    promotion: Promotion
    verdict: Verdict | None
    #: False where the verdict could not be read when the version went live
    verdict_read: bool
    #: why this is not the champion; empty where it is
    degraded: str = ""

    @property
    def version(self) -> str:
        """The version's name."""
        return self.servable.version


@dataclass(frozen=True, kw_only=True)
class _Untried:
    """No version could be tried when the log ended with that entry."""

    number: int
    reason: str
    #: of the monotonic clock
    again_at: float


class _Expected:
    """A version that may be promoted soon, on its way into memory or there."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.servable: Servable | None = None
        self.done = threading.Event()
        self.until = time.monotonic() + _EXPECTED_S


class Swapper:
    """Keeps the servable that answers equal to the champion."""

    def __init__(
        self, registry: Registry, loader: Loader, *, poll_s: float, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._registry = registry
        self._loader = loader
        self._poll_s = poll_s
        self._on_change = on_change
        self._live: Live | None = None
        self._newest: Promotion | None = None
        self._resident: Servable | None = None  # the one that answered before
        self._prepared: Servable | None = None  # tried for an operator who is about to promote it
        self._expected: _Expected | None = None
        self._refused: dict[str, tuple[int, str]] = {}  # version: the promotion it was refused at, and why
        self._to_record: dict[str, str] = {}  # refusals that the registry does not hold yet
        self._recorded: set[str] = set()
        self._reachable = True
        self._untried: _Untried | None = None
        self._backoff = Backoff(longest_s=30.0)
        self._untidy = False  # the servable has changed and what is not needed any more is still there
        self._leaving: list[Servable] = []
        self._rests_until = 0.0
        self._loading = threading.Lock()
        self._remembered: Engine | None = None
        self._loop = Loop("swap", self.step)

    @property
    def live(self) -> Live | None:
        """What answers now; None until the first version is loaded."""
        return self._live

    @property
    def servable(self) -> Servable | None:
        """The servable of this moment: one atomic read."""
        live = self._live
        return live.servable if live else None

    @property
    def newest(self) -> Promotion | None:
        """The newest entry of the promotion log that was seen."""
        return self._newest

    @property
    def reachable(self) -> bool:
        """False while the registry cannot be reached."""
        return self._reachable

    @property
    def untried(self) -> str:
        """Why a version that should be live cannot even be tried; empty where nothing is in the way."""
        untried = self._untried
        return untried.reason if untried else ""

    @property
    def is_alive(self) -> bool:
        """True while the watch is kept."""
        return self._loop.is_alive

    def start(self) -> None:
        """Begin to watch."""
        self._loop.start()

    def stop(self, timeout_s: float) -> None:
        """End the watch."""
        self._loop.stop(timeout_s)

    def wake(self) -> None:
        """Look at once: somebody here has just written to the promotion log."""
        self._loop.wake()

    def prepare(self, version: str) -> None:
        """Load a version that an operator wants to promote, and keep it at hand for the swap. Raises as Loader.load."""
        with self._loading:
            live = self._live_manifest()
            servable = self._ready(version, live)
            if servable is None:
                self._prepared = self._load(version, live)
            elif self._is_expected(servable):
                self._prepared = servable

    def expect(self, version: str) -> None:
        """Try a version that may be promoted soon and, where there is room, have it ready. Raises as Loader.expect."""
        self._expected = expected = _Expected(version)
        try:
            servable = self._loader.expect(version, sharing=self.loaded())
            if self._at_hand(version) is None:
                expected.servable = servable
        finally:
            expected.done.set()

    def step(self) -> float:
        """Look once; returns the seconds to the next look."""
        if (expected := self._expected) is not None and time.monotonic() > expected.until:
            self._expected = None
        try:
            newest = self._registry.promotions.refresh()
            if newest is not None:
                self._look(newest)
            self._record_refusals()
        except RegistryUnavailable as error:
            REGISTRY_ERRORS.inc()
            self._note_reachable(False, error=str(error))
        else:
            self._note_reachable(True)
        return self._poll_s

    def _look(self, newest: Promotion) -> None:
        """Follow the log. Where no version can be tried, another attempt at the same entry waits longer each time."""
        untried = self._untried
        if untried is not None and untried.number == newest.number and time.monotonic() < untried.again_at:
            return
        try:
            self._follow(newest)
            self._tidy()
            self._keep_rollback_at_hand()
            self._remember_known_texts()
        except TrialUnavailable as error:
            if untried is None:
                _log.warning("no version can be tried now; what is live stays live", error=str(error))
            again_at = time.monotonic() + self._backoff.failed()
            self._untried = _Untried(number=newest.number, reason=str(error), again_at=again_at)
        else:
            self._untried = None
            self._backoff.succeeded()
            if untried is not None:
                _log.info("versions can be tried again")

    def _note_reachable(self, reachable: bool, **details: str) -> None:
        """Say once when the registry goes and once when it comes back."""
        if reachable == self._reachable:
            return
        self._reachable = reachable
        if reachable:
            _log.info("the registry is back")
        else:
            _log.warning("the registry cannot be reached; what is live stays live", **details)
        self._on_change()

    def _follow(self, newest: Promotion) -> None:
        live = self._live
        seen = self._newest is not None and self._newest.number == newest.number
        if seen and live is not None and live.verdict_read:
            return
        champion = self._registry.promotions.live_since(fresh=False)
        if champion is None:
            return
        if live is None or live.promotion.number != champion.number:
            if not self._go_to(champion, newest):
                self.wake()
                return
        elif not live.verdict_read:
            self._replace(live.servable, champion)
        self._newest = newest
        if not seen:
            self._on_change()

    def _go_to(self, champion: Promotion, newest: Promotion) -> bool:
        """Serve the champion or, where nothing good answers and it cannot be served, the newest good version before.

        False, with nothing changed, where the log has moved on while a version was loaded: then it may have been rolled back.
        """
        degraded = ""
        for candidate in self._candidates(champion):
            live = self._live
            if degraded and live is not None and self._is_good(live.version, champion):
                self._live = replace(live, degraded=degraded)  # it is better than anything older
                return True
            at_hand = self._at_hand(candidate.version) is not None
            try:
                servable = self._obtain(candidate, champion)
            except (BundleError, UnknownVersion) as error:
                degraded = degraded or f"{champion.version} cannot be served: {error}"
                continue
            if not at_hand and self._has_moved_on(newest):
                self._prepared = servable
                return False
            self._replace(servable, candidate, degraded=degraded)
            return True
        return True

    def _has_moved_on(self, newest: Promotion) -> bool:
        try:
            now_newest = self._registry.promotions.refresh()
        except RegistryUnavailable:  # what was seen last holds
            return False
        return now_newest is not None and now_newest.number != newest.number

    def _candidates(self, champion: Promotion) -> list[Promotion]:
        """The champion, then older good versions, newest first, each by the entry that made it live."""
        bad = self._registry.promotions.bad_versions(fresh=False)
        found = {champion.version: champion}
        for entry in reversed(self._registry.promotions.entries(fresh=False)):
            if entry.kind in (PromotionKind.PROMOTE, PromotionKind.ROLLBACK) and entry.version not in bad:
                found.setdefault(entry.version, entry)
        return list(found.values())

    def _is_good(self, version: str, champion: Promotion) -> bool:
        return version != champion.version and version not in self._registry.promotions.bad_versions(fresh=False)

    def _obtain(self, candidate: Promotion, champion: Promotion) -> Servable:
        version = candidate.version
        refused = self._refused.get(version)
        if refused is not None and refused[0] == candidate.number:
            raise BundleError(refused[1])
        expected = self._expected
        if expected is not None and expected.version == version:
            expected.done.wait(_PATIENCE_S)
        # Going back must always be possible, also to what was slower.
        onward = candidate.kind == PromotionKind.PROMOTE and version == champion.version
        live = self._live_manifest() if onward else None
        try:
            return self._loaded(candidate, live)
        except (BundleError, UnknownVersion) as error:
            self._refuse(candidate, str(error))
            if version == champion.version and not isinstance(error, UnknownVersion):
                self._to_record[version] = str(error)
            raise

    def _loaded(self, candidate: Promotion, live: Manifest | None) -> Servable:
        version = candidate.version
        if (servable := self._ready(version, live)) is not None:  # a rollback waits for nobody who is trying a version
            return servable
        with self._loading:
            if (servable := self._at_hand(version)) is not None:
                return servable
            _log.info("loading", version=version, promotion=candidate.number)
            return self._load(version, live)

    def _ready(self, version: str, live: Manifest | None) -> Servable | None:
        """A version that is at hand. Raises UnservableBundle where it was loaded early and is much slower than the live one."""
        servable = self._at_hand(version)
        if servable is not None and live is not None and self._is_expected(servable):
            self._loader.check_speed(servable.manifest, live)
        return servable

    def _load(self, version: str, live: Manifest | None = None) -> Servable:
        """Load a version. What is about to be let go is, at once: its memory may be needed."""
        self._leaving.clear()
        return self._loader.load(version, sharing=self.loaded(), live=live)

    def _is_expected(self, servable: Servable) -> bool:
        return self._expected is not None and self._expected.servable is servable

    def _keep_rollback_at_hand(self) -> None:
        """Load what a rollback would return to, so that it is a matter of milliseconds after a restart, too."""
        target = self._registry.promotions.rollback_target(fresh=False)
        if self._is_outdated():
            return  # perhaps back to the very version that would be let go
        if target is None or target in self._refused or self.servable is None or self._at_hand(target) is not None:
            return
        if not self._loading.acquire(blocking=False):  # an operator is trying a version: at a later look
            return
        try:
            self._resident = self._load(target)
        except (BundleError, UnknownVersion) as error:
            self._refused[target] = (0, str(error))
            _log.warning("a rollback could not return to this version", version=target, reason=str(error))
        finally:
            self._loading.release()

    def _is_outdated(self) -> bool:
        """True if the log has moved on since this look began."""
        entries, newest = self._registry.promotions.entries(fresh=False), self._newest
        return newest is None or entries[-1].number != newest.number

    def _remember_known_texts(self) -> None:
        """Once for a session, and after all else: the next version that shares it is compared at once then."""
        servable = self.servable
        if servable is None or servable.engine is self._remembered or self._rests() or self._is_outdated():
            return
        self._remembered = servable.engine
        at_low_priority(servable.remember_known_texts)

    def is_loading(self) -> bool:
        """True while a version is tried or loaded for a promotion."""
        return self._loading.locked()

    def _live_version(self) -> str:
        return self._live.version if self._live else ""

    def _live_manifest(self) -> Manifest | None:
        return self._live.servable.manifest if self._live else None

    def _at_hand(self, version: str) -> Servable | None:
        held = [*self.loaded(), *self._leaving]
        return next((servable for servable in held if servable.version == version), None)

    def loaded(self) -> list[Servable]:
        """The servables in memory."""
        expected = self._expected.servable if self._expected else None
        held = (self.servable, self._resident, self._prepared, expected)
        return [servable for servable in held if servable is not None]

    def _in_use(self) -> set[str]:
        """Versions whose files are still wanted."""
        return {self._loader.expected, *(servable.version for servable in self.loaded())}

    def _refuse(self, candidate: Promotion, reason: str) -> None:
        self._refused[candidate.version] = (candidate.number, reason)
        REFUSED_BUNDLES.inc()
        SWAPS.labels(result="refused").inc()
        _log.error("this version cannot be served", version=candidate.version, reason=reason)

    def _record_refusals(self) -> None:
        """Put refusals on record, once for each version. Raises RegistryUnavailable; what is left is tried again."""
        for version, reason in list(self._to_record.items()):
            if version not in self._recorded:
                self._registry.record_refusal(version, reason=reason, actor=_ACTOR)
                self._recorded.add(version)
            del self._to_record[version]

    def _replace(self, servable: Servable, promotion: Promotion, *, degraded: str = "") -> None:
        verdict, verdict_read = self._verdict(servable.version)
        before = self._live
        with timed("flip"):
            self._live = Live(
                servable=servable, promotion=promotion, verdict=verdict, verdict_read=verdict_read, degraded=degraded
            )
        if before is not None and before.servable is servable:
            return
        SWAPS.labels(result="degraded" if degraded else "swapped").inc()
        _log.info(
            "live",
            version=servable.version, promotion=promotion.number, provider=servable.provider, precision=servable.precision,
        )  # fmt: skip
        self._on_change()
        self._let_go(before.servable if before else None)

    def _verdict(self, version: str) -> tuple[Verdict | None, bool]:
        """What the gate said, and True if that could be read: going live does not hang on it."""
        try:
            return self._registry.verdict(version), True
        except RegistryUnavailable:
            return None, False
        except ValueError as error:
            _log.warning("the verdict cannot be read", version=version, error=str(error))
            return None, True

    def _let_go(self, before: Servable | None) -> None:
        """Keep only the one before; give the memory of older ones back."""
        self._leaving += [old for old in (self._resident, self._prepared) if old is not None]
        self._resident, self._prepared, self._untidy = before, None, True
        self._rests_until = time.monotonic() + (_REST_S if before else 0.0)
        if self._expected is not None and self._expected.version == self._live_version():
            self._expected = None
        self._tidy()

    def _rests(self) -> bool:
        return time.monotonic() < self._rests_until

    def _tidy(self) -> None:
        """Let go of what is not needed any more: at a later look where an operator is trying a version.

        That one would lose its files, and the watch does not wait for it: the next entry may be a rollback.
        """
        if not self._untidy or self._rests() or not self._loading.acquire(blocking=False):
            return
        try:
            self._untidy = False
            self._leaving.clear()
            forget_cached(self._loader.cache, keep=self._in_use())
        finally:
            self._loading.release()
        gc.collect()
        if self._resident is None:  # the first
            # What was imported and built by now stays for good: the collector need not look at it again, nor so often.
            gc.freeze()
            gc.set_threshold(50_000, 50, 100)
