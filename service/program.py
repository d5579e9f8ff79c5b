"""The service put together: every part once, and the order in which they start and end."""

import asyncio
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from core.cores import usable_cores
from core.eventlog import open_log
from core.events import now
from core.logs import get_logger
from core.masking import Masker
from core.registry import Registry
from core.sessions import wants_gpu
from core.settings import Settings, id_key
from core.status import StatusFile
from core.tasks import get_task
from service.auth import Hosts, Keys
from service.batcher import Batcher
from service.drainer import Drainer
from service.loading import Limits, Loader
from service.metrics import MASKED, Reading
from service.outbox import Outbox
from service.problems import DeadlineExceeded
from service.recorder import Recorder
from service.scout import Scout
from service.swap import Swapper
from service.threads import Loop
from service.trial import POSSIBLE, Trial

if TYPE_CHECKING:
    from core.examples import ExampleStore

_STATUS_EVERY_S: Final = 1.0
_ACKNOWLEDGED: Final = 20_000
_GPU_LANES: Final = 2
_log = get_logger()
T = TypeVar("T")


class Program:
    """All parts of the service."""

    def __init__(self, settings: Settings) -> None:
        """Put the parts together; nothing runs or connects yet.

        Raises:
            BadSettings: a part cannot work with its settings.
        """
        self.settings = settings
        self.task = get_task(settings.task)
        self.masker = Masker.of(settings.masking_policy, lambda kind: MASKED.labels(kind=kind).inc())
        #: of the digests that stand for annotators
        self.id_key = id_key(settings)
        self.keys = Keys(settings.api_keys)
        self.hosts = Hosts(settings.allowed_hosts)
        self.registry = Registry(settings.registry_store_url, settings.model)
        self.trial = None
        if POSSIBLE:
            self.trial = Trial(
                device=settings.device,
                gpu_memory_bytes=settings.gpu_memory_bytes,
                timeout_s=settings.trial_timeout_s,
            )
        self.loader = Loader(
            self.registry,
            _cache_folder(settings),
            model=settings.model,
            task=settings.task,
            device=settings.device,
            trial=self.trial,
            limits=Limits(
                latency_ratio=settings.swap_latency_ratio,
                max_model_bytes=settings.max_model_bytes,
                gpu_memory_bytes=settings.gpu_memory_bytes,
            ),
        )
        self.swapper = Swapper(self.registry, self.loader, poll_s=settings.registry_poll_s, on_change=self.write_status)
        self.scout = Scout(self.registry, self.swapper.expect, is_busy=self.swapper.is_loading)
        self.batcher = Batcher(
            lambda: self.swapper.servable,
            lanes=settings.lanes or _lanes(settings),
            queue_limit=settings.queue_limit,
            batch_tokens=settings.batch_tokens,
            queue_wait_s=settings.queue_wait_s,
        )
        self.event_log = open_log(settings.event_log_url, partitions=settings.log_partitions)
        self.recorder = Recorder(self.event_log, limit=settings.record_queue)
        path = settings.home / "outbox" / "service.db"
        self.outbox = Outbox(path, max_bytes=settings.outbox_max_bytes)
        self.drainer = Drainer(path, self.event_log, max_bytes=settings.outbox_max_bytes)
        self.acknowledged = Acknowledged(_ACKNOWLEDGED)
        #: predictions that somebody was asked about: the review queue need not wait for the log to leave them out
        self.answered = Acknowledged(_ACKNOWLEDGED)
        self._store: ExampleStore | None = None
        self._store_lock = threading.Lock()
        self._status = StatusFile(settings.home, "service")
        self._keeper = Loop("status", self._keep)
        self._parent: int | None = None
        # Slow questions to the registry and the store, apart: one that hangs must not hold up the other.
        self._registry_calls, self._store_calls = CapacityLimiter(4), CapacityLimiter(4)
        # A version that hangs keeps its trial for as long as it may: a rollback must not wait for that.
        self._orders, self._preparations = CapacityLimiter(1), CapacityLimiter(1)
        self.streams = asyncio.Semaphore(settings.max_streams)

    def start(self, *, end_with_parent: bool = False) -> None:
        """Start all threads; returns at once.

        Args:
            end_with_parent: stop this process when its parent is gone. BentoML's supervisor, killed hard, leaves its
                workers behind, and they would keep the port and the outbox from the next start.
        """
        self._parent = os.getppid() if end_with_parent else None
        if self.trial is not None:
            self.trial.start()
        self.outbox.start(self.drainer.wake)
        for part in (self.drainer, self.recorder, self.batcher, self.swapper, self.scout, self._keeper):
            part.start()

    def stop(self, timeout_s: float = 8.0) -> None:
        """Answer, record and drain what is left, within about ``timeout_s`` seconds; feedback stays on disk."""
        deadline = time.monotonic() + timeout_s

        def left(share: float = 1.0) -> float:
            return max(0.1, (deadline - time.monotonic()) * share)

        if self.trial is not None:
            self.trial.stop()
        self._keeper.stop(left(0.2))
        self.scout.stop(left(0.2))
        self.swapper.stop(left(0.2))
        self.batcher.stop(left(0.2))
        self.outbox.stop(left(0.5))
        self.drainer.stop(left(0.5))
        self.recorder.stop(left())
        self.event_log.close()
        if self._store is not None:
            self._store.close()
        self._status.write("stopped")

    @property
    def is_alive(self) -> bool:
        """True while every thread that an answer hangs on works."""
        return self.batcher.is_alive and self.swapper.is_alive and self.outbox.is_alive

    def store(self) -> "ExampleStore":
        """The example store, opened at the first question. Raises StoreUnavailable."""
        # A second of importing SQLAlchemy that no prediction should wait for after a start.
        from core.examples import ExampleStore  # noqa: PLC0415

        with self._store_lock:
            if self._store is None:
                self._store = ExampleStore(self.settings.example_store_url, self.settings.model)
            return self._store

    async def ask_registry(self, question: Callable[[], T]) -> T:
        """Run a blocking question to the registry beside the event loop. Raises DeadlineExceeded."""
        return await self._ask(self._registry_calls, question)

    async def order(self, change: Callable[[], T]) -> T:
        """Run a change of the registry beside the event loop, to its end: who gave up could not tell if it was made."""
        return await run_sync(change, limiter=self._orders)

    async def prepare(self, preparation: Callable[[], T]) -> T:
        """Run what must be done before an order and takes long, one at a time, to its end; orders do not wait for it."""
        return await run_sync(preparation, limiter=self._preparations)

    async def ask_store(self, question: "Callable[[ExampleStore], T]") -> T:
        """Run a blocking question to the example store beside the event loop. Raises also StoreUnavailable."""
        return await self._ask(self._store_calls, lambda: question(self.store()))

    async def _ask(self, limiter: CapacityLimiter, question: Callable[[], T]) -> T:
        limit = max(self.settings.request_timeout_s, 1.0)
        try:
            async with asyncio.timeout(limit):
                return await run_sync(question, limiter=limiter, abandon_on_cancel=True)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {limit:g} s; try again") from None

    def readings(self) -> Iterator[Reading]:
        """The gauges of this moment."""
        live = self.swapper.live
        if live is not None:
            yield Reading("ratchet_live_version_info", 1, {"version": live.version})
            servable = live.servable
            yield Reading("ratchet_provider_info", 1, {"provider": servable.provider, "precision": servable.precision})
            age = (now() - live.promotion.at).total_seconds()
            yield Reading("ratchet_promotion_age_seconds", max(0.0, age), {})
        backlog = self.drainer.backlog
        age = time.time() - backlog.oldest_at if backlog.oldest_at is not None else 0.0
        yield Reading("ratchet_queue_depth", self.batcher.depth, {})
        yield Reading("ratchet_prediction_records_pending", self.recorder.pending, {})
        yield Reading("ratchet_outbox_records", backlog.count, {})
        yield Reading("ratchet_outbox_age_seconds", max(0.0, age), {})

    def write_status(self) -> None:
        """Say in the status file what the service is doing."""
        live, newest = self.swapper.live, self.swapper.newest
        facts: dict[str, Any] = {
            "version": live.version if live else None,
            "champion": newest.version if newest else None,
            "promotion": live.promotion.number if live else None,
            "outbox": self.drainer.backlog.count,
            "url": f"http://{self.settings.host}:{self.settings.port}",
        }
        registry = "" if self.swapper.reachable else "the registry cannot be reached"
        untried = self.swapper.untried
        if live is None:
            self._status.write("waiting", registry or untried or "no version can be served yet", **facts)
        else:
            detail = "; ".join(part for part in (live.degraded, registry, untried) if part)
            self._status.write("degraded" if detail else "serving", detail, **facts)

    def _keep(self) -> float:
        self.write_status()
        if self._parent is not None and os.getppid() != self._parent:
            _log.warning("the supervisor is gone; ending")
            self._parent = None
            os.kill(os.getpid(), signal.SIGTERM)
        return _STATUS_EVERY_S


def _lanes(settings: Settings) -> int:
    """A lane for each core that its workers leave it; on a GPU, which does one call at a time, one prepares while one waits."""
    return _GPU_LANES if wants_gpu(settings.device) else max(1, usable_cores() // settings.workers)


def _cache_folder(settings: Settings) -> Path:
    """Where this process keeps versions: each worker its own, or they would delete what another is about to load."""
    folder = settings.home / "cache" / "service"
    if settings.workers == 1:
        return folder
    from bentoml import server_context  # noqa: PLC0415 - it takes a second, and one process has no need of it

    number = server_context.worker_index
    return folder if number is None else folder.with_name(f"service-{number}")


class Acknowledged:
    """Ids of what this process acknowledged of late: feedback, say, is pending and not unknown until it has an outcome."""

    def __init__(self, limit: int) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._limit = limit

    def add(self, name: str) -> None:
        """Remember one and forget the oldest."""
        self._ids[name] = None
        while len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def __contains__(self, name: str) -> bool:
        return name in self._ids
