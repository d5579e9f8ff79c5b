"""``python -m service.run``: check everything that can be checked, then become the BentoML server."""

import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

from core.errors import BadSettings
from core.eventlog import open_log
from core.masking import Masker
from core.registry import Registry
from core.settings import Settings, load_settings
from core.tasks import get_task

_PORT_WAIT_S: Final = 10.0  # so long a service that was just killed may take to let go of its port
_GRACE_S: Final = 10  # so long requests may take to end when the service is stopped


def main(argv: Sequence[str] = ()) -> None:
    """Replace this process by the server; ends with code 2 and one message where the settings cannot work."""
    if argv:
        raise SystemExit(f"ratchet service takes no arguments, got {' '.join(argv)}; everything is a setting")
    try:
        settings = load_settings()
        check(settings)
        _await_port(settings)
        forget_other_workers(settings)
    except BadSettings as error:
        sys.stderr.write(f"ratchet: {error}\n")
        raise SystemExit(2) from None
    environment = server_environment(settings)
    sys.stderr.flush()
    os.execve(sys.executable, server_command(settings), environment)  # noqa: S606 - our own interpreter


def check(settings: Settings) -> None:
    """Try what the settings name, as far as that needs no connection. Raises BadSettings."""
    get_task(settings.task)
    Masker.of(settings.masking_policy)
    Registry(settings.registry_store_url, settings.model)
    open_log(settings.event_log_url, partitions=settings.log_partitions).close()
    try:
        (settings.home / "outbox").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSettings(f"home is {str(settings.home)!r}, which cannot be written to: {error.strerror}") from error


def server_command(settings: Settings) -> list[str]:
    """The command line of the server."""
    return [
        *(sys.executable, "-m", "bentoml", "serve", "service.app:Ratchet"),
        *("--host", listening_address(settings.host), "--port", str(settings.port)),
        *("--timeout-graceful-shutdown", str(_GRACE_S)),
    ]


def server_environment(settings: Settings) -> dict[str, str]:
    """This process's environment, and what BentoML must know: a home of its own, as it wipes the metrics in it."""
    home = settings.home.resolve()
    return {"BENTOML_DO_NOT_TRACK": "True", **os.environ, "BENTOML_HOME": str(home / "bentoml")}


def listening_address(host: str) -> str:
    """The host as the number that BentoML wants."""
    return "127.0.0.1" if host == "localhost" else host.strip("[]")


def forget_other_workers(settings: Settings) -> None:
    """Remove the versions that workers kept when there were more of them."""
    mine = {f"service-{number}" for number in range(settings.workers + 1)} if settings.workers > 1 else {"service"}
    for folder in (settings.home / "cache").glob("service*"):
        if folder.name not in mine:
            shutil.rmtree(folder, ignore_errors=True)


def _await_port(settings: Settings) -> None:
    deadline = time.monotonic() + _PORT_WAIT_S
    address = listening_address(settings.host)
    while True:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, settings.port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise BadSettings(
                        f"port {settings.port} on {settings.host} cannot be listened on: {error.strerror}; "
                        "set another with RATCHET_PORT"
                    ) from error
                time.sleep(0.2)
            else:
                return


if __name__ == "__main__":
    main(sys.argv[1:])
