"""What the contract suites run on: SQLite, a real Kafka broker, a real PostgreSQL."""

import gc
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from core.eventlog.base import EventLog
from core.examples import ExampleStore
from tests.contracts.eventlog_worker import open_fast
from tests.support import free_port

REPOSITORY = Path(__file__).resolve().parents[2]


class Backend:
    """One implementation of EventLog with a place for its data."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self._opened: list[EventLog] = []
        self.topics: list[str] = []

    def open(self, **settings: Any) -> EventLog:
        """A log that is closed after the test."""
        self._opened.append(open_fast(self.url, **settings))
        return self._opened[-1]

    def new_topic(self) -> str:
        """A topic name that no test has used."""
        self.topics.append(f"test-{uuid4().hex}")
        return self.topics[-1]

    def start_worker(self, what: str, topic: str, **arguments: object) -> "subprocess.Popen[str]":
        """Run a part of eventlog_worker in a process of its own."""
        command = [sys.executable, "-m", "tests.contracts.eventlog_worker", what, "--url", self.url, "--topic", topic]
        for name, value in arguments.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        """Close the logs that were opened."""
        for log in self._opened:
            log.close()


class Outage(Protocol):
    """A log that is out of reach at first, and that a test can bring up and take down."""

    url: str

    def up(self) -> None:
        """Bring it within reach."""

    def down(self) -> None:
        """Take it out of reach."""


class SqliteOutage:
    """First the folder is missing; later another process holds the write lock and does not let go."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/missing/log.db"
        self._path = folder / "missing" / "log.db"
        self._holder: sqlite3.Connection | None = None

    def up(self) -> None:
        """Make the folder, or let go of the lock."""
        self._path.parent.mkdir(exist_ok=True)
        self.end()

    def down(self) -> None:
        """Hold the write lock."""
        self._holder = sqlite3.connect(self._path, isolation_level=None)
        self._holder.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        """Let go of the lock."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None


class KafkaOutage:
    """A broker of the test's own, on free ports, that dies as in a power cut."""

    def __init__(self, folder: Path) -> None:
        port, controller_port = free_port(), free_port()
        self.url = f"kafka://127.0.0.1:{port}"
        self._home = folder / "kafka"
        self._environment = os.environ | {
            "KAFKA_HOME": str(self._home),
            "KAFKA_PORT": str(port),
            "KAFKA_CONTROLLER_PORT": str(controller_port),
        }
        self._home.mkdir()
        jars = Path(os.environ.get("KAFKA_HOME", REPOSITORY / ".kafka")) / "libs"
        if jars.exists():  # the jars are fetched once and not once a test
            (self._home / "libs").symlink_to(jars)

    def up(self) -> None:
        """Start the broker and wait until it answers."""
        subprocess.run(
            [REPOSITORY / "scripts" / "kafka.sh", "start"], env=self._environment, check=True, stdout=subprocess.DEVNULL
        )

    def down(self) -> None:
        """Kill the broker."""
        os.kill(int((self._home / "broker.pid").read_text()), signal.SIGKILL)

    def end(self) -> None:
        """Kill the broker if it lives; nobody wants its data any more."""
        with suppress(FileNotFoundError, ProcessLookupError):
            self.down()


def kafka_servers() -> str:
    """The broker to test on: without one the test is skipped on a laptop and fails in CI."""
    servers = os.environ.get("KAFKA_BOOTSTRAP", "")
    if not servers:
        reason = "KAFKA_BOOTSTRAP names no Kafka broker; run `make kafka` and set it to 127.0.0.1:9092"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return servers


@contextmanager
def kafka_backend() -> Iterator[Backend]:
    """The broker, left without the topics of the test."""
    backend = Backend("kafka", f"kafka://{kafka_servers()}")
    try:
        yield backend
    finally:
        backend.close()
        delete_topics(backend)


def delete_topics(backend: Backend) -> None:
    """Remove what the test made, so that a shared broker does not fill up."""
    from kafka import KafkaAdminClient  # noqa: PLC0415  only Kafka's tests pay for it

    with closing(KafkaAdminClient(bootstrap_servers=backend.url.removeprefix("kafka://"))) as admin:
        made = sorted(set(backend.topics) & set(admin.list_topics()))
        if made:
            admin.delete_topics(made)


BACKENDS = ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Each implementation in turn."""
    if request.param == "kafka":
        with kafka_backend() as kafka:
            yield kafka
    else:
        sqlite = Backend("sqlite", f"sqlite:///{tmp_path}/log.db")
        yield sqlite
        sqlite.close()


@pytest.fixture
def log(backend: Backend) -> EventLog:
    """An open log."""
    return backend.open()


@pytest.fixture
def topic(backend: Backend) -> str:
    """A topic of the test's own."""
    return backend.new_topic()


@pytest.fixture(params=BACKENDS)
def unreachable(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a log that nobody can reach."""
    if request.param == "kafka":
        kafka_servers()
        return f"kafka://127.0.0.1:{free_port()}"
    return f"sqlite:///{tmp_path}/missing/log.db"


@pytest.fixture(params=BACKENDS)
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outage]:
    """A log that comes, goes and comes again."""
    if request.param == "kafka":
        kafka_servers()
    make: Callable[[Path], SqliteOutage | KafkaOutage] = KafkaOutage if request.param == "kafka" else SqliteOutage
    made = make(tmp_path)
    yield made
    made.end()


class OpenLogAt(Protocol):
    """Opens a log anywhere, with little patience."""

    def __call__(self, url: str) -> EventLog:
        """The log at the URL."""


@pytest.fixture
def open_log_at(caplog: pytest.LogCaptureFixture) -> Iterator[OpenLogAt]:
    """Logs that are closed after the test."""
    opened: list[EventLog] = []
    # the errors that kafka-python logs would keep the sockets of refused connections alive beyond the test
    caplog.set_level(logging.CRITICAL + 1, logger="kafka")

    def open_log(url: str) -> EventLog:
        opened.append(open_fast(url, connect_timeout_s=1.5))
        return opened[-1]

    yield open_log
    for log in opened:
        log.close()
    gc.collect()  # while the test's warning filters hold: kafka-python leaves refused connections to the collector


def _postgres_url() -> str:
    url = os.environ.get("POSTGRES_URL", "")
    if not url:
        reason = "POSTGRES_URL names no PostgreSQL; run `scripts/postgres.sh start` and set it to what that prints"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own; on PostgreSQL a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/examples.db"
        return
    server, schema = make_url(_postgres_url()), f"test_{uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield server.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture
def open_store(url: str) -> Iterator[Callable[..., ExampleStore]]:
    """Opens the same store again and again, as several programs do."""
    opened: list[ExampleStore] = []

    def open_it(model: str = "default") -> ExampleStore:
        opened.append(ExampleStore(url, model))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., ExampleStore]) -> ExampleStore:
    """A store with its tables."""
    made = open_store()
    made.migrate()
    return made
