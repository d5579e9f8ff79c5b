"""The real thing: the server as it is started in production, and from a built Bento."""

import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from core.status import read_status
from service.connection import MAX_HEAD_BYTES
from tests.service.serving import champion, interactions, settings_for
from tests.support import free_port, wait_until

ROOT = Path(__file__).parents[2]
START_S = 60


def environment(home: Path, port: int, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RATCHET_", "BENTOML_"))}
    ours = {"RATCHET_HOME": str(home), "RATCHET_PORT": str(port), "RATCHET_REGISTRY_POLL_S": "0.1"}
    return {**kept, **ours, "BENTOML_DO_NOT_TRACK": "True", **more}


@contextmanager
def started(
    command: list[str], env: dict[str, str], cwd: Path
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A server process, once it answers; ended with SIGTERM, which must be clean."""
    output = Path(env["RATCHET_HOME"]) / "server.log"
    with output.open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=cwd, stdout=log, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{env['RATCHET_PORT']}", timeout=10) as client:
            wait_until(lambda: is_ready(client) or process.poll() is not None, timeout_s=START_S)
            assert process.poll() is None, output.read_text()
            yield process, client
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert "Traceback" not in output.read_text()


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_server_answers_and_ends_when_its_supervisor_is_gone(home: Path) -> None:
    """A worker left behind would keep the port and the outbox from the next start."""
    champion(home, "v-0001", favour="alpha")
    env = environment(home, free_port())
    with started([sys.executable, "-m", "service.run"], env, ROOT) as (process, client):
        answer = client.post("/v1/predict", json={"text": "where is my parcel"}).json()
        assert (answer["label"], answer["model_version"]) == ("alpha", "v-0001")
        told = {"prediction_id": answer["prediction_id"], "label": "beta"}
        feedback_id = client.post("/v1/feedback", json=told).json()["feedback_id"]
        assert client.get("/livez").json() == {"ok": True}
        assert client.get("/readyz").json() == {"ok": True, "version": "v-0001"}
        check_console(client)
        for closed in ("/docs.json", "/schema.json", "/healthz", "/static_content/index.css"):
            assert client.get(closed).status_code == 404
        pickled = {"Content-Type": "application/vnd.bentoml+pickle"}
        assert client.post("/v1/predict", content=b"x", headers=pickled).status_code == 415
        with socket.create_connection(("127.0.0.1", int(env["RATCHET_PORT"])), timeout=10) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES)
            assert raw.recv(4096).startswith(b"HTTP/1.1 431")
        check_metrics(client.get("/metrics"))
        champion(home, "v-0002", favour="beta")
        wait_until(lambda: client.post("/v1/predict", json={"text": "x"}).json()["model_version"] == "v-0002")
        info = [line for line in client.get("/metrics").text.splitlines() if line.startswith("ratchet_live_version")]
        assert info == ['ratchet_live_version_info{version="v-0002"} 1.0']

        worker = psutil.Process(process.pid).children()[0]
        (trial,) = worker.children()
        process.kill()
        worker.wait(15)
        wait_until(lambda: not trial.is_running(), what="the trial process to end with the worker")
    status = read_status(home, "service")
    assert status is not None
    assert status.state == "stopped"
    assert feedback_id in {event.feedback_id for event in interactions(settings_for(home)) if event.type == "feedback"}


def test_several_workers_converge_on_a_promotion_and_share_one_outbox(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    env = environment(home, free_port(), RATCHET_WORKERS="2")
    with started([sys.executable, "-m", "service.run"], env, ROOT) as (process, client):
        assert len(psutil.Process(process.pid).children()) == 2

        def ask(text: str) -> dict[str, str]:  # on a connection of its own, which any worker may take
            response = client.post("/v1/predict", json={"text": text}, headers={"Connection": "close"})
            assert response.status_code == 200, response.text
            return dict(response.json())

        def ready_workers() -> float:
            page = client.get("/metrics").text
            return float(page.split('ratchet_swaps_total{result="swapped"} ')[1].split()[0])

        wait_until(lambda: ready_workers() == 2, timeout_s=START_S)
        given = [ask(f"where is {number}")["prediction_id"] for number in range(30)]
        told = [{"prediction_id": prediction_id, "label": "beta"} for prediction_id in given]
        said = [client.post("/v1/feedback", json=body, headers={"Connection": "close"}) for body in told]
        champion(home, "v-0002", favour="beta")
        wait_until(lambda: ready_workers() == 4)
        answers = [ask(f"and where is {number}") for number in range(30)]
        assert {(answer["model_version"], answer["label"]) for answer in answers} == {("v-0002", "beta")}
    kept = [event.feedback_id for event in interactions(settings_for(home)) if event.type == "feedback"]
    assert sorted(kept) == sorted(response.json()["feedback_id"] for response in said)


def check_console(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
    for forbidden in (
        "innerHTML",
        "insertAdjacentHTML",
        "document.write",
        "http://",
        "https://",
        " style=",
        'onclick="',
    ):
        assert forbidden not in page.text


def check_metrics(response: httpx.Response) -> None:
    page = response.text
    for name in (
        'ratchet_requests_total{route="predict",status="200"} 1.0',
        "ratchet_request_seconds_bucket",
        "ratchet_batch_size_count 1.0",
        "ratchet_batch_seconds_count 1.0",
        "ratchet_queue_depth 0.0",
        'ratchet_live_version_info{version="v-0001"} 1.0',
        "ratchet_promotion_age_seconds",
        'ratchet_swaps_total{result="swapped"} 1.0',
        'ratchet_swap_seconds_count{phase="warmup"} 1.0',
        'ratchet_swap_seconds_count{phase="trial"} 1.0',
        'ratchet_feedback_received_total{kind="correct"} 1.0',
        "ratchet_predictions_dropped_total 0.0",
        "ratchet_prediction_records_pending",
        "ratchet_outbox_age_seconds",
        "ratchet_outbox_records",
        "ratchet_refused_bundles_total 0.0",
        "ratchet_registry_errors_total 0.0",
        'ratchet_provider_info{precision="fp32",provider="CPUExecutionProvider"} 1.0',
        "ratchet_internal_errors_total 0.0",
        "process_resident_memory_bytes",
    ):
        assert name in page, name


def test_a_built_bento_holds_the_service_alone_and_answers(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    env = environment(home, free_port(), BENTOML_HOME=str(home / "bentos"))
    bentoml = [sys.executable, "-m", "bentoml"]
    built = subprocess.run(
        [*bentoml, "build", "-o", "tag"], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    tag = built.stdout.strip().removeprefix("__tag__:")
    source = home / "bentos" / "bentos" / tag.replace(":", "/") / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert {name.split("/")[0] for name in files} == {"bentofile.yaml", "core", "service"}
    assert {"service/app.py", "service/console/index.html", "core/runtime.py"} <= files
    with started([*bentoml, "serve", tag], env, home) as (_, client):
        assert client.post("/v1/predict", json={"text": "x"}).json()["label"] == "alpha"


def test_the_bento_asks_for_what_the_project_says_it_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"]
    assert sorted(listed) == sorted(project["dependencies"] + project["optional-dependencies"]["service"])
    assert not any(package.startswith(("torch", "transformers")) for package in listed)


@pytest.mark.parametrize(
    "command", [["-m", "service.run"], ["-m", "bentoml", "serve", "service.app:Ratchet"]], ids=["ratchet", "bentoml"]
)
def test_settings_that_cannot_work_end_it_with_code_2_and_one_message(home: Path, command: list[str]) -> None:
    env = environment(home, free_port(), RATCHET_HOST="0.0.0.0", RATCHET_LANES="many", BENTOML_HOME=str(home / "b"))
    ended = subprocess.run(
        [sys.executable, *command], check=False, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "lanes" in ended.stderr


def test_a_taken_port_is_said(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = environment(home, taken.getsockname()[1])
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-c", "import service.run as run; run._PORT_WAIT_S = 0.5; run.main()"],
            check=False,
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert time.monotonic() - began < 20
    assert ended.returncode == 2
    assert "RATCHET_PORT" in ended.stderr
