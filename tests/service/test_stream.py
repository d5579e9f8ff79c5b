"""Bulk streams: every line answered in order, in little memory, at the client's pace, and nobody starved."""

import http.client
import itertools
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from prometheus_client import REGISTRY

from core.events import Prediction
from core.settings import ApiKey, Role
from service.stream import Splitter
from tests.service.serving import Served, champion, interactions, serving, settings_for
from tests.support import wait_until
from tests.support_bundles import WORDS

STREAM = "/v1/predict/stream"
NDJSON = {"Content-Type": "application/x-ndjson"}


def lines(count: int, start: int = 0) -> bytes:
    return b"".join(b'{"text": "word%d parcel"}\n' % (number % 60) for number in range(start, start + count))


def stream(client: httpx.Client, body: bytes | Iterator[bytes], **headers: str) -> list[dict[str, Any]]:
    response = client.post(STREAM, content=body, headers={**NDJSON, **headers})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    assert not response.text or response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def bulk(port: int, body: bytes) -> list[dict[str, Any]]:
    """A stream of more than what the buffers between the two hold: httpx would send all before it reads."""
    client = Duplex(port)

    def send() -> None:
        for start in range(0, len(body), 65_536):
            client.send(body[start : start + 65_536])
        client.finish()

    sender = threading.Thread(target=send)
    sender.start()
    found = [json.loads(line) for line in client.response().read().splitlines()]
    sender.join()
    client.close()
    return found


class Duplex:
    """A client that reads while it sends."""

    def __init__(self, port: int, *, buffers: int | None = None) -> None:
        self.socket = socket.socket()
        if buffers:  # before connecting, or the kernel has settled on more
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.connection.sock = self.socket
        self.connection.putrequest("POST", STREAM)
        self.connection.putheader("Content-Type", "application/x-ndjson")
        self.connection.putheader("Transfer-Encoding", "chunked")
        self.connection.endheaders()

    def send(self, body: bytes) -> None:
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(body), body))

    def finish(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def response(self) -> http.client.HTTPResponse:
        return self.connection.getresponse()

    def close(self) -> None:
        self.connection.close()
        self.socket.close()


# lines


def test_every_line_is_answered_in_order_as_predict_answers_it(served: Served) -> None:
    found = stream(served.client, lines(300))
    assert [item["line"] for item in found] == list(range(1, 301))
    for number in (0, 17, 299):
        alone = served.predict(f"word{number % 60} parcel")
        assert set(found[number]) == {*alone, "line"}
        assert (found[number]["label"], found[number]["top"]) == (alone["label"], alone["top"])
    assert len({item["prediction_id"] for item in found}) == 300


def test_the_whole_may_be_larger_than_any_request(served: Served) -> None:
    body = lines(3_000)
    assert len(body) > 3 * served.program.settings.max_request_bytes
    assert len(bulk(served.port, body)) == 3_000


def test_a_line_that_is_wrong_is_an_error_and_the_others_are_answered(served: Served) -> None:
    wrong = {
        b'{"text": ""}': "invalid_input",
        b'{"text": 3}': "invalid_input",
        b'{"txt": "x"}': "invalid_input",
        b"{": "malformed",
        b"[]": "malformed",
        b"\xff": "malformed",
        b"[" * 3_000: "malformed",
        b'{"text": "%b"}' % (b"x" * 1_001): "invalid_input",
        b'{"text": "%b"}' % (b"x" * 25_000): "too_large",
        b'{"inputs": [{"text": "x"}]}': "invalid_input",
    }
    body = b"".join(line + b"\n" + lines(1) for line in wrong)
    before = REGISTRY.get_sample_value("ratchet_stream_lines_total", {"result": "refused"}) or 0
    found = stream(served.client, body)
    assert [item["line"] for item in found] == list(range(1, 2 * len(wrong) + 1))
    assert [item["error"]["code"] for item in found[::2]] == list(wrong.values())
    assert all("label" in item for item in found[1::2])
    assert all(set(item) == {"line", "error"} for item in found[::2])
    assert REGISTRY.get_sample_value("ratchet_stream_lines_total", {"result": "refused"}) == before + len(wrong)


def test_empty_lines_count_and_have_no_answer(served: Served) -> None:
    body = b'\xef\xbb\xbf{"text": "hello"}\r\n\r\n  \n{"text": "card"}'
    assert [item["line"] for item in stream(served.client, body)] == [1, 4]
    assert stream(served.client, b"") == []
    assert stream(served.client, b"\n\n") == []


@given(
    texts=st.lists(st.binary(max_size=12).map(lambda text: text.replace(b"\n", b" ")), max_size=6),
    cuts=st.lists(st.integers(min_value=0, max_value=80), max_size=5),
)
def test_the_cuts_between_pieces_make_no_difference(texts: list[bytes], cuts: list[int]) -> None:
    body = b"\n".join(texts)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    splitter = Splitter(8)
    found = []
    for start, end in itertools.pairwise(edges):
        found += splitter.feed(body[start:end], end=False)
    found += splitter.feed(b"", end=True)
    bom = b"\xef\xbb\xbf"
    expected = [
        (number, None if len(text) > 8 else text.removeprefix(bom) if number == 1 else text)
        for number, text in enumerate(texts, start=1)
    ]
    shown = [(line.number, line.body if isinstance(line.body, bytes) else None) for line in found]
    assert shown == [(number, text) for number, text in expected if text is None or text.strip()]


def test_a_text_that_the_model_fails_on_is_an_error_of_its_own(home: Path) -> None:
    def poison(model: onnx.ModelProto) -> None:
        table = next(item for item in model.graph.initializer if item.name == "table")
        values = numpy_helper.to_array(table).copy()
        values[2 + WORDS.index("lost")] = np.nan
        table.CopyFrom(numpy_helper.from_array(values, "table"))

    champion(home, "v-0001", edit=poison)
    body = lines(20) + b'{"text": "lost"}\n' + lines(20)
    with serving(settings_for(home)) as served:
        found = stream(served.client, body)
    assert [item["line"] for item in found if "error" in item] == [21]
    assert found[20]["error"]["code"] == "internal"
    assert len(found) == 41


def test_predictions_are_recorded_with_the_ids_that_were_shown(home: Path) -> None:
    champion(home, "v-0001")
    settings = settings_for(home, record_queue=40)
    with serving(settings) as served:
        ids = [item["prediction_id"] for item in stream(served.client, lines(500))]
    recorded = [event.prediction_id for event in interactions(settings) if isinstance(event, Prediction)]
    assert sorted(recorded) == sorted(ids), "a stream waits for the recorder where others would lose records"


# pace and fairness


def test_answers_come_while_the_request_goes_on(served: Served) -> None:
    client = Duplex(served.port)
    client.send(lines(1))
    response = client.response()
    assert json.loads(response.readline())["line"] == 1
    client.send(b'{"text": "hel')
    client.send(b'lo"}\n')
    assert json.loads(response.readline())["line"] == 2
    client.finish()
    assert response.read() == b""
    client.close()


@pytest.mark.alone
def test_a_client_that_takes_no_answers_is_not_read_from(home: Path) -> None:
    champion(home, "v-0001")
    with (
        serving(settings_for(home, max_streams=1, stream_idle_s=6)) as served,
        closing(Duplex(served.port, buffers=16_384)) as client,
    ):
        client.socket.settimeout(2)
        with pytest.raises(TimeoutError):
            client.send(lines(200_000))

        def answered() -> int:
            return served.program.recorder.pending + sum(1 for _ in interactions(served.program.settings))

        def rests() -> bool:  # the buffers of the kernel are full, of answers and then of lines
            before = answered()
            time.sleep(0.5)
            return answered() == before

        wait_until(rests, what="the end of the answers that fit into the buffers")
        assert served.program.batcher.depth == 0
        assert select.select([], [client.socket], [], 0)[1] == [], "it takes lines although nobody reads the answers"
        assert served.program.streams.locked()
        wait_until(lambda: not served.program.streams.locked(), what="the end of a stream that nobody reads")
        client.close()
        assert len(stream(served.client, lines(3))) == 3


def test_a_window_of_lines_is_in_flight_and_no_more(home: Path) -> None:
    champion(home, "v-0001")
    deepest = 0
    with serving(settings_for(home, stream_window=32, lanes=1)) as served:
        ended = threading.Event()

        def watch() -> None:
            nonlocal deepest
            while not ended.is_set():
                deepest = max(deepest, served.program.batcher.depth)
                time.sleep(0.0005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        found = bulk(served.port, lines(4_000))
        ended.set()
        watcher.join()
    assert len(found) == 4_000
    assert 0 < deepest <= 32


@pytest.mark.alone
def test_requests_beside_a_stream_are_answered_at_once(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home)) as served:
        found: list[dict[str, Any]] = []

        thread = threading.Thread(target=lambda: found.extend(bulk(served.port, lines(8_000))))
        thread.start()
        waits = []
        while thread.is_alive():
            began = time.perf_counter()
            served.predict()
            waits.append(time.perf_counter() - began)
        thread.join()
    assert len(found) == 8_000
    assert len(waits) > 10
    assert sorted(waits)[len(waits) // 2] < 0.25


def test_a_full_queue_makes_a_stream_wait_and_fails_no_line(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home, queue_limit=2, lanes=1)) as served:
        refused = threading.Event()
        ended = threading.Event()

        def press() -> None:
            with httpx.Client(base_url=served.client.base_url, timeout=60) as client:
                while not ended.is_set():
                    body = {"inputs": [{"text": "word1"}] * 200}
                    if client.post("/v1/predict", json=body).status_code == 429:
                        refused.set()

        threads = [threading.Thread(target=press) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert refused.wait(20), "the queue was never full"
        found = stream(served.client, lines(40))
        ended.set()
        for thread in threads:
            thread.join()
    assert len(found) == 40
    assert all("label" in item for item in found)


def test_a_client_that_goes_away_ends_its_stream(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home, max_streams=1)) as served:
        client = Duplex(served.port)
        client.send(lines(100))
        response = client.response()  # kept: the connection closes with it
        assert response.readline()
        assert served.program.streams.locked()
        response.close()
        client.close()
        wait_until(lambda: not served.program.streams.locked(), what="the stream's end")
        assert len(stream(served.client, lines(3))) == 3


def test_a_stream_that_stalls_is_ended_with_a_word(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home, stream_idle_s=0.3)) as served:
        client = Duplex(served.port)
        client.send(lines(2) + b'{"te')
        found = [json.loads(line) for line in client.response().read().splitlines()]
        client.close()
    assert [item["line"] for item in found] == [1, 2, 3]
    assert found[2]["error"]["code"] == "request_timeout"


def test_a_client_that_waits_for_100_continue_gets_it(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as raw:
        head = f"POST {STREAM} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        raw.sendall((head + "Content-Length: 17\r\nExpect: 100-continue\r\n\r\n").encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 100 Continue")
        raw.sendall(b'{"text": "hello"}')
        received = b""
        while piece := raw.recv(4096):
            received += piece
    assert b'"line":1' in received


# who is refused


def test_a_stream_too_many_is_429_and_one_without_a_model_503(home: Path) -> None:
    with serving(settings_for(home, max_streams=1), ready=False) as served:
        refused = served.client.post(STREAM, content=lines(1), headers=NDJSON)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        champion(home, "v-0001")
        wait_until(lambda: served.client.get("/readyz").status_code == 200)
        client = Duplex(served.port)
        client.send(lines(1))
        response = client.response()
        assert response.readline()
        refused = served.client.post(STREAM, content=lines(1), headers=NDJSON)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        client.finish()
        response.read()
        client.close()
        wait_until(lambda: not served.program.streams.locked())


def test_only_json_lines_are_taken(served: Served) -> None:
    for headers in ({"Content-Type": "application/json"}, {}, {**NDJSON, "Content-Encoding": "gzip"}):
        response = served.client.post(STREAM, content=lines(1), headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_stream_needs_the_role_that_predict_needs(home: Path) -> None:
    champion(home, "v-0001")
    keys = (
        ApiKey.model_validate({"id": "scorer", "key": "s" * 20, "roles": [Role.PREDICT]}),
        ApiKey.model_validate({"id": "other", "key": "o" * 20, "roles": [Role.FEEDBACK]}),
    )
    settings = settings_for(home, api_keys=keys)
    with serving(settings) as served:
        for key, status in ((None, 401), ("o" * 20, 403)):
            headers = {**NDJSON, **({"Authorization": f"Bearer {key}"} if key else {})}
            assert served.client.post(STREAM, content=lines(1), headers=headers).status_code == status
        assert len(stream(served.client, lines(1), Authorization="Bearer " + "s" * 20)) == 1
    recorded = [event for event in interactions(settings) if isinstance(event, Prediction)]
    assert [event.api_key_id for event in recorded] == ["scorer"]
