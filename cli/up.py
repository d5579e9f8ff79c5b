"""``ratchet up``: the whole loop on one machine, from nothing to a model that learns, and again from where it was."""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final

import httpx
from rich.console import Console

from cli.processes import Children
from cli.progress import bar
from cli.seeding import DEMO, load_seed
from core.errors import BadSettings
from core.events import now
from core.examples import ExampleStore
from core.registry import Registry
from core.settings import Settings
from core.status import PROGRAMS, ProgramStatus, read_status

_POLL_S: Final = 0.25
_LEFTOVERS_S: Final = 20.0
_QUIET_STATES: Final = frozenset({"consuming", "idle", "starting"})


class _Interrupted(Exception):
    """Ctrl-C, or SIGTERM."""


class Up:
    """One ``ratchet up``."""

    def __init__(self, settings: Settings, seed: Path | None) -> None:
        self._settings = settings
        self._seed = seed
        self._console = Console(markup=False, highlight=False)
        self._said: dict[str, tuple[str, str]] = {}
        self._started = time.time()
        self._http = httpx.Client(base_url=self._url, timeout=2.0)

    @property
    def _url(self) -> str:
        host = self._settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._settings.port}"

    def run(self) -> int:
        """Start, watch, end on Ctrl-C; returns the exit code.

        Raises:
            BadSettings: the folder is in use, or a port is taken.
            BadSeedFile: the seed file cannot be used.
            ProgramFailed: a program cannot work with its settings.
        """
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)
        with self._only_one(), self._http:
            self._await_leftovers()
            self._check_ports()
            try:
                self._prepare()
                self._supervise()
            except _Interrupted:
                return 0
        return 0

    def _prepare(self) -> None:
        registry = Registry(self._settings.registry_store_url, self._settings.model)
        is_first = registry.promotions.refresh() is None
        if self._seed or (is_first and not self._has_examples()):
            load_seed(self._settings, self._seed or DEMO, self._console)
        elif not is_first:
            self._say("going on where it was")
            if self._settings.base_model:
                self._say("--base is for the first model: this one goes on from its own encoder")

    def _has_examples(self) -> bool:
        store = ExampleStore(self._settings.example_store_url, self._settings.model)
        try:
            store.migrate()
            return bool(store.example_counts())
        finally:
            store.close()

    def _supervise(self) -> None:
        children = Children(self._environment(), self._settings.home / "logs")
        try:
            for name in PROGRAMS:
                children.start(name)
            self._wait_for_model(children)
            self._explain()
            while True:
                self._turn(children)
        except _Interrupted:
            self._say("ending …")
            raise
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave programs behind
            children.stop()
            self._say("all programs have ended")

    def _wait_for_model(self, children: Children) -> None:
        with bar(self._console) as progress:
            task = progress.add_task("starting", total=None)
            while not self._is_ready():
                status = read_status(self._settings.home, "trainer")
                if status and status.state == "training":
                    progress.update(task, description=status.detail, completed=status.done or 0, total=status.total)
                elif status and status.at.timestamp() > self._started:
                    self._show("trainer", status)  # it was rejected, say, or it failed and tries again
                for event in children.watch():
                    self._say(event)
                time.sleep(_POLL_S)
            progress.update(task, description="ready", completed=1, total=1)

    def _is_ready(self) -> bool:
        try:
            return self._http.get("/readyz").is_success
        except httpx.HTTPError:
            return False

    def _turn(self, children: Children) -> None:
        for event in children.watch():
            self._say(event)
        for name in PROGRAMS:
            status = read_status(self._settings.home, name)
            if status and status.at.timestamp() > self._started:
                self._show(name, status)
        time.sleep(_POLL_S)

    def _show(self, name: str, status: ProgramStatus) -> None:
        """A line when a program turns to something else; its progress and its idling are no news."""
        version = str(status.facts.get("version") or "")
        said = (status.state, version if status.state in _QUIET_STATES else status.detail + version)
        if self._said.get(name) == said:
            return
        self._said[name] = said
        detail = f": {status.detail}" if status.detail else ""
        self._say(f"{name:8} {status.state}{detail}{f' ({version})' if version else ''}")

    def _explain(self) -> None:
        home, url = self._settings.home.resolve(), self._url
        age, count = f"{self._settings.trigger_age_s:g} s", self._settings.trigger_count
        text, label = "Can I collect my order in your shop?", "store_pickup"
        auth = " -H 'Authorization: Bearer YOUR_KEY'" if self._settings.api_keys else ""
        send = f"-H 'Content-Type: application/json'{auth}"
        try:  # so that the second line works as it stands
            prediction_id = self._http.post("/v1/predict", json={"text": text}).json()["prediction_id"]
        except (httpx.HTTPError, ValueError, KeyError):
            prediction_id = "PREDICTION_ID"
        self._console.print(
            f"""
Ratchet is live at {url}

  predict   curl -s {url}/v1/predict {send} -d '{{"text": "{text}"}}'
  correct   curl -s {url}/v1/feedback {send} \\
              -d '{{"prediction_id": "{prediction_id}", "label": "{label}"}}'
  outcome   curl -s {url}/v1/feedback/FEEDBACK_ID{auth}
  model     curl -s {url}/v1/model{auth}

  service   answers, records predictions and corrections        {home / "logs/service.log"}
  feedback  joins, cleans, judges and stores corrections        {home / "logs/feedback.log"}
  trainer   learns them within {age}, or at {count} of them      {home / "logs/trainer.log"}

Ctrl-C ends all of it; `ratchet up` goes on where it was. `ratchet status` says what each part is doing.
""",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def _environment(self) -> dict[str, str]:
        """The settings of this command, as the programs read them."""
        settings = self._settings
        given = {
            "HOME": str(settings.home.resolve()),
            "PORT": str(settings.port),
            "LOG_URL": settings.log_url,
            "BASE_MODEL": settings.base_model,
        }
        return {f"RATCHET_{name}": value for name, value in given.items()}

    def _await_leftovers(self) -> None:
        """Where `ratchet up` itself was killed, its programs are ending still: give them the time."""
        deadline = time.monotonic() + _LEFTOVERS_S
        found = [read_status(self._settings.home, name) for name in PROGRAMS]
        while any(status and status.state != "stopped" and status.is_alive() for status in found):
            if time.monotonic() > deadline:
                return
            time.sleep(_POLL_S)

    def _check_ports(self) -> None:
        settings = self._settings
        _check_port(settings.host, settings.port, "choose another with --port")
        _check_port(settings.probe_host, settings.feedback_port, "set RATCHET_FEEDBACK_PORT")
        _check_port(settings.probe_host, settings.trainer_port, "set RATCHET_TRAINER_PORT")

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        home = self._settings.home
        try:
            home.mkdir(parents=True, exist_ok=True)
            lock: IO[str] = (home / "up.lock").open("a+", encoding="ascii")
        except OSError as error:
            raise BadSettings(f"the folder {home} cannot be written to: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise BadSettings(f"{home} is in use by another `ratchet up` (process {lock.read().strip()})") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def _say(self, sentence: str) -> None:
        self._console.print(f"{now().astimezone():%H:%M:%S} {sentence}", highlight=False, markup=False, soft_wrap=True)


def _check_port(host: str, port: int, remedy: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadSettings(f"port {port} on {host} cannot be used ({error.strerror}); {remedy}") from error


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise _Interrupted
