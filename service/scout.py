"""Versions are tried before they are promoted: while the gate still judges them, when nobody waits for it.

A trial takes a good part of the time from a promotion to the version being live, most of it waiting for a processor that
serving keeps busy. So a version is fetched and tried as soon as it is in the registry. What a trial finds is only remembered:
a version that fails is refused when it is promoted, with its reason and on the record.
"""

from collections.abc import Callable, Sequence
from typing import Final

from core.errors import BundleError, RegistryUnavailable, TrialUnavailable, UnknownVersion
from core.logs import get_logger
from core.registry import Registry
from core.runtime import Servable
from service.loading import Loader
from service.threads import Loop, at_low_priority

_EVERY_S: Final = 2.0  # a list costs a store more than a look at the promotion log; the gate takes longer
_log = get_logger()


class Scout:
    """Looks for new versions."""

    def __init__(
        self,
        registry: Registry,
        loader: Loader,
        *,
        at_hand: Callable[[], Sequence[Servable]],
        every_s: float = _EVERY_S,
    ) -> None:
        """Prepare.

        Args:
            registry: where versions appear.
            loader: tries them, and remembers.
            at_hand: the servables whose sessions a version may share; it needs no trial then.
            every_s: seconds from look to look.
        """
        self._registry = registry
        self._loader = loader
        self._at_hand = at_hand
        self._every_s = every_s
        self._seen: set[str] | None = None
        self._loop = Loop("scout", self.step)

    def start(self) -> None:
        """Begin to look."""
        self._loop.start()

    def stop(self, timeout_s: float) -> None:
        """End it."""
        self._loop.stop(timeout_s)

    @property
    def is_alive(self) -> bool:
        """True while it looks."""
        return self._loop.is_alive

    def step(self) -> float:
        """Look once; returns the seconds to the next look."""
        try:
            names = self._registry.versions()
        except RegistryUnavailable:  # whoever watches the promotions says so
            return self._every_s
        seen = self._seen if self._seen is not None else set(names)  # those from before the start had their time
        fresh = [name for name in names if name not in seen]
        self._seen = set(names)
        if fresh:
            self._try(fresh[-1])
        return self._every_s

    def _try(self, version: str) -> None:
        try:
            at_low_priority(lambda: self._loader.expect(version, sharing=self._at_hand()))
        except (BundleError, UnknownVersion) as error:
            _log.warning("a new version would be refused", version=version, reason=str(error))
        except (RegistryUnavailable, TrialUnavailable) as error:
            _log.info("a new version could not be tried early", version=version, reason=str(error))
