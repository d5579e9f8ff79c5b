"""The Open Inference Protocol, asked by the real tritonclient and, for what it cannot say, by bare requests."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from tritonclient.utils import InferenceServerException

from core.events import Prediction
from core.runtime import Servable
from core.settings import ApiKey, Role
from service.openinference_codec import Output, decode_request, encode_response, split_body
from tests.service.serving import LABELS, Served, champion, interactions, promote, publish, serving, settings_for
from tests.support import wait_until

TEXTS = ["where is my parcel", "card lost", "hello word1", "ünïcödé 世界 word2"]
OUTPUTS = ("label", "score", "logits", "prediction_id", "model_version", "truncated", "audit")
INFER = "/v2/models/default/infer"


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as made:
        yield made


def text_input(texts: list[str], *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_), binary_data=binary)
    return tensor


def tensor(texts: list[Any], **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}], **more}


def strings(result: triton.InferResult, name: str) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else str(item) for item in result.as_numpy(name)]


# what clients ask before they infer


def test_the_server_and_its_model_are_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("default")
    assert client.is_model_ready("default", "v-0001")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("default", "v-0009")


def test_metadata_names_the_tensors(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    found = client.get_model_metadata("default")
    assert found == client.get_model_metadata("default", "v-0001")
    assert (found["name"], found["versions"]) == ("default", ["v-0001"])
    assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    shapes = {item["name"]: (item["datatype"], item["shape"]) for item in found["outputs"]}
    assert tuple(shapes) == OUTPUTS
    assert shapes["label"] == ("BYTES", [-1])
    assert shapes["logits"] == ("FP32", [-1, len(LABELS)])
    assert shapes["truncated"] == ("BOOL", [-1])
    assert found["parameters"]["labels"] == LABELS


def test_the_index_of_the_repository_is_the_one_model(client: triton.InferenceServerClient) -> None:
    entry = {"name": "default", "version": "v-0001", "state": "READY", "reason": ""}
    assert client.get_model_repository_index() == [entry]


# inference


@pytest.mark.parametrize("binary_input", [True, False], ids=["binary in", "json in"])
@pytest.mark.parametrize("binary_output", [True, False, None], ids=["binary out", "json out", "no outputs named"])
def test_tritonclient_gets_what_v1_predict_answers(
    served: Served, client: triton.InferenceServerClient, binary_input: bool, binary_output: bool | None
) -> None:
    outputs = None
    if binary_output is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=binary_output) for name in OUTPUTS]
    result = client.infer("default", [text_input(TEXTS, binary=binary_input)], outputs=outputs, request_id="seven")
    head = result.get_response()
    assert (head["model_name"], head["model_version"], head["id"]) == ("default", "v-0001", "seven")
    expected = served.client.post("/v1/predict", json={"inputs": [{"text": text} for text in TEXTS]}).json()
    assert strings(result, "label") == [item["label"] for item in expected["predictions"]]
    assert result.as_numpy("score").dtype == np.float32
    np.testing.assert_allclose(result.as_numpy("score"), [item["score"] for item in expected["predictions"]], atol=1e-6)
    assert strings(result, "model_version") == ["v-0001"] * len(TEXTS)
    assert len(set(strings(result, "prediction_id"))) == len(TEXTS)
    assert result.as_numpy("truncated").dtype == np.bool_
    assert not result.as_numpy("truncated").any()
    np.testing.assert_allclose(result.as_numpy("logits"), logits_of(served, TEXTS), atol=1e-5)


def logits_of(served: Served, texts: list[str]) -> Any:
    servable = served.program.swapper.servable
    assert isinstance(servable, Servable)
    return servable.run(servable.tokenize([{"text": text} for text in texts]))[0]


def test_a_text_that_was_cut_says_so(client: triton.InferenceServerClient) -> None:
    result = client.infer("default", [text_input(["hello", "word1 " * 150])])
    assert result.as_numpy("truncated").tolist() == [False, True]


def test_only_the_outputs_asked_for_come_in_their_order(client: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput("score"), triton.InferRequestedOutput("label", binary_data=False)]
    head = client.infer("default", [text_input(["hello"])], outputs=wanted).get_response()
    assert [item["name"] for item in head["outputs"]] == ["score", "label"]
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert head["outputs"][1]["data"]


def test_the_outputs_own_word_beats_that_of_the_request(served: Served) -> None:
    outputs = [{"name": "score", "parameters": {"binary_data": False}}, {"name": "label"}]
    body = tensor(["hello"], outputs=outputs, parameters={"binary_data_output": True})
    response = served.client.post(INFER, json=body)
    assert response.headers["content-type"] == "application/octet-stream"
    size = int(response.headers["inference-header-content-length"])
    head = json.loads(response.content[:size])
    assert "data" in head["outputs"][0]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": len(response.content) - size}


def test_async_inference_works(client: triton.InferenceServerClient) -> None:
    asked = [client.async_infer("default", [text_input([text])]) for text in TEXTS]
    assert all(strings(item.get_result(), "label")[0] in LABELS for item in asked)


def test_predictions_are_recorded_as_those_of_v1_are(home: Path) -> None:
    champion(home, "v-0001")
    app = ApiKey.model_validate({"id": "app", "key": "k" * 20, "roles": [Role.PREDICT, Role.FEEDBACK]})
    settings = settings_for(home, api_keys=(app,), audit_rate=1.0)
    with serving(settings) as served, triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        key = {"Authorization": "Bearer " + "k" * 20}
        result = client.infer("default", [text_input(TEXTS)], headers=dict(key))  # it writes into them
        ids = strings(result, "prediction_id")
        assert result.as_numpy("audit").all()
        told = {"prediction_id": ids[0], "label": "beta"}
        assert served.client.post("/v1/feedback", json=told, headers=key).status_code == 202
    recorded = {event.prediction_id: event for event in interactions(settings) if isinstance(event, Prediction)}
    assert [recorded[made].inputs["text"] for made in ids] == TEXTS
    first = recorded[ids[0]]
    assert (first.model_version, first.api_key_id, first.audit_probability) == ("v-0001", "app", 1.0)
    assert first.output["label"] == strings(result, "label")[0]
    assert len(first.output["top"]) == len(LABELS)


def test_keys_and_roles_hold_here_too_in_the_protocols_form(home: Path) -> None:
    champion(home, "v-0001")
    other = ApiKey.model_validate({"id": "other", "key": "o" * 20, "roles": [Role.FEEDBACK]})
    with serving(settings_for(home, api_keys=(other,))) as served:
        with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            for headers, status in (({}, "401"), ({"Authorization": "Bearer " + "o" * 20}, "403")):
                with pytest.raises(InferenceServerException) as refused:
                    client.infer("default", [text_input(["x"])], headers=headers)
                assert refused.value.status() == status
        response = served.client.post(INFER, json=tensor(["x"]))
        assert isinstance(response.json()["error"], str)


# versions


def test_a_version_that_is_not_live_is_refused_with_the_one_that_is(home: Path) -> None:
    champion(home, "v-0001")
    publish(home, "v-0002")
    with serving(settings_for(home)) as served, triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        assert client.infer("default", [text_input(["x"])], model_version="v-0001").as_numpy("label") is not None
        for version, status in (("v-0002", "409"), ("v-0009", "404"), ("UPPER", "404")):
            with pytest.raises(InferenceServerException) as refused:
                client.infer("default", [text_input(["x"])], model_version=version)
            assert refused.value.status() == status
        assert not client.is_model_ready("default", "v-0002")
        promote(home, "v-0002")
        wait_until(lambda: client.is_model_ready("default", "v-0002"), what="the swap")
        with pytest.raises(InferenceServerException, match="'v-0001' is not live, 'v-0002' is"):
            client.infer("default", [text_input(["x"])], model_version="v-0001")


def test_a_request_is_answered_by_one_version_whatever_is_promoted_meanwhile(home: Path) -> None:
    labels = {"v-0001": LABELS, "v-0002": [*LABELS, "delta"]}
    champion(home, "v-0001")
    publish(home, "v-0002", labels=labels["v-0002"])
    seen: list[str] = []
    with (
        serving(settings_for(home, registry_poll_s=0.01, batch_tokens=8, lanes=2)) as served,
        triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client,
    ):
        for round_ in range(8):
            promote(home, "v-0002" if round_ % 2 == 0 else "v-0001")
            for _ in range(10):
                result = client.infer("default", [text_input(TEXTS * 30)])
                seen.append(result.get_response()["model_version"])
                assert set(strings(result, "model_version")) == {seen[-1]}
                assert result.as_numpy("logits").shape == (len(TEXTS) * 30, len(labels[seen[-1]]))
    assert set(seen) == set(labels)


def test_without_a_model_it_is_live_and_not_ready(home: Path) -> None:
    with (
        serving(settings_for(home), ready=False) as served,
        triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client,
    ):
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("default")
        assert client.get_model_repository_index()[0]["state"] == "UNAVAILABLE"
        with pytest.raises(InferenceServerException) as refused:
            client.infer("default", [text_input(["x"])])
        assert refused.value.status() == "503"


# what is wrong


def refusal(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    document = response.json()
    assert set(document) == {"error"}
    assert isinstance(document["error"], str)
    return str(document["error"])


def one(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"], **changes}]}


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({}, 400, "'inputs' must be a list"),
        ({"inputs": []}, 400, "'inputs' must be a list"),
        ({"inputs": ["x"]}, 400, "object with a 'name'"),
        (one(name="txt"), 400, "the model's inputs are text; the request has txt"),
        (one(datatype="FP32"), 400, "datatype BYTES"),
        (one(shape=[1, 1]), 400, "shape [n]"),
        (one(shape=[True]), 400, "shape [n]"),
        (one(shape=[0], data=[]), 400, "shape [n]"),
        (one(shape=[2]), 400, "a list of 2 strings"),
        (one(shape=[9], data=["x"] * 9), 400, "at most 8"),
        (one(data=[3]), 400, "strings only"),
        (one(data=None), 400, "must have 'data'"),
        (one(data=[" "]), 422, "element 0: 'text' is empty"),
        (one(data=["x" * 1001]), 422, "at most 1000"),
        (one(parameters=[]), 400, "must be an object"),
        (one(parameters={"shared_memory_region": "a"}), 400, "not supported"),
        (one(parameters={"binary_data_size": 1}), 400, "both 'data' and"),
        ({"inputs": one()["inputs"] * 2}, 400, "there twice"),
        ({**one(), "outputs": {}}, 400, "'outputs' must be a list"),
        ({**one(), "outputs": [{"name": "nope"}]}, 400, "there are: label"),
        ({**one(), "outputs": [{"name": "logits", "parameters": {"classification": 3}}]}, 400, "not supported"),
        ({**one(), "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, 400, "true or false"),
        ({**one(), "parameters": {"sequence_id": 4}}, 400, "not supported"),
        ({**one(), "parameters": {"timeout": 0}}, 400, "microseconds"),
        ({**one(), "id": 7}, 400, "'id' must be a string"),
    ],
)
def test_what_is_wrong_is_said(served: Served, body: dict[str, Any], status: int, named: str) -> None:
    assert named in refusal(served.client.post(INFER, json=body), status)


@pytest.mark.parametrize(
    ("header", "tail", "named"),
    [
        ("x", b"", "must be a number of bytes"),
        ("9" * 5000, b"", "must be a number of bytes"),
        ("99999", b"", "must be a number of bytes"),
        (None, b"\x01\x00\x00\x00x!", "1 bytes follow"),
        (None, b"\x02\x00\x00\x00x", "ends within element 0"),
        (None, b"\xff\xff\xff\xffx", "ends within element 0"),
        (None, b"\x01\x00", "ends within element 0"),
        (None, b"\x00\x00\x00\x00\x01\x00\x00\x00x", "holds 2 elements"),
        (None, b"\x01\x00\x00\x00\xff", "not UTF-8"),
        (None, b"", "holds 0 elements"),
    ],
)
def test_faulty_binary_data_is_refused(served: Served, header: str | None, tail: bytes, named: str) -> None:
    size = 5 if named.startswith("1 bytes") else len(tail)
    head = json.dumps(
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}]}
    ).encode()
    headers = {"Inference-Header-Content-Length": header or str(len(head))}
    assert named in refusal(served.client.post(INFER, content=head + tail, headers=headers), 400)


def test_binary_data_larger_than_the_body_is_refused(served: Served) -> None:
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}]}
    assert "within the 0 that are left" in refusal(served.client.post(INFER, json=body), 400)


def test_limits_types_and_unknown_places_are_those_of_every_route(served: Served) -> None:
    post = served.client.post
    assert "20000 bytes" in refusal(post(INFER, json=tensor(["x" * 30_000])), 413)
    assert "application/octet-stream" in refusal(post(INFER, content=b"{}", headers={"Content-Type": "text/x"}), 415)
    assert "Content-Encoding" in refusal(post(INFER, content=b"x", headers={"Content-Encoding": "gzip"}), 415)
    assert "not JSON" in refusal(post(INFER, content=b"{"), 400)
    assert "'default'" in refusal(post("/v2/models/other/infer", json=tensor(["x"])), 404)
    refusal(served.client.get("/v2/nope"), 404)
    refusal(served.client.get(INFER), 405)
    refusal(served.client.get("/v2", headers={"Host": "evil.example"}), 421)
    refusal(post(INFER, json=tensor(["x"]), headers={"Origin": "https://evil.example"}), 403)


def test_tritonclient_is_told_that_it_may_not_compress(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Content-Encoding") as refused:
        client.infer("default", [text_input(["x"])], request_compression_algorithm="gzip")
    assert refused.value.status() == "415"


def test_a_client_that_would_like_a_compressed_answer_gets_a_plain_one(client: triton.InferenceServerClient) -> None:
    result = client.infer("default", [text_input(["x"])], response_compression_algorithm="gzip")
    assert strings(result, "label")[0] in LABELS


def test_the_clients_own_deadline_holds(client: triton.InferenceServerClient) -> None:
    assert strings(client.infer("default", [text_input(["x"])], timeout=9_000_000), "label")
    with pytest.raises(InferenceServerException, match="no answer within") as refused:
        client.infer("default", [text_input(["x"])], timeout=1)
    assert refused.value.status() == "503"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=80), size=st.integers(min_value=0, max_value=90), sent=st.booleans())
def test_any_bytes_are_answered_within_the_protocol(served: Served, body: bytes, size: int, sent: bool) -> None:
    before = REGISTRY.get_sample_value("ratchet_internal_errors_total")
    head = b'{"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":%d}}]}' % size
    headers = {"Inference-Header-Content-Length": str(len(head))} if sent else {}
    response = served.client.post(INFER, content=head + body, headers=headers)
    if response.status_code != 200:
        assert response.status_code in {400, 422}
        assert isinstance(response.json()["error"], str)
    assert REGISTRY.get_sample_value("ratchet_internal_errors_total") == before


# the codec alone


@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_texts_survive_the_binary_form(texts: list[str]) -> None:
    body, size = encode_response({}, [(Output(name="text", values=texts), True)])
    document, binary = split_body(body, str(size))
    asked = {"inputs": json.loads(document)["outputs"]}
    assert decode_request(asked, binary, most=10).inputs == {"text": texts}


def test_numbers_are_little_end_first_and_row_by_row() -> None:
    values = np.array([[1.5, 2.0], [3.0, -4.0]], dtype=">f4")
    output = Output(name="logits", values=values.astype(np.float32))
    body, size = encode_response({}, [(output, True)])
    assert struct.unpack("<4f", body[size:]) == (1.5, 2.0, 3.0, -4.0)
    document = json.loads(encode_response({}, [(output, False)])[0])
    assert document["outputs"][0]["data"] == [1.5, 2.0, 3.0, -4.0]
    assert document["outputs"][0]["shape"] == [2, 2]
