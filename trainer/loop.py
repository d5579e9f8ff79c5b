"""The trainer as a program: watches the example store, and runs what a trigger asks for. Always on, killed at any time."""

import os
import shutil
import socket
import threading
import time
from contextlib import suppress

import torch
from transformers.utils.logging import disable_progress_bar

from core.bundle import Lane, Manifest
from core.errors import BadSettings, LeaseLost, RatchetError, Retryable
from core.events import new_id, now
from core.examples import ExampleStore, LeaseKeeper
from core.logs import get_logger
from core.probe import ProbeServer
from core.registry import Registry, RunState, TrainingRun
from core.selection import get_strategy
from core.settings import Settings
from core.status import StatusFile
from trainer import metrics
from trainer.building import recorded_settings
from trainer.finetune import limit_threads
from trainer.lease import HeldLease
from trainer.methods import get_method
from trainer.run import Run, Workshop
from trainer.trigger import RUNS_LISTED, Trigger, find_trigger, looked_through

_POLL_S = 1.0
_MAX_BACKOFF_S = 60.0


class StopRequested(Exception):
    """The program was asked to end in the middle of a run."""


class TrainerLoop:
    """Watches and runs, until :meth:`stop`."""

    def __init__(self, settings: Settings) -> None:
        """Raises BadSettings for what cannot work; what is out of reach is tried again by :meth:`run`."""
        get_method(settings.method)
        get_strategy(settings.run_selection)
        self._settings = settings
        self._workshop = Workshop(
            settings=settings,
            store=ExampleStore(settings.example_store_url, settings.model),
            registry=Registry(settings.registry_store_url, settings.model),
        )
        self._leases: LeaseKeeper = self._workshop.store.leases(
            holder=f"{socket.gethostname()}:{os.getpid()}:{new_id()[-8:]}", ttl_s=settings.lease_ttl_s
        )
        self._status = StatusFile(settings.home, "trainer")
        self._stop = threading.Event()
        self._reached = threading.Event()
        self._beat = time.monotonic()
        self._failures = 0

    def stop(self) -> None:
        """End after the present step; a run that is going on is given up and starts anew next time."""
        self._stop.set()

    def is_ready(self) -> bool:
        """True once store and registry have been reached."""
        return self._reached.is_set()

    def is_alive(self) -> bool:
        """False if the loop has not turned, and no run has made progress, for ten minutes."""
        return time.monotonic() - self._beat < 600

    def run(self) -> None:
        """Turn until stopped. A fault of store, registry or a single run is logged, counted and tried again later."""
        migrated = False
        while not self._stop.is_set():
            self._beat = time.monotonic()
            try:
                if not migrated:
                    self._workshop.store.migrate()
                    migrated = True
                self._turn()
                self._failures = 0
                self._stop.wait(_POLL_S)
            except StopRequested:
                break
            except BadSettings:
                raise
            except RatchetError as error:
                self._back_off(error)
        self._status.write("stopped")
        self._workshop.store.close()

    def _turn(self) -> None:
        champion, trigger = self._look()
        self._reached.set()
        if trigger is None:
            return
        lease = self._leases.acquire(Lane.FINETUNE)
        if lease is None:
            self._status.write("waiting", "another trainer holds the lease")
            return
        with HeldLease(self._leases, lease, interval_s=self._settings.lease_ttl_s / 3) as held:
            self._bury_dead_runs()
            champion, trigger = self._look()  # another trainer may have answered it before the lease came free
            if trigger is not None:
                self._train(champion, trigger, held)

    def _look(self) -> tuple[Manifest | None, Trigger | None]:
        registry, store = self._workshop.registry, self._workshop.store
        newest = registry.promotions.refresh()
        champion = registry.manifest(newest.version) if newest else None
        runs = registry.runs(newest=RUNS_LISTED)
        new = store.new_examples(after=looked_through(champion, runs))
        metrics.NEW_EXAMPLES.set(new.count)
        commands = store.commands()
        at = now()
        trigger = find_trigger(champion=champion, runs=runs, new=new, commands=commands, settings=self._settings, at=at)
        held = newest is not None and newest.holds(at)
        if trigger and held and not trigger.commands:
            self._status.write("paused", f"automatic promotions are paused: {newest.reason}" if newest else "")
            return champion, None
        if trigger is None:
            waiting = f"{new.count} new examples, a run starts at {self._settings.trigger_count} "
            waiting += f"or when one is {self._settings.trigger_age_s:g} s old"
            self._status.write("idle", waiting, new=new.count, version=champion.version if champion else None)
        return champion, trigger

    def _train(self, champion: Manifest | None, trigger: Trigger, held: HeldLease) -> None:
        log = get_logger()
        record = TrainingRun(
            run_id=new_id(),
            lane=Lane.FINETUNE if champion else Lane.SEED,
            trigger=trigger.reason,
            parent=champion.version if champion else None,
            seed=self._settings.seed,
            settings=recorded_settings(self._settings),
            state=RunState.RUNNING,
            through_seq=0,
            commands=trigger.commands,
        )
        registry = self._workshop.registry
        registry.record_run(record)
        log.info("training run started", run_id=record.run_id, trigger=trigger.reason, parent=record.parent)
        started = time.perf_counter()
        metrics.RUNNING.set(1)
        try:
            finished = Run(self._workshop, record, held, self._report).execute()
        except StopRequested:
            registry.record_run(_failed(record, "stopped before its end; it starts anew", commands=[]))
            raise
        except LeaseLost as error:
            finished = _failed(record, str(error), commands=[])
        except Retryable as error:
            registry.record_run(_failed(record, str(error), commands=[]))
            raise
        except BadSettings as error:
            registry.record_run(_failed(record, str(error), commands=record.commands))
            raise
        except Exception as error:  # torch and transformers raise whatever they like; the live model is not concerned
            log.exception("training run failed", run_id=record.run_id)
            finished = _failed(record, f"{type(error).__name__}: {error}", commands=record.commands)
        finally:
            metrics.RUNNING.set(0)
        registry.record_run(finished)
        seconds = time.perf_counter() - started
        metrics.RUN_SECONDS.observe(seconds)
        metrics.RUNS.labels(lane=record.lane, result=finished.state).inc()
        reasons = finished.reasons
        log.info(
            "training run ended",
            run_id=record.run_id, state=finished.state, version=finished.version, reasons=reasons, seconds=round(seconds, 1),
        )  # fmt: skip
        self._status.write(str(finished.state), reasons[0] if reasons else "", version=finished.version)
        if finished.state == RunState.FAILED:
            raise Retryable(f"the run failed: {reasons[0]}")

    def _bury_dead_runs(self) -> None:
        """A run still marked as running while we hold the lease died with its trainer."""
        for run in self._workshop.registry.runs(newest=RUNS_LISTED):
            if run.state == RunState.RUNNING:
                self._workshop.registry.record_run(_failed(run, "its trainer died; it starts anew", commands=[]))
        shutil.rmtree(self._settings.home / "work", ignore_errors=True)  # what a killed run was writing

    def _report(self, phase: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise StopRequested
        self._beat = time.monotonic()
        self._status.write("training", phase, done=done, total=total)

    def _back_off(self, error: RatchetError) -> None:
        self._failures += 1
        wait = min(2.0**self._failures, _MAX_BACKOFF_S)
        metrics.FAULTS.labels(kind=type(error).__name__).inc()
        get_logger().warning("backing off", reason=str(error), seconds=wait)
        self._status.write("backing off", str(error))
        self._stop.wait(wait)


def _failed(record: TrainingRun, reason: str, *, commands: list[str]) -> TrainingRun:
    return record.model_copy(
        update={"state": RunState.FAILED, "reasons": [reason], "commands": commands, "finished_at": now()}
    )


def _stop_with(stop: threading.Event, loop: TrainerLoop) -> None:
    stop.wait()
    loop.stop()


def run_trainer(settings: Settings, stop: threading.Event) -> None:
    """The program's main function: loop until ``stop`` is set. Raises BadSettings."""
    with suppress(OSError):  # serving on the same machine comes first
        os.nice(10)
    limit_threads(settings.train_threads)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers draws them into the log
    loop = TrainerLoop(settings)
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    metrics.PROVIDER.labels(device=device).set(1)
    get_logger().info("trainer started", device=device, method=settings.method, home=str(settings.home))
    probe = None
    if settings.trainer_port:
        probe = ProbeServer(settings.probe_host, settings.trainer_port, is_alive=loop.is_alive, is_ready=loop.is_ready)
    threading.Thread(target=_stop_with, args=(stop, loop), name="stop", daemon=True).start()
    try:
        loop.run()
    finally:
        stop.set()
        if probe:
            probe.close()
