"""Connections that never become a request: they cost little memory and end by themselves."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.connection import MAX_HEAD_BYTES
from tests.service.serving import Served, champion, serving, settings_for

HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
LIMIT_S = 1.0


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that waits a second for a head, and two for a request to begin."""
    home = tmp_path_factory.mktemp("home")
    champion(home, "v-0001")
    with serving(settings_for(home, request_timeout_s=LIMIT_S, idle_connection_s=2 * LIMIT_S)) as running:
        yield running


def connect(port: int) -> "closing[socket.socket]":
    return closing(socket.create_connection(("127.0.0.1", port), timeout=20))


def rest(raw: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    while part := raw.recv(65_536):
        found += part
    return found


def error_in(answer: bytes) -> tuple[int, str]:
    """Status and code of the one answer that came."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in head.lower()
    return int(head.split(b" ")[1]), json.loads(body)["error"]["code"]


def send_slowly(raw: socket.socket, data: bytes) -> float:
    """Send it over and over for at most 15 s; returns after how many seconds the other side had closed."""
    began = time.monotonic()
    raw.settimeout(0.1)
    while time.monotonic() - began < 15:
        try:
            raw.sendall(data)
            if not raw.recv(65_536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"GET /" + b"x" * MAX_HEAD_BYTES, id="path"),
        pytest.param(HEAD + b"X: " + b"x" * MAX_HEAD_BYTES, id="value"),
        pytest.param(HEAD + b"X" * MAX_HEAD_BYTES, id="name"),
        pytest.param(HEAD + b"X: y\r\n" * (MAX_HEAD_BYTES // 6), id="many"),
        pytest.param(HEAD + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", id="complete"),
        pytest.param(b"\r\n" * (MAX_HEAD_BYTES // 2 + 1), id="blank"),
    ],
)
def test_a_head_that_is_too_large_is_431_before_its_end(served: Served, begin: bytes) -> None:
    with connect(served.port) as raw:
        raw.sendall(begin)
        assert error_in(rest(raw)) == (431, "headers_too_large")


def test_a_head_just_within_the_limit_is_answered(served: Served) -> None:
    with connect(served.port) as raw:
        raw.sendall(HEAD + b"Connection: close\r\nX: " + b"x" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\n")
        assert rest(raw).startswith(b"HTTP/1.1 200")


def test_a_trailer_that_never_ends_is_cut(served: Served) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(served.port) as raw:
        raw.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: ")
        assert send_slowly(raw, b"x" * 10_000) < 5  # sooner than its body would be late


def test_a_large_body_is_no_large_head(served: Served) -> None:
    body = json.dumps({"inputs": [{"text": "x" * 900}] * 8}).encode()
    for _ in range(20):  # on one connection
        headers = {"Content-Type": "application/json"}
        assert served.client.post("/v1/predict", content=body, headers=headers).status_code == 200


def test_what_is_not_http_is_an_error_as_any_other(served: Served) -> None:
    with connect(served.port) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
        assert error_in(rest(raw)) == (400, "bad_request")


@pytest.mark.parametrize("before", [b"", HEAD + b"\r\n"], ids=["first", "after a request"])
@pytest.mark.parametrize("again", [b"x", b"\r\n"], ids=["path", "blank lines"])
def test_a_head_sent_byte_by_byte_ends_in_time(hasty: Served, before: bytes, again: bytes) -> None:
    with connect(hasty.port) as raw:
        raw.sendall(before)
        if before:
            assert raw.recv(65_536).startswith(b"HTTP/1.1 200")
        raw.sendall(b"GET /" if again == b"x" else again)
        assert send_slowly(raw, again) < 8


def test_a_late_head_is_408(hasty: Served) -> None:
    with connect(hasty.port) as raw:
        raw.sendall(HEAD)
        assert error_in(rest(raw)) == (408, "request_timeout")


def test_a_connection_that_says_nothing_ends(hasty: Served) -> None:
    began = time.monotonic()
    with connect(hasty.port) as raw:
        assert rest(raw) == b""
    assert 2 * LIMIT_S * 0.8 < time.monotonic() - began < 6


def test_an_idle_connection_is_kept_for_the_next_request(home: Path) -> None:
    champion(home, "v-0001")
    settings = settings_for(home, request_timeout_s=0.5, idle_connection_s=6.5)
    with serving(settings) as served, connect(served.port) as raw:
        for wait_s in (0.0, 6.0):  # longer than a head may take, and than uvicorn would keep it
            time.sleep(wait_s)
            raw.sendall(HEAD + b"\r\n")
            assert raw.recv(65_536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert rest(raw) == b""
        assert 6 < time.monotonic() - began < 12


def test_a_body_that_nobody_wanted_is_not_waited_for(hasty: Served) -> None:
    with connect(hasty.port) as raw:
        raw.sendall(b"POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        assert raw.recv(65_536).startswith(b"HTTP/1.1 404")
        assert send_slowly(raw, b"x") < 8


def test_a_stream_may_take_longer_than_a_head(home: Path) -> None:
    champion(home, "v-0001")
    head = b"POST /v1/predict/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
    line = b'{"text": "x"}\n'
    with serving(settings_for(home, request_timeout_s=LIMIT_S)) as served, connect(served.port) as raw:
        raw.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            time.sleep(LIMIT_S / 2)
            raw.sendall(b"%x\r\n%b\r\n" % (len(line), line))
        raw.sendall(b"0\r\n\r\n")
        assert rest(raw).count(b'"line":') == 5
