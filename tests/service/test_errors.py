"""Every error of the HTTP contract, and that nothing but the contract is ever answered."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from tests.service.serving import Served

JSON = {"Content-Type": "application/json"}
POSTS = ("/v1/predict", "/v1/feedback", "/v1/rollback", "/v1/pause", "/v1/versions/v-0001/promote")


def error_of(response: httpx.Response, status: int) -> tuple[str, str]:
    """The code and the message; every error has both and nothing else."""
    assert response.status_code == status, response.text
    document = response.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message"}
    assert "Traceback" not in document["error"]["message"]
    return document["error"]["code"], document["error"]["message"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"text": "\xff"}',
        b'{"text": NaN}',
        b'{"text": Infinity}',
        b'{"text": "\\ud800"}',
        b"[]",
        b'"text"',
        b"null",
        b"[" * 5_000,
        b'{"a":' * 3_000,
    ],
)
def test_what_is_not_a_json_object_is_400(served: Served, path: str, body: bytes) -> None:
    code, _ = error_of(served.client.post(path, content=body, headers=JSON), 400)
    assert code == "malformed"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "'text' is missing"),
        ({"text": 3}, "must be a string, got a number"),
        ({"text": None}, "got null"),
        ({"text": "  "}, "'text' is empty"),
        ({"text": "x" * 1_001}, "at most 1000"),
        ({"text": "x", "txt": "y"}, "'txt'"),
        ({"inputs": []}, "at least one"),
        ({"inputs": {}}, "must be a list"),
        ({"inputs": ["x"]}, "inputs[0] must be an object"),
        ({"inputs": [{"text": "x"}, {"text": ""}]}, "inputs[1]: 'text' is empty"),
        ({"inputs": [{"text": "x"}], "text": "y"}, "unknown field 'text'"),
        ({"inputs": [{"text": "x"}] * 9}, "at most 8"),
    ],
)
def test_predictions_say_what_is_wrong(served: Served, body: dict[str, Any], named: str) -> None:
    code, message = error_of(served.client.post("/v1/predict", json=body), 422)
    assert code == "invalid_input"
    assert named in message


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        ({}, "invalid_input", "'prediction_id' is missing"),
        ({"prediction_id": "a"}, "invalid_input", "needs 'label'"),
        ({"prediction_id": "a", "kind": "implicit"}, "invalid_input", "needs 'label'"),
        ({"text": "x"}, "invalid_input", "needs 'label'"),
        ({"prediction_id": "", "label": "b"}, "invalid_input", "at most 64"),
        ({"prediction_id": "x" * 65, "label": "b"}, "invalid_input", "at most 64"),
        ({"prediction_id": "../x", "label": "b"}, "invalid_input", "at most 64"),
        ({"prediction_id": 7, "label": "b"}, "invalid_input", "at most 64"),
        ({"prediction_id": "a", "text": "x", "label": "b"}, "invalid_input", "not both"),
        ({"prediction_id": "a", "kind": "praise"}, "invalid_input", "'kind' must be one of"),
        ({"prediction_id": "a", "kind": 3}, "invalid_input", "'kind' must be one of"),
        ({"prediction_id": "a", "kind": ["correct"]}, "invalid_input", "'kind' must be one of"),
        ({"text": "x", "kind": "confirm"}, "invalid_input", "a confirmation needs"),
        ({"prediction_id": "a", "kind": "confirm", "label": "b"}, "invalid_input", "a confirmation needs"),
        ({"text": "x", "kind": "reject"}, "invalid_input", "a rejection needs"),
        ({"prediction_id": "a", "kind": "reject", "label": "b"}, "invalid_input", "takes no 'label'"),
        ({"prediction_id": "a", "label": 3}, "invalid_target", "must be a string"),
        ({"prediction_id": "a", "label": " "}, "invalid_target", "is empty"),
        ({"prediction_id": "a", "label": "x\u0000"}, "invalid_target", "cannot be printed"),
        ({"prediction_id": "a", "label": "b", "lable": "c"}, "invalid_input", "'lable'"),
        ({"prediction_id": "a", "label": "b", "annotator": ""}, "invalid_input", "'annotator'"),
        ({"prediction_id": "a", "label": "b", "annotator": "x" * 201}, "invalid_input", "'annotator'"),
        ({"prediction_id": "a", "label": "b", "asked": "yes"}, "invalid_input", "'asked'"),
        ({"text": "", "label": "b"}, "invalid_input", "'text' is empty"),
    ],
)
def test_feedback_says_what_is_wrong(served: Served, body: dict[str, Any], code: str, named: str) -> None:
    found, message = error_of(served.client.post("/v1/feedback", json=body), 422)
    assert found == code
    assert named in message


@pytest.mark.parametrize("key", ["", "x" * 201, "a b"])
def test_an_idempotency_key_must_be_one(served: Served, key: str) -> None:
    response = served.client.post("/v1/feedback", json={"text": "x", "label": "b"}, headers={"Idempotency-Key": key})
    assert error_of(response, 400)[0] == "bad_idempotency_key"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/docs.json", 404, "not_found"),
        ("GET", "/schema.json", 404, "not_found"),
        ("GET", "/v1/predict/", 404, "not_found"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("DELETE", "/v1/model", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/predict", 405, "method_not_allowed"),
        ("GET", "/v1/feedback/..%2f..", 404, "not_found"),
        ("GET", "/v1/feedback/" + "x" * 65, 404, "unknown_feedback"),
        ("GET", "/v1/versions/no-such-version", 404, "unknown_version"),
        ("GET", "/v1/versions/..", 404, "not_found"),
        ("GET", "/v1/versions/UPPER", 404, "unknown_version"),
        ("GET", "/v1/versions?limit=0", 422, "invalid_input"),
        ("GET", "/v1/review?limit=x", 422, "invalid_input"),
        ("GET", "/v1/review?limit=-1", 422, "invalid_input"),
        ("GET", "/v1/review?limit=00000000199999999999999999999", 422, "invalid_input"),
        ("GET", "/v1/versions?limit=00000000199999999999999999999", 422, "invalid_input"),
        ("GET", "/v1/versions?limit=" + "9" * 5_000, 422, "invalid_input"),
    ],
)
def test_wrong_places(served: Served, method: str, path: str, status: int, code: str) -> None:
    assert error_of(served.client.request(method, path), status)[0] == code


def test_405_says_what_is_allowed(served: Served) -> None:
    assert "POST" in served.client.get("/v1/predict").headers["allow"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/vnd.bentoml+pickle", "application/jsonp", ""])
def test_only_json_is_taken(served: Served, content_type: str) -> None:
    response = served.client.post("/v1/predict", content=b'{"text": "x"}', headers={"Content-Type": content_type})
    assert error_of(response, 415)[0] == "unsupported_media_type"


def test_compressed_bodies_are_not_taken(served: Served) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert (
        error_of(served.client.post("/v1/predict", content=b"x", headers=headers), 415)[0] == "unsupported_media_type"
    )


def test_a_charset_beside_the_content_type_is_fine(served: Served) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert served.client.post("/v1/predict", content=b'{"text": "x"}', headers=headers).status_code == 200


def test_a_body_too_large_by_its_length_is_413(served: Served) -> None:
    assert error_of(served.client.post("/v1/predict", json={"text": "x" * 20_000}), 413)[0] == "too_large"


def test_a_body_too_large_without_a_length_is_413_long_before_its_end(served: Served) -> None:
    """A raw socket: httpx would go on sending. The answer must come although the body never ends."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as raw:
        head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        raw.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        for _ in range(6):
            raw.sendall(chunk)
        assert b"413" in raw.recv(4096).split(b"\r\n")[0]


def test_a_chunked_body_within_the_limit_is_taken(served: Served) -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"text": '
        yield b'"where"}'

    assert served.client.post("/v1/predict", content=parts(), headers=JSON).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.evil.example"]
)
@pytest.mark.parametrize("path", ["/", "/v1/model", "/nope"])
def test_a_foreign_host_is_421(served: Served, host: str, path: str) -> None:
    assert error_of(served.client.get(path, headers={"Host": host}), 421)[0] == "foreign_host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]", "[::1]:3000"])
def test_our_own_hosts_are_answered(served: Served, host: str) -> None:
    assert served.client.get("/v1/model", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_and_scrapers_may_call_by_any_name(served: Served, path: str) -> None:
    assert served.client.get(path, headers={"Host": "10.1.2.3:3000"}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "localhost",
        "",
        "http://[",
        "http://[x]",
        "//[::1",
    ],
)
def test_a_foreign_page_may_not_post(served: Served, origin: str) -> None:
    response = served.client.post("/v1/predict", json={"text": "x"}, headers={"Origin": origin})
    assert error_of(response, 403)[0] == "foreign_origin"


def test_our_own_page_may_post(served: Served) -> None:
    headers = {"Origin": f"http://localhost:{served.port}"}
    assert served.client.post("/v1/predict", json={"text": "x"}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Host", "evil.example", "localhost"),
        ("Host", "localhost", "localhost"),
        ("origin", "https://evil.example", "http://localhost"),
        ("Authorization", "Bearer a", "Bearer b"),
        ("Content-Type", "text/plain", "application/json"),
        ("Content-Length", "2", "2"),
        ("Idempotency-Key", "a", "b"),
        ("Inference-Header-Content-Length", "1", "2"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/feedback", "/v2/models/default/infer", "/livez", "/nope"])
def test_two_of_a_header_that_can_mean_only_one_thing_are_400(
    served: Served, path: str, name: str, one: str, other: str
) -> None:
    """A proxy before us may have looked at the one, and we at the other."""
    kept = "" if name == "Host" else "Host: localhost\r\n"
    twice = f"{name}: {one}\r\nAccept: */*\r\n{name.lower()}: {other}\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as raw:
        raw.sendall(f"POST {path} HTTP/1.1\r\n{kept}{twice}Connection: close\r\n\r\n{{}}".encode())
        head, _, body = received(raw).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"400", head
    if name != "Content-Length":  # there HTTP's parser stops it already
        error = json.loads(body)["error"]
        assert name.lower() in (error if path.startswith("/v2") else error["message"])
        assert path.startswith("/v2") or error["code"] == "bad_request"


def test_other_headers_may_come_more_than_once(served: Served) -> None:
    headers = [("Accept", "a/b"), ("Accept", "*/*"), ("Via", "1.1 a"), ("Via", "1.1 b")]
    assert served.client.post("/v1/predict", json={"text": "x"}, headers=headers).status_code == 200


def received(raw: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    while part := raw.recv(65_536):
        found += part
    return found


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("text", "inputs", "prediction_id", "kind", "label", "annotator", "asked", "reason", "until_s", "x")
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ALLOWED = {200, 202, 400, 404, 409, 422}


@FUZZ
@given(path=st.sampled_from(("/v1/predict", "/v1/feedback")), body=st.binary(max_size=200))
def test_any_bytes_are_answered_within_the_contract(served: Served, path: str, body: bytes) -> None:
    response = served.client.post(path, content=body, headers=JSON)
    assert response.status_code in ALLOWED, response.text
    assert isinstance(response.json(), dict)


@FUZZ
@given(
    path=st.sampled_from(("/v1/predict", "/v1/feedback", "/v1/pause", "/v1/versions/v-none/promote")),
    body=st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=5),
)
def test_any_document_is_answered_within_the_contract(served: Served, path: str, body: dict[str, Any]) -> None:
    before = REGISTRY.get_sample_value("ratchet_internal_errors_total")
    response = served.client.post(path, content=json.dumps(body), headers=JSON)
    assert response.status_code in ALLOWED, response.text
    if response.status_code >= 400:
        error_of(response, response.status_code)
    assert REGISTRY.get_sample_value("ratchet_internal_errors_total") == before


@FUZZ
@given(
    method=st.sampled_from(("GET", "POST")),
    target=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=40)
    | st.just("v1/predict"),
    value=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
    | st.text(alphabet="htp:/[]@.1", max_size=12),
)
@example(method="POST", target="v1/predict", value="http://[")
def test_any_path_and_header_is_answered_within_the_contract(
    served: Served, method: str, target: str, value: str
) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as raw:
        headers = f"Host: localhost\r\nAuthorization: {value}\r\nOrigin: {value}\r\nConnection: close\r\n"
        raw.sendall(f"{method} /{target} HTTP/1.1\r\n{headers}\r\n".encode("latin-1"))
        status = raw.recv(4096).split(b" ")[1]
    answers = {b"200", b"400", b"404", b"405", b"422", b"503"}
    assert status in (answers if method == "GET" else answers | {b"403", b"415"})
