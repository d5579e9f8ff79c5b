"""A service of real parts for tests: a temporary home, an SQLite log, a folder registry, behind a real server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from core.bundle import ModelBundle
from core.eventlog import open_log
from core.events import INTERACTIONS, Command, DeadLetter, Example, Feedback, Prediction, decode
from core.registry import Promotion, Registry
from core.settings import Settings
from service.connection import connections
from service.program import Program
from service.routes import ENDPOINTS
from service.web import Application
from tests.support import wait_until
from tests.support_bundles import make_bundle

LABELS = ["alpha", "beta", "gamma"]
Event = Prediction | Feedback | Command | Example | DeadLetter


class Served:
    """A running service and what tests ask of it."""

    def __init__(self, program: Program, client: httpx.Client, port: int) -> None:
        self.program = program
        self.client = client
        self.port = port

    def predict(self, text: str = "where is my parcel") -> dict[str, Any]:
        """One answer, which must be one."""
        response = self.client.post("/v1/predict", json={"text": text})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def live(self) -> str | None:
        """The version that answers."""
        live = self.program.swapper.live
        return live.version if live else None


def settings_for(home: Path, **overrides: Any) -> Settings:
    """Settings of a service that looks at its registry often."""
    return Settings(**{"home": home, "registry_poll_s": 0.05, "lanes": 2, **overrides})


def registry_of(home: Path) -> Registry:
    """The registry below a home."""
    return Registry((home.resolve() / "registry").as_uri(), "default")


def publish(home: Path, version: str, *, labels: list[str] | None = None, **bundle: Any) -> ModelBundle:
    """Make a toy version and store it."""
    made = make_bundle(home / "made" / version, labels or LABELS, version=version, **bundle)
    registry_of(home).publish(made)
    return made


def promote(home: Path, version: str) -> Promotion:
    """Make a version the champion."""
    return registry_of(home).promotions.promote_by_operator(version, reason="a test", actor="test")


def champion(home: Path, version: str, **bundle: Any) -> ModelBundle:
    """Make, store and promote a toy version."""
    made = publish(home, version, **bundle)
    promote(home, version)
    return made


@contextmanager
def serving(settings: Settings, *, ready: bool = True) -> Iterator[Served]:
    """A service behind uvicorn, as BentoML runs it, in a thread of this process."""
    program = Program(settings)

    def start() -> Program:
        program.start()
        return program

    protocol = connections(head_timeout_s=settings.request_timeout_s, idle_timeout_s=settings.idle_connection_s)
    config = uvicorn.Config(Application(ENDPOINTS, start), port=0, http=protocol, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), what="the server")
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client:
            served = Served(program, client, port)
            if ready:
                wait_until(lambda: client.get("/readyz").status_code == 200, what="a model to be live")
            yield served
    finally:
        server.should_exit = True
        thread.join(15)


def interactions(settings: Settings) -> list[Event]:
    """Everything in the log, in the order of each partition."""
    log = open_log(settings.event_log_url, partitions=settings.log_partitions)
    try:
        return [
            decode(record.value)
            for record in log.read(INTERACTIONS, dict.fromkeys(log.ends(INTERACTIONS), 0), limit=100_000)
        ]
    finally:
        log.close()
