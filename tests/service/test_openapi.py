"""The OpenAPI document against the service: nothing is missing, nothing is untrue, and clients can be made from it."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from core.bundle import Lane
from core.events import Outcome, OutcomeStatus, Prediction, new_id
from core.examples import ExampleStore
from core.examples.review import Waiting
from core.registry import RunState, TrainingRun, Verdict
from core.settings import ApiKey, Role
from core.tasks import TASKS
from service.openapi import OPERATIONS, document, error_statuses
from service.openapi_schemas import CODES, OUTPUTS, TARGETS
from service.routes import ENDPOINTS
from tests.service.serving import LABELS, Served, champion, publish, registry_of, serving, settings_for
from tests.support import wait_until
from tests.test_docs import error_codes

ROOT = Path(__file__).resolve().parents[2]
KEY = "k" * 20
#: what stands for the parameters of a path
PLACES = {"version": "v-0001", "feedback_id": "nobody", "name": "default"}


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose registry and store hold something of everything that can be shown."""
    home = tmp_path_factory.mktemp("home")
    champion(home, "v-0001")
    publish(home, "v-0002", parent="v-0001", lane=Lane.HEAD)
    registry = registry_of(home)
    evaluation = {"holdout": {"accuracy": 0.9, "per_label": {"alpha": {"recall": 1.0, "support": 3}}}, "latency_s": 0.1}
    for version in ("v-0001", "v-0002"):
        told = {"reasons": ["level"], "low_power": True, "evaluation": evaluation}
        registry.record_verdict(Verdict(version=version, passed=True, champion=None, judged_against=0, **told))
    registry.record_refusal("v-0002", reason="a test", actor="test")
    run = {"run_id": new_id(), "lane": "head", "trigger": "count", "parent": "v-0001", "seed": 0, "through_seq": 1}
    registry.record_run(TrainingRun(**run, state=RunState.RUNNING))
    (home / "registry" / "default" / "versions" / "v-0003").mkdir()
    (home / "registry" / "default" / "versions" / "v-0003" / "manifest.json").write_text("{")
    settings = settings_for(home, max_inputs=8, max_text_chars=1_000, max_request_bytes=20_000)
    store = ExampleStore(settings.example_store_url, settings.model)
    store.migrate()
    with serving(settings) as served:
        yield served
    store.close()


@pytest.fixture(scope="module")
def described(rich: Served) -> dict[str, Any]:
    """The document, as it is served."""
    response = rich.client.get("/openapi.json")
    assert response.status_code == 200
    return dict(response.json())


# the document itself


def test_every_endpoint_has_an_operation_and_no_operation_lacks_one() -> None:
    names = [endpoint.name for endpoint in ENDPOINTS]
    assert len(set(names)) == len(names)
    assert set(names) == set(OPERATIONS)


def test_every_path_and_method_is_in_the_document(described: dict[str, Any]) -> None:
    found = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert found == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


def test_the_document_is_valid_openapi_3_1(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(described).validate()  # type: ignore[arg-type]


def test_no_schema_is_left_over(described: dict[str, Any]) -> None:
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert used == set(described["components"]["schemas"])


def test_every_task_has_its_fields_and_they_are_what_it_answers() -> None:
    assert set(OUTPUTS) == set(TARGETS) == set(TASKS)
    for name, task in TASKS.items():
        output = task.decode(np.zeros((1, len(LABELS)), dtype=np.float32), LABELS)[0]
        assert set(output) == set(OUTPUTS[name])


def test_error_codes_are_those_of_the_code() -> None:
    used = {pair for path in sorted((ROOT / "service").glob("*.py")) for pair in error_codes(path)}
    described = {(status, code) for status, codes in CODES.items() for code in codes}
    assert used == described


def test_limits_and_security_are_those_that_are_set(rich: Served, described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    assert schemas["Inputs"]["properties"]["text"]["maxLength"] == 1_000
    assert schemas["ManyInputs"]["properties"]["inputs"]["maxItems"] == 8
    assert described["paths"]["/v1/predict"]["post"]["security"] == [{"ApiKey": ["predict"]}, {}]
    assert described["paths"]["/livez"]["get"]["security"] == []
    key = ApiKey.model_validate({"id": "app", "key": KEY})
    locked = document(ENDPOINTS, settings_for(Path(), api_keys=(key,)), rich.program.task)
    assert locked["paths"]["/v1/review"]["get"]["security"] == [{"ApiKey": ["operator"]}]


# answers


def check(described: dict[str, Any], path: str, response: httpx.Response) -> Any:
    """The answer must be what the document says of this path, method and status."""
    operation = described["paths"][path][response.request.method.lower()]
    told = operation["responses"][str(response.status_code)]
    content_type = response.headers["content-type"].partition(";")[0]
    schema = told["content"][content_type]["schema"]
    for name in told.get("headers", {}):
        assert name in response.headers or name == "Inference-Header-Content-Length", name
    body = response.json() if content_type == "application/json" else response.text
    OAS31Validator({**schema, "components": described["components"]}).validate(body)
    return body


def test_answers_are_what_the_document_says(rich: Served, described: dict[str, Any]) -> None:
    get, post = rich.client.get, rich.client.post
    one = check(described, "/v1/predict", post("/v1/predict", json={"text": "hello"}))
    check(described, "/v1/predict", post("/v1/predict", json={"inputs": [{"text": "hello"}, {"text": "card"}]}))
    told = {"prediction_id": one["prediction_id"], "label": "beta"}
    receipt = check(described, "/v1/feedback", post("/v1/feedback", json=told))
    outcome = "/v1/feedback/{feedback_id}"
    assert check(described, outcome, get(f"/v1/feedback/{receipt['feedback_id']}"))["status"] == "pending"
    settled = settle(rich, receipt["feedback_id"])
    assert check(described, outcome, get(f"/v1/feedback/{receipt['feedback_id']}"))["status"] == settled
    assert check(described, "/v1/review", get("/v1/review"))["predictions"]
    assert check(described, "/v1/model", get("/v1/model"))["verdict"]["passed"]
    versions = check(described, "/v1/versions", get("/v1/versions"))
    assert {len(item) for item in versions["versions"]} == {2, 11}
    assert versions["runs"]
    assert check(described, "/v1/versions/{version}", get("/v1/versions/v-0002"))["refusals"]
    check(described, "/v1/train", post("/v1/train"))
    for path in ("/", "/metrics", "/livez", "/readyz", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"):
        check(described, path, get(path))
    check(described, "/v2/repository/index", post("/v2/repository/index"))
    for path in ("/v2/models/{name}", "/v2/models/{name}/ready"):
        check(described, path, get(path.format(name="default")))
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]}
    infer = post("/v2/models/default/infer", json={"id": "7", "inputs": [tensor]})
    check(described, "/v2/models/{name}/infer", infer)


def settle(rich: Served, feedback_id: str) -> str:
    """What the feedback program writes: a prediction waiting for review, and an outcome."""
    store = ExampleStore(rich.program.settings.example_store_url, "default")
    with store.transaction() as transaction:
        transaction.add_outcome(
            Outcome(model="default", feedback_id=feedback_id, status=OutcomeStatus.ACCEPTED, reason="a test")
        )
        output = {"label": "alpha", "score": 0.5, "top": [{"label": "alpha", "score": 0.5}]}
        shown = {"model_version": "v-0001", "task": "text_classification", "inputs": {"text": "hello"}}
        made = [Prediction(prediction_id=new_id(), output=output, confidence=0.5, **shown) for _ in range(2)]
        transaction.add_predictions(made)
        transaction.review.add(
            [
                Waiting(prediction_id=event.prediction_id, lot=0.05, probability=probability, doubt=0.5, at=event.at)
                for event, probability in zip(made, (None, 0.1), strict=True)
            ]
        )
    store.close()
    return "accepted"


def test_orders_are_answered_as_the_document_says(home: Path, described: dict[str, Any]) -> None:
    champion(home, "v-0001")
    publish(home, "v-0002")
    with serving(settings_for(home)) as served:
        post = served.client.post
        why = {"reason": "a test"}
        for order in ("pause", "resume"):
            check(described, f"/v1/{order}", post(f"/v1/{order}", json=why))
        check(described, "/v1/versions/{version}/promote", post("/v1/versions/v-0002/promote", json=why))
        again = post("/v1/versions/v-0002/promote", json=why)
        assert again.status_code == 409
        check(described, "/v1/versions/{version}/promote", again)
        check(described, "/v1/rollback", post("/v1/rollback", json=why))
        gone = post("/v1/rollback", json=why)
        assert gone.status_code in (404, 409)
        check(described, "/v1/rollback", gone)


def test_each_line_of_a_stream_is_what_the_document_says(rich: Served, described: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/x-ndjson"}
    response = rich.client.post("/v1/predict/stream", content=b'{"text": "hello"}\n{}\n', headers=headers)
    told = described["paths"]["/v1/predict/stream"]["post"]["responses"]["200"]["content"]["application/x-ndjson"]
    line = OAS31Validator({**told["schema"]["x-line"], "components": described["components"]})
    lines = response.text.splitlines()
    assert len(lines) == 2
    for item in lines:
        line.validate(json.loads(item))


# errors: what a status is documented for, answers it, and nothing else does


def everywhere(
    client: httpx.Client, described: dict[str, Any], status: int, ask: Callable[[str, str], httpx.Response]
) -> None:
    """Ask every route; those that document the status must answer it, those that don't must not."""
    for endpoint in ENDPOINTS:
        response = ask(endpoint.method, endpoint.path.format(**PLACES))
        documented = status in error_statuses(endpoint, OPERATIONS[endpoint.name])
        assert (response.status_code == status) == documented, (endpoint, response.status_code, response.text[:200])
        if documented:
            check(described, endpoint.path, response)


def body_for(path: str) -> dict[str, Any]:
    """Headers of a request whose body is empty but of the right type."""
    content_type = "application/x-ndjson" if path.endswith("/stream") else "application/json"
    return {"headers": {"Content-Type": content_type}}


def test_401_is_where_a_key_is_needed(home: Path, described: dict[str, Any]) -> None:
    champion(home, "v-0001")
    key = ApiKey.model_validate({"id": "app", "key": KEY, "roles": [Role.PREDICT]})
    with serving(settings_for(home, api_keys=(key,))) as served:
        everywhere(served.client, described, 401, served.client.request)


def test_403_is_where_a_role_is_needed_or_a_page_may_not_post(home: Path, described: dict[str, Any]) -> None:
    champion(home, "v-0001")
    key = ApiKey.model_validate({"id": "app", "key": KEY, "roles": []})
    headers = {"Authorization": f"Bearer {KEY}", "Origin": "https://evil.example"}
    with serving(settings_for(home, api_keys=(key,))) as served:
        everywhere(
            served.client, described, 403, lambda method, path: served.client.request(method, path, headers=headers)
        )


def test_421_is_where_the_host_is_checked(rich: Served, described: dict[str, Any]) -> None:
    headers = {"Host": "evil.example"}
    everywhere(rich.client, described, 421, lambda method, path: rich.client.request(method, path, headers=headers))


def test_400_for_a_header_sent_twice_is_everywhere(rich: Served, described: dict[str, Any]) -> None:
    headers = [("Origin", "http://localhost"), ("Origin", "http://localhost")]
    everywhere(rich.client, described, 400, lambda method, path: rich.client.request(method, path, headers=headers))


def test_413_is_where_a_body_is_read(rich: Served, described: dict[str, Any]) -> None:
    def ask(method: str, path: str) -> httpx.Response:
        return rich.client.request(method, path, content=b" " * 30_000, **body_for(path))

    everywhere(rich.client, described, 413, ask)


def test_415_is_where_the_type_matters(rich: Served, described: dict[str, Any]) -> None:
    def ask(method: str, path: str) -> httpx.Response:
        return rich.client.request(method, path, content=b"{}", headers={"Content-Type": "text/x"})

    everywhere(rich.client, described, 415, ask)


def test_404_and_409_are_where_a_place_or_version_is_named(rich: Served, described: dict[str, Any]) -> None:
    unknown = {"version": "v-9999", "feedback_id": "nobody", "name": "other"}
    known = {**PLACES, "version": "v-0002"}
    for endpoint in ENDPOINTS:
        documented = error_statuses(endpoint, OPERATIONS[endpoint.name])
        if "{" in endpoint.path:
            path = endpoint.path.format(**unknown)
            response = rich.client.request(endpoint.method, path, json={"reason": "a test"})
            assert response.status_code == 404, endpoint
            check(described, endpoint.path, response)
        if endpoint.path.startswith("/v2") and "{version}" in endpoint.path:
            response = rich.client.request(endpoint.method, endpoint.path.format(**known), json={})
            assert response.status_code == 409
            assert 409 in documented


def test_503_is_where_a_model_is_needed(home: Path, described: dict[str, Any]) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"]}
    bodies = {"/v1/predict": {"text": "x"}, "/v2/models/{name}/infer": {"inputs": [tensor]}}
    with serving(settings_for(home), ready=False) as served:
        for endpoint in ENDPOINTS:
            if endpoint.role is not Role.PREDICT or endpoint.name in ("v2_server", "v2_index"):
                continue
            kinds = body_for(endpoint.path)
            content = json.dumps(bodies.get(endpoint.path, {})).encode()
            response = served.client.request(endpoint.method, endpoint.path.format(**PLACES), content=content, **kinds)
            assert response.status_code == 503, endpoint
            check(described, endpoint.path, response)
        for path in ("/readyz", "/v2/health/ready"):
            check(described, path, served.client.get(path))
        missing = served.client.get("/v1/review")
        assert missing.status_code == 503
        check(described, "/v1/review", missing)


# tools that live on the document


CAUGHT: dict[str, Any] = {"capture_output": True, "text": True}
HOOKS = """
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
"""


def test_schemathesis_finds_no_answer_that_the_document_does_not_have(home: Path, tmp_path: Path) -> None:
    """Valid and invalid requests to every route. Some rules are sentences and no schema (a label must be printable), so
    that a valid request may still be refused: that check is left out."""
    champion(home, "v-0001")
    publish(home, "v-0002")
    settings = settings_for(home)
    ExampleStore(settings.example_store_url, settings.model).migrate()
    (tmp_path / "ratchet_hooks.py").write_text(HOOKS)
    with serving(settings) as served:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{served.port}/openapi.json"),
            *("--phases", "coverage,fuzzing", "--max-examples", "8", "--seed", "1", "--generation-codec", "utf-8"),
            *("--generation-database", "none", "--no-color", "--request-timeout", "20", "--warnings", "off"),
            *("--exclude-checks", "positive_data_acceptance"),
        ]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SCHEMATHESIS_HOOKS": "ratchet_hooks"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, **CAUGHT, timeout=200)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    tried = len(ENDPOINTS) - 1  # it leaves out the document itself
    assert f"{tried} selected / {tried} total" in done.stdout


CLIENT = """
project_name_override: ratchet-client
package_name_override: ratchet_client
post_hooks: []
content_type_overrides:
  application/x-ndjson: application/octet-stream
"""


@pytest.fixture(scope="module")
def made(described: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A client package that openapi-python-client made of the document."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(described))
    (folder / "config.yml").write_text(CLIENT)
    command = [
        *(sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json"),
        *("--config", "config.yml", "--meta", "none", "--output-path", "ratchet_client", "--fail-on-warning"),
    ]
    done = subprocess.run(command, cwd=folder, check=False, **CAUGHT, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == "ratchet_client"]:
        del sys.modules[name]


def part(path: str) -> ModuleType:
    return importlib.import_module(f"ratchet_client.{path}")


def test_a_client_made_of_the_document_predicts_corrects_and_asks_for_the_outcome(rich: Served, made: Path) -> None:
    models = part("models")
    with part("client").Client(base_url=f"http://127.0.0.1:{rich.port}") as client:
        predict = part("api.predictions.predict").sync
        answer = predict(client=client, body=models.Inputs(text="where is my parcel"))
        assert isinstance(answer, models.Prediction)
        assert answer.label in LABELS
        assert isinstance(answer.top[0], models.ScoredLabel)
        many = predict(client=client, body=models.ManyInputs(inputs=[models.Inputs(text="x"), models.Inputs(text="y")]))
        assert isinstance(many, models.ManyPredictions)
        assert len(many.predictions) == 2
        said = models.FeedbackRequest(prediction_id=answer.prediction_id, label="beta")
        give = part("api.feedback.feedback").sync
        receipt = give(client=client, body=said, idempotency_key="order-7")
        assert isinstance(receipt, models.FeedbackReceipt)
        assert give(client=client, body=said, idempotency_key="order-7") == receipt
        ask = part("api.feedback.outcome").sync
        pending = ask(client=client, feedback_id=receipt.feedback_id)
        assert isinstance(pending, models.PendingOutcome)
        settle(rich, receipt.feedback_id)
        outcome = ask(client=client, feedback_id=receipt.feedback_id)
        assert isinstance(outcome, models.Outcome)
        assert outcome.status == models.OutcomeStatus.ACCEPTED
        live = part("api.model.model").sync(client=client)
        assert (live.version, live.labels) == ("v-0001", LABELS)
        assert isinstance(live.hold, models.Hold)
        refused = predict(client=client, body=models.Inputs(text=" "))
        assert isinstance(refused, models.ErrorAnswer)
        assert refused.error.code == models.ProblemCode.INVALID_INPUT


def test_the_client_made_of_the_document_is_well_typed(made: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(made / "cache")]
    done = subprocess.run([*command, "ratchet_client"], cwd=made, check=False, **CAUGHT, timeout=200)
    assert done.returncode == 0, done.stdout[-3_000:]


def test_the_swap_to_a_version_with_other_labels_needs_no_other_document(home: Path, described: dict[str, Any]) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home)) as served:
        champion(home, "v-0002", labels=[*LABELS, "delta"], favour="delta")
        wait_until(lambda: served.live() == "v-0002")
        answer = check(described, "/v1/predict", served.client.post("/v1/predict", json={"text": "x"}))
    assert answer["label"] == "delta"
