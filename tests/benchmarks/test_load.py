"""The load generator against a real server that answers at once, but for one stall."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.arrivals import schedule
from benchmarks.serving.load import Load, run_load
from benchmarks.serving.wire import Connection

pytestmark = pytest.mark.alone

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Server:
    """A tiny HTTP server whose every connection waits while it stalls."""

    def __init__(self) -> None:
        self.stall_at = 0  # the request that stalls all
        self.stall_s = 0.0
        self.seen = 0
        self.bodies: list[bytes] = []
        self.answer = ANSWER
        self.silent = False
        self._stalled_until = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                self.seen += 1
                if self.silent:
                    continue
                if self.seen == self.stall_at:
                    self._stalled_until = time.monotonic() + self.stall_s
                await asyncio.sleep(max(0.0, self._stalled_until - time.monotonic()))
                writer.write(self.answer)
                if b"close" in self.answer:
                    writer.close()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@contextmanager
def running(server: Server) -> Iterator[int]:
    """The server in a thread; its port."""
    loop = asyncio.new_event_loop()
    port: list[int] = []
    ready = threading.Event()

    async def serve() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=512)
        port.append(listening.sockets[0].getsockname()[1])
        ready.set()
        async with listening:
            await stop.wait()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()


@pytest.fixture
def bodies(tmp_path: Path) -> str:
    path = tmp_path / "bodies.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(7)), encoding="utf-8")
    return str(path)


def load(port: int, bodies: str, **fields: Any) -> Load:
    return Load(
        **{"port": port, "path": "/", "bodies": bodies, "connections": 8, "seconds": 2.0, "warmup_s": 0.2, **fields}
    )


def test_in_an_open_loop_a_stall_is_felt_by_all_who_would_have_come_meanwhile(bodies: str) -> None:
    server = Server()
    server.stall_at, server.stall_s = 200, 0.5
    with running(server) as port:
        found = run_load(load(port, bodies, rate=200.0, poisson=False, connections=4))
    assert found["good"] == found["requests"] == 400
    # 100 of 400 were meant to be sent in the half second: they wait for 0.25 s on average, though only four could be sent.
    assert 0.2 < found["latency_ms"]["p90"] / 1e3 < 0.42
    assert found["latency_ms"]["p50"] < 50
    assert found["latency_ms"]["mean"] == pytest.approx(62.5, rel=0.4)
    assert found["late_ms"] > 300  # it says itself that connections were short


def test_in_a_closed_loop_the_same_stall_is_felt_by_one_request_a_connection(bodies: str) -> None:
    server = Server()
    server.stall_at, server.stall_s = 200, 0.5
    with running(server) as port:
        found = run_load(load(port, bodies, connections=2, warmup_s=0.0))
    assert found["good"] > 500
    assert found["latency_ms"]["p99"] < 100 < 400 < found["latency_ms"]["max"]


def test_with_enough_connections_latency_counts_from_the_intended_time_too(bodies: str) -> None:
    server = Server()
    server.stall_at, server.stall_s = 200, 0.5
    with running(server) as port:
        found = run_load(load(port, bodies, rate=200.0, poisson=False, connections=256))
    assert 0.2 < found["service_ms"]["p90"] / 1e3 < 0.42  # every request was sent in time, and waited at the server
    assert found["late_ms"] < 100


def test_records_answers_and_bodies_belong_together(bodies: str, tmp_path: Path) -> None:
    server = Server()
    records, answers = tmp_path / "records.npz", tmp_path / "answers.jsonl"
    with running(server) as port:
        found = run_load(
            load(port, bodies, rate=100.0, seconds=0.5, records=str(records), answers=str(answers), first=3)
        )
    with np.load(records) as columns:
        assert len(columns["what"]) == len(answers.read_bytes().splitlines()) == server.seen
        assert (columns["done"] >= columns["sent"]).all()
        assert (columns["sent"] >= columns["intended"] - 1e-6).all()
        sent = [json.loads(body)["text"] for body in server.bodies]
        assert sorted(sent) == sorted(f"text {index}" for index in columns["what"])
    assert sent[0] == "text 3"
    assert found["statuses"] == {"200": found["requests"]}


def test_refusals_are_counted_and_a_closed_connection_is_opened_anew(bodies: str) -> None:
    server = Server()
    server.answer = BUSY
    with running(server) as port:
        found = run_load(load(port, bodies, connections=2, seconds=0.5))
    assert found["good"] == 0
    assert found["statuses"]["429"] > 4
    assert found["latency_ms"]["p50"] != found["latency_ms"]["p50"]  # there is no latency of good answers
    assert not found["errors"]


def test_a_server_that_never_answers_is_an_error_and_not_a_silence(bodies: str) -> None:
    server = Server()
    server.silent = True
    with running(server) as port:
        found = run_load(
            load(port, bodies, rate=20.0, poisson=False, connections=2, warmup_s=0.0, seconds=1.0, timeout_s=0.6)
        )
    assert found["good"] == 0
    assert found["errors"]["timed out"] >= 2
    assert found["requests"] >= 4
    assert found["requests"] + found["not_sent"] == 20


def test_what_finds_no_connection_is_dropped_and_counted_where_that_is_asked_for(bodies: str) -> None:
    server = Server()
    server.stall_at, server.stall_s = 1, 1.0
    with running(server) as port:
        found = run_load(
            load(port, bodies, rate=200.0, poisson=False, connections=4, warmup_s=0.0, seconds=1.0, drop=True)
        )
    assert found["dropped"] > 150
    assert found["dropped"] + found["requests"] == 200


@pytest.mark.parametrize("fields", [{"connections": 0}, {"connections": 100_000}, {"seconds": 1e6}, {"rate": 1e9}])
def test_a_load_without_bounds_is_refused(bodies: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        run_load(load(1, bodies, **fields))


def test_arrivals_keep_their_rate_and_are_the_same_for_the_same_seed() -> None:
    times = schedule(1000.0, 20.0, poisson=True, seed=1, limit=10**9)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert times[-1] > 19.9
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential
    assert (schedule(1000.0, 20.0, poisson=True, seed=1, limit=10**9) == times).all()
    assert len(schedule(1000.0, 20.0, poisson=True, seed=1, limit=7)) == 7
    assert np.diff(schedule(50.0, 1.0, poisson=False, seed=0, limit=100)) == pytest.approx(0.02)


def test_an_answer_may_come_in_any_pieces() -> None:
    ended: list[tuple[int, bytes, str]] = []
    message = b"HTTP/1.1 201 Created\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello"
    for size in range(1, len(message) + 1):
        connection = Connection(lambda _, status, body, error: ended.append((status, body, error)))
        connection.busy = True
        for start in range(0, len(message), size):
            connection.data_received(message[start : start + size])
    assert ended == [(201, b"hello", "")] * len(message)


@pytest.mark.parametrize(
    "message",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxy",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_an_answer_that_is_none_is_an_error(message: bytes) -> None:
    ended: list[tuple[int, str]] = []
    connection = Connection(lambda _, status, body, error: ended.append((status, error)))
    connection.busy = True
    connection.data_received(message)
    assert len(ended) == 1
    assert ended[0][0] == 0
    assert ended[0][1]
