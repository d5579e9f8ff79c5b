"""Versions are tried and loaded before they are promoted: while the gate still judges them, when nobody waits for it.

Trial and load are the time from a promotion to the version being live, and they take the processor from serving. So the
newest version is fetched, tried and loaded when it has come into the registry, where the processor is idle. One that fails is
tried again when it is promoted, and then refused with its reason and on the record.
"""

from collections.abc import Callable
from typing import Final

from core.errors import BundleError, RegistryUnavailable, TrialUnavailable, UnknownVersion
from core.logs import get_logger
from core.registry import Registry
from service.threads import Loop

_EVERY_S: Final = 2.0  # a list costs a store more than a look at the promotion log; the gate takes longer
_log = get_logger()


class Scout:
    """Looks for new versions."""

    def __init__(
        self,
        registry: Registry,
        expect: Callable[[str], None],
        *,
        is_busy: Callable[[], bool] = lambda: False,
        every_s: float = _EVERY_S,
    ) -> None:
        """Prepare.

        Args:
            registry: where versions appear.
            expect: makes a version ready, see ``Swapper.expect``.
            is_busy: True while a version is loaded for somebody who waits.
            every_s: seconds from look to look.
        """
        self._registry = registry
        self._expect = expect
        self._is_busy = is_busy
        self._every_s = every_s
        self._seen: set[str] | None = None
        self._loop = Loop("scout", self.step)

    def start(self) -> None:
        """Begin to look."""
        self._loop.start()

    def stop(self, timeout_s: float) -> None:
        """End it."""
        self._loop.stop(timeout_s)

    def step(self) -> float:
        """Look once; returns the seconds to the next look."""
        try:
            names = self._registry.versions()
        except RegistryUnavailable:  # whoever watches the promotions says so
            return self._every_s
        seen = self._seen if self._seen is not None else set(names)  # those from before the start had their time
        fresh = [name for name in names if name not in seen]
        if fresh and self._is_busy():  # two loads at once may be more than there is memory for
            return self._every_s
        self._seen = set(names)
        if fresh and not self._try(fresh[-1]):
            self._seen.discard(fresh[-1])
        return self._every_s

    def _try(self, version: str) -> bool:
        """False where it is to be tried again at the next look: it is not whole yet, or there was no trial."""
        try:
            self._expect(version)
        except BundleError as error:
            _log.warning("a new version would be refused", version=version, reason=str(error))
        except (RegistryUnavailable, TrialUnavailable, UnknownVersion) as error:
            _log.info("a new version could not be tried early", version=version, reason=str(error))
            return False
        return True
