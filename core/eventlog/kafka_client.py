"""How Kafka's clients are made, what their failures mean, and what their records are here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from core.errors import LogUnavailable
from core.eventlog.base import LogRecord

CLIENT_ERRORS: Final = (KafkaError, OSError)
FETCH_WAIT_MS: Final = 100
"""How long a broker keeps a fetch that finds nothing. A seek takes effect when the fetch before it is back."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_Client = TypeVar("_Client")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The brokers to ask first, and how many seconds a call may wait for them."""

    servers: Sequence[str]
    timeout_s: float

    @property
    def timeout_ms(self) -> int:
        """The same limit as Kafka's clients count it."""
        return max(1, int(self.timeout_s * 1000))

    def connect(self, client: Callable[..., _Client], **settings: Any) -> _Client:
        """A client that has reached a broker. Raises one of CLIENT_ERRORS after ``timeout_s``."""
        made: list[Any] = []

        # a constructor that finds no broker leaves its thread and sockets running; only its network client can end them
        def network_client(**configs: Any) -> Any:
            made.append(KafkaNetClient(**configs))
            return made[-1]

        try:
            return client(
                bootstrap_servers=list(self.servers),
                bootstrap_timeout_ms=self.timeout_ms,
                reconnect_backoff_max_ms=1000,
                kafka_client=network_client,
                **settings,
            )
        except BaseException:
            for half_made in made:
                half_made.close()
            raise

    def consumer_settings(self) -> dict[str, Any]:
        """What every consumer here has: it keeps no positions in Kafka and never makes a topic by reading it."""
        return {
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "allow_auto_create_topics": False,
            "fetch_max_wait_ms": FETCH_WAIT_MS,
            "request_timeout_ms": max(self.timeout_ms, 10 * FETCH_WAIT_MS),
            "metrics_enabled": False,
        }

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Raises LogUnavailable for whatever a client raises inside."""
        try:
            yield
        except CLIENT_ERRORS as error:
            raise self.unavailable(f"{type(error).__name__}: {error}") from error

    def unavailable(self, what: str) -> LogUnavailable:
        """The error that says which log could not be used, and why."""
        return LogUnavailable(f"Kafka at {','.join(self.servers)} cannot be used: {what}")


def to_records(batch: Iterable[Sequence[Any]]) -> list[LogRecord]:
    """Kafka's records as ours. One of a foreign program may lack a key or a value: they are empty here."""
    return [
        LogRecord(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=(record.key or b"").decode(errors="replace"),
            value=record.value or b"",
            at=_EPOCH + timedelta(milliseconds=record.timestamp),
        )
        for records in batch
        for record in records
    ]
