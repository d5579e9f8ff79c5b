"""Event logs: one Protocol, an embedded log on SQLite and Kafka. :func:`open_log` picks one by URL."""

import re
from pathlib import Path

from core.errors import BadSettings
from core.eventlog.base import EventLog
from core.eventlog.sqlite import SqliteEventLog
from core.settings import without_password

_HOST_AND_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")


def open_log(url: str, *, partitions: int = 6, connect_timeout_s: float = 10.0) -> EventLog:
    """The event log at a URL. Nothing is connected yet: that happens with the first call.

    Args:
        url: ``sqlite:///`` and an absolute path, or ``kafka://host:port`` with further brokers after commas.
        partitions: how many partitions a topic gets that does not exist yet.
        connect_timeout_s: seconds after which a call to a log out of reach raises LogUnavailable.

    Raises:
        BadSettings: the URL names no log, or a number is not above zero.
    """
    if partitions < 1 or connect_timeout_s <= 0:
        raise BadSettings(
            f"an event log needs partitions and connect_timeout_s above 0, got {partitions} and {connect_timeout_s}"
        )
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        return SqliteEventLog(_path(url, rest), partitions=partitions, connect_timeout_s=connect_timeout_s)
    if separator and scheme == "kafka":
        servers = _servers(url, rest)
        from core.eventlog.kafka import KafkaEventLog  # noqa: PLC0415  only Kafka's users pay for it

        return KafkaEventLog(servers, partitions=partitions, connect_timeout_s=connect_timeout_s)
    raise BadSettings(
        f"the event log URL {without_password(url)!r} is neither sqlite:///ABSOLUTE_PATH nor kafka://host:port[,host:port]"
    )


def _path(url: str, rest: str) -> Path:
    path = Path(rest.removeprefix("/"))
    if not rest.startswith("/") or not path.is_absolute() or not path.name:
        raise BadSettings(
            f"the event log URL {without_password(url)!r} has no absolute path: write sqlite:/// and then the path "
            "with its own slash, e.g. sqlite:////var/lib/ratchet/log.db"
        )
    return path


def _servers(url: str, rest: str) -> list[str]:
    servers = rest.split(",")
    for server in servers:
        match = _HOST_AND_PORT.fullmatch(server)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise BadSettings(
                f"the event log URL {without_password(url)!r} is not kafka://host:port[,host:port]: one of them is no host:port"
            )
    return servers
