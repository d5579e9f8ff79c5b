"""What every program says of itself: its status file, its probe, its logs."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from core.errors import BadSettings
from core.probe import ProbeServer
from core.status import StatusFile, read_status

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_last_word_of_a_program_can_be_read(tmp_path: Path) -> None:
    StatusFile(tmp_path, "trainer").write("training", "epoch 1", done=3, total=9, version="v")
    found = read_status(tmp_path, "trainer")
    assert found is not None
    assert (found.state, found.detail, found.done, found.total, found.facts) == (
        "training",
        "epoch 1",
        3,
        9,
        {"version": "v"},
    )
    assert found.pid == os.getpid()
    assert found.is_alive()
    assert found.age_s(found.at + timedelta(seconds=5)) == 5
    assert read_status(tmp_path, "service") is None


def test_frequent_progress_is_left_out_but_never_the_end_or_a_change(tmp_path: Path) -> None:
    status = StatusFile(tmp_path, "trainer")
    seen = []
    for state, done in [("training", 0), ("training", 1), ("training", 9), ("idle", 0)]:
        status.write(state, done=done, total=9)
        found = read_status(tmp_path, "trainer")
        assert found is not None
        seen.append((found.state, found.done))
    assert seen == [("training", 0), ("training", 0), ("training", 9), ("idle", 0)]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b'{"program": "trainer", "pid": 0, "state": "x"}', b"\xff", b"[" * 10_000]
)
def test_a_damaged_status_is_no_status(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "trainer.json").write_bytes(content)
    assert read_status(tmp_path, "trainer") is None


def test_a_status_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("in the way")
    StatusFile(tmp_path, "trainer").write("idle")


def test_a_program_that_has_ended_is_not_alive(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    StatusFile(tmp_path, "trainer").write("idle")
    found = read_status(tmp_path, "trainer")
    assert found is not None
    assert not found.model_copy(update={"pid": ended.pid}).is_alive()


@pytest.fixture
def health() -> dict[str, bool]:
    """What the program says when it is asked; tests change it."""
    return {"alive": True, "ready": False}


@pytest.fixture
def probe(health: dict[str, bool]) -> Iterator[ProbeServer]:
    """A probe on any free port."""
    server = ProbeServer("127.0.0.1", 0, is_alive=lambda: health["alive"], is_ready=lambda: health["ready"])
    yield server
    server.close()


def test_the_probe_says_what_the_program_says(probe: ProbeServer, health: dict[str, bool]) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{probe.port}") as client:
        assert (client.get("/livez").status_code, client.get("/readyz").status_code) == (200, 503)
        health.update(alive=False, ready=True)
        assert (client.get("/livez").status_code, client.get("/readyz").status_code) == (503, 200)
        metrics = client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert "python_info" in metrics.text
        nothing = client.get("/")
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "not_found")


def test_a_silent_caller_does_not_hold_up_the_probe(probe: ProbeServer) -> None:
    with closing(socket.create_connection(("127.0.0.1", probe.port))):
        assert httpx.get(f"http://127.0.0.1:{probe.port}/livez", timeout=2).status_code == 200


def test_a_port_that_is_taken_is_an_error_of_the_settings(probe: ProbeServer) -> None:
    with pytest.raises(
        BadSettings, match=f"port {probe.port} on 127.0.0.1 cannot be listened on: Address already in use"
    ):
        ProbeServer("127.0.0.1", probe.port, is_alive=lambda: True, is_ready=lambda: True)


LOGGING = """
import logging, sys, threading
from core.logs import configure_logs, get_logger
configure_logs(program="trainer", level="info")
log = get_logger()
log.debug("too quiet")
log.info("a line\\nbreak", path=sys.executable, odd="\\udc80 \\u2028")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed", run_id="r1")
logging.getLogger("kafka").warning("from a %s", "library")
logging.getLogger("kafka").info("chatter")
threads = [threading.Thread(target=lambda: [log.info("x" * 500) for _ in range(50)]) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_logs_are_one_json_object_a_line_those_of_libraries_too() -> None:
    done = subprocess.run([sys.executable, "-c", LOGGING], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.split("\n") if line]
    assert len(lines) == 3 + 200
    assert {line["program"] for line in lines} == {"trainer"}
    assert [(line["level"], line["event"]) for line in lines[:3]] == [
        ("info", "a line\nbreak"),
        ("error", "failed"),
        ("warning", "from a library"),
    ]
    assert "ZeroDivisionError" in lines[1]["exception"]
    assert lines[1]["run_id"] == "r1"
    assert all(line["timestamp"].endswith("Z") for line in lines)
