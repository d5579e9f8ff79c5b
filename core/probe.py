"""``/metrics``, ``/livez`` and ``/readyz`` of a program that answers no other requests."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from core.errors import BadSettings

_JSON: Final = "application/json"


class ProbeServer:
    """A small HTTP server in a thread of its own."""

    def __init__(self, host: str, port: int, *, is_alive: Callable[[], bool], is_ready: Callable[[], bool]) -> None:
        """Listen at once. Raises BadSettings when the port is taken."""
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(is_alive, is_ready))
        except OSError as error:
            raise BadSettings(f"port {port} on {host} cannot be listened on: {error.strerror}; set another") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="probe", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(is_alive: Callable[[], bool], is_ready: Callable[[], bool]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer the three paths."""
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(REGISTRY))
            elif self.path == "/livez":
                self._probe(is_alive())
            elif self.path == "/readyz":
                self._probe(is_ready())
            else:
                error = {"code": "not_found", "message": "there are /metrics, /livez and /readyz"}
                self._answer(404, _JSON, json.dumps({"error": error}).encode())

        def _probe(self, good: bool) -> None:
            self._answer(200 if good else 503, _JSON, json.dumps({"ok": good}).encode())

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests for metrics are not worth a line."""

    return Handler
