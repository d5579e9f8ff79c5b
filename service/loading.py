"""A version on its way from the registry to a servable that is warm: measured, fetched, verified, tried, loaded."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from core.bundle import MODEL, TOKENIZER, Manifest, ModelBundle
from core.errors import BadSettings, RegistryUnavailable, TrialUnavailable, UnservableBundle
from core.logs import get_logger
from core.registry import Registry
from core.runtime import Servable, files_to_load
from core.sessions import wants_gpu
from service.memory import available_bytes, check_fits, needed_bytes
from service.metrics import SWAP_SECONDS, TRIALS_UNAVAILABLE
from service.threads import at_low_priority
from service.trial import Trial
from service.warmup import TRIAL_SHAPES, warm_up

_SLOW_S: Final = 1.0
"""Of the processor for one short text: what takes longer is not served, whatever was live before."""
_QUICK_S: Final = 0.005
"""What takes less is never refused as slow: five times next to nothing is still nothing."""
_REMEMBERED: Final = 64
_ROOM: Final = 3  # so many times what a version needs must be free for it to be loaded before anybody asks for it
_PATIENCE_S: Final = 2.0  # about what an early trial still takes

_log = get_logger()
_Graph = tuple[str, str, int]
"""What a trial is about: the digests of graph and tokenizer, and the longest text."""


@contextmanager
def timed(phase: str) -> Iterator[None]:
    """Measure a phase of a swap."""
    started = time.perf_counter()
    yield
    SWAP_SECONDS.labels(phase=phase).observe(time.perf_counter() - started)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a version may take: the time of one text in the live version's, and bytes of files and of a GPU (0: no limit)."""

    latency_ratio: float = 5.0
    max_model_bytes: int = 0
    gpu_memory_bytes: int = 0


_NO_LIMITS: Final = Limits()


class Loader:
    """Loads versions of one model and one task."""

    def __init__(
        self,
        registry: Registry,
        cache: Path,
        *,
        model: str,
        task: str,
        device: str = "auto",
        trial: Trial | None = None,
        limits: Limits = _NO_LIMITS,
    ) -> None:
        """Prepare.

        Args:
            registry: where versions come from.
            cache: folder that fetched versions are kept in.
            model: whose versions.
            task: what they must be for.
            device: where they run.
            trial: where versions are tried; None: nowhere.
            limits: what a version may take.
        """
        self._registry = registry
        self._model = model
        self._task = task
        self._device = device
        self._trial = trial
        self._limits = limits
        self._passed: dict[_Graph, float] = {}  # seconds of one text, by what passed a trial
        self._proved: dict[str, None] = {}  # versions that passed one themselves
        self._trying = threading.Lock()
        self.cache = cache
        #: fetched because it may be promoted soon
        self.expected = ""

    def load(self, version: str, *, sharing: Sequence[Servable] = (), live: Manifest | None = None) -> Servable:
        """A warm servable. One at hand with the same graph lends its session: then only the head is fetched and loaded.

        Args:
            version: its name.
            sharing: servables at hand.
            live: the version that it must not be much slower than, where there is one.

        Raises:
            UnknownVersion: no such version.
            BundleError: it must not be served.
            RegistryUnavailable: the registry or the cache cannot be reached; the version may be fine.
            TrialUnavailable: it could not be tried.
        """
        bundle, lends = at_low_priority(partial(self._fetch, version, sharing))
        if lends:
            return self._load(bundle, sharing=sharing, known_answers=True)
        self._try(bundle, live)
        proved = version in self._proved
        return at_low_priority(lambda: self._load(bundle, sharing=(), known_answers=not proved))

    def expect(self, version: str, *, sharing: Sequence[Servable] = ()) -> Servable | None:
        """Fetch, try and load a version that may be promoted soon, at the others' leisure. Raises as :meth:`load`.

        Returns:
            None where a promotion has nothing to wait for, or where there is no room for one more session.
        """
        self.expected = version
        bundle, lends = at_low_priority(partial(self._fetch, version, sharing))
        del sharing  # a trial takes its time; what is let go meanwhile is to be freed
        if lends:
            return None
        self._try(bundle, None, early=True)
        if wants_gpu(self._device) or not self._has_room(bundle.manifest):
            return None
        proved = version in self._proved
        return at_low_priority(lambda: self._load(bundle, sharing=(), known_answers=not proved))

    def check_speed(self, manifest: Manifest, live: Manifest) -> None:
        """Raise UnservableBundle where a version that has passed a trial is much slower than the live one."""
        seconds, of_live = self._passed.get(_graph(manifest)), self._passed.pop(_graph(live), None)
        if of_live is not None:
            self._passed[_graph(live)] = of_live  # the last to be forgotten
        if seconds is None or of_live is None or _graph(live) == _graph(manifest):
            return
        if seconds > max(_QUICK_S, self._limits.latency_ratio * of_live):
            raise UnservableBundle(
                f"{manifest.version} is too slow: {_ms(seconds)} for one text, the live version takes {_ms(of_live)} "
                f"and swap_latency_ratio is {self._limits.latency_ratio:g}"
            )

    def _has_room(self, manifest: Manifest) -> bool:
        available = available_bytes()
        return available is not None and available > _ROOM * needed_bytes(manifest)

    def _fetch(self, version: str, sharing: Sequence[Servable]) -> tuple[ModelBundle, bool]:
        """The files to load, verified, and whether a servable at hand lends its session."""
        manifest = self._registry.manifest(version)
        self._check(manifest)
        names = files_to_load(manifest, device=self._device, sharing=sharing)
        lends = MODEL not in names
        if not lends:
            check_fits(manifest, max_model_bytes=self._limits.max_model_bytes, available=available_bytes())
        with timed("fetch"):
            try:
                return self._registry.fetch(version, self.cache, names=names), lends
            except OSError as error:
                raise RegistryUnavailable(f"{version} cannot be kept below {self.cache}: {error}") from error

    def _check(self, manifest: Manifest) -> None:
        if manifest.task != self._task:
            raise UnservableBundle(f"{manifest.version} is for the task {manifest.task!r}, this is {self._task!r}")
        if manifest.model != self._model:
            raise UnservableBundle(f"{manifest.version} is of the model {manifest.model!r}, this is {self._model!r}")

    def _try(self, bundle: ModelBundle, live: Manifest | None, *, early: bool = False) -> None:
        """Hold a trial, unless the same graph has passed one. A version that changes only its head needs none."""
        if self._trial is None:
            return
        manifest = bundle.manifest
        graph = _graph(manifest)
        seconds = self._passed.get(graph)
        if seconds is None:
            with self._turn(self._trial, is_early=early):
                seconds = self._passed.get(graph)  # whoever came while the same was tried need not try it again
                if seconds is None:
                    seconds = self._hold_trial(self._trial, bundle, early=early)
                    self._remember(manifest.version, graph, seconds)
        if live is not None:
            self.check_speed(manifest, live)

    @contextmanager
    def _turn(self, trial: Trial, *, is_early: bool) -> Iterator[None]:
        """One trial at a time; one that nobody waits for is ended where it keeps a promotion waiting."""
        if not self._trying.acquire(timeout=-1 if is_early else _PATIENCE_S):
            trial.interrupt()
            self._trying.acquire()
        try:
            yield
        finally:
            self._trying.release()

    def _remember(self, version: str, graph: _Graph, seconds: float) -> None:
        self._passed[graph] = seconds
        self._proved[version] = None
        while len(self._passed) > _REMEMBERED:
            del self._passed[next(iter(self._passed))]
        while len(self._proved) > _REMEMBERED:
            del self._proved[next(iter(self._proved))]

    def _hold_trial(self, trial: Trial, bundle: ModelBundle, *, early: bool) -> float:
        """CPU seconds of one text. Raises UnservableBundle, or TrialUnavailable."""
        try:
            with timed("trial"):
                report = trial.run(bundle, available=available_bytes(), early=early)
        except TrialUnavailable:
            TRIALS_UNAVAILABLE.inc()
            raise
        _log.info("tried", version=bundle.manifest.version, **asdict(report))
        if report.seconds > _SLOW_S:
            raise UnservableBundle(
                f"{bundle.manifest.version} is too slow: {_ms(report.seconds)} for one text, at most {_ms(_SLOW_S)}"
            )
        return report.seconds

    def _load(self, bundle: ModelBundle, *, sharing: Sequence[Servable], known_answers: bool) -> Servable:
        version = bundle.manifest.version
        with timed("load"):
            try:
                servable = Servable.load(
                    bundle,
                    device=self._device,
                    gpu_memory_bytes=self._limits.gpu_memory_bytes,
                    sharing=sharing,
                    known_answers=known_answers,
                )
            except BadSettings as error:  # its manifest names something that this program does not know
                raise UnservableBundle(f"{version}: {error}") from error
        if not sharing:  # or the session is the lender's, and warm
            with timed("warmup"):
                if known_answers:  # no trial has shown it just now
                    warm_up(servable, TRIAL_SHAPES)
                warm_up(servable)
        return servable


def _graph(manifest: Manifest) -> _Graph:
    return manifest.files[MODEL].sha256, manifest.files[TOKENIZER].sha256, manifest.max_tokens


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
