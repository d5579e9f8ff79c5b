"""Images, compose file and alert rules against the code they are for."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from core.settings import ApiKey, Settings
from scripts.docs import PROGRAMS, metrics_of

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return document


def settings_in(environment: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name.startswith("RATCHET_")}


# images


def test_every_program_has_an_image() -> None:
    assert [path.suffix.removeprefix(".") for path in DOCKERFILES] == sorted(PROGRAMS)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_installs_only_what_its_program_needs(path: Path) -> None:
    text, program = path.read_text(encoding="utf-8"), path.suffix.removeprefix(".")
    extras = re.findall(r"--extra (\S+)", text)
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert set(extras) & set(PROGRAMS) == {program}
    assert "-c requirements.lock" in text
    assert "no-verify-hashes" not in text


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_lean_and_runs_as_nobody_special(path: Path) -> None:
    build, final = path.read_text(encoding="utf-8").split("\nFROM ")[1:3]
    assert build.startswith("python:3.11-slim AS build")
    assert final.startswith("python:3.11-slim\n")
    assert not re.search(r"pip install|apt-get|\buv\b|COPY (?!--from=build)", final)
    program = path.suffix.removeprefix(".")
    assert f'CMD ["ratchet", "{program}"]' in final
    assert final.index("USER ratchet") < final.index("VOLUME /var/lib/ratchet") < final.index("HEALTHCHECK")
    for name in re.findall(r"RATCHET_[A-Z_]+", final):
        assert name.removeprefix("RATCHET_").lower() in Settings.model_fields, name


def test_the_uv_of_the_images_is_that_of_the_makefile() -> None:
    version = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    for path in DOCKERFILES:
        assert f"uv=={version[1]} " in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_copies_exists_and_is_let_through(path: Path) -> None:
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(encoding="utf-8"), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in allowed, source


# compose


def test_compose_has_the_programs_and_the_servers(compose: dict[str, Any]) -> None:
    assert {*PROGRAMS, "kafka", "postgres", "prometheus"} == set(compose["services"])


def test_every_setting_in_the_compose_file_is_one(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable in settings_in(service.get("environment", {})):
            assert variable.removeprefix("RATCHET_").lower() in Settings.model_fields, f"{name}: {variable}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_would_start_with_the_settings_of_the_compose_file(
    compose: dict[str, Any], program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "POSTGRES_PASSWORD": "secret",
        "RATCHET_ID_KEY": "a" * 64,
        "RATCHET_API_KEYS": '[{"id": "app", "key": "0123456789abcdef", "roles": ["predict"]}]',
    }
    for name, value in settings_in(compose["services"][program]["environment"]).items():
        monkeypatch.setenv(name, interpolate(str(value), given))
    settings = Settings()
    assert settings.event_log_url == "kafka://kafka:9092"
    assert settings.example_store_url == "postgresql+psycopg://ratchet:secret@postgres:5432/ratchet"
    assert settings.registry_store_url == "file:///var/lib/registry"
    address = settings.host if program == "service" else settings.probe_host
    assert address == "0.0.0.0"
    assert bool(settings.api_keys) == (program == "service")


def interpolate(text: str, given: dict[str, str]) -> str:
    """``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` as compose reads them."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match["name"], match["kind"], match["rest"] or ""
        if given.get(name):
            return given[name]
        assert kind != ":?", f"{name}: {rest}"
        return rest

    return re.sub(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\}", value, text)


def test_no_secret_has_a_default(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    for name in ("POSTGRES_PASSWORD", "RATCHET_ID_KEY", "RATCHET_API_KEYS"):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text
        assert re.search(rf"^{name}=$", (DEPLOY / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_env_example_names_every_variable_of_the_compose_file() -> None:
    used = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    offered = set(re.findall(r"^(\w+)=", (DEPLOY / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    assert used == offered


def test_the_example_of_api_keys_can_be_used() -> None:
    text = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    example = re.search(r"RATCHET_API_KEYS='(\[.+\])'", text)
    assert example
    for key in yaml.safe_load(example[1].replace("…", "0123456789abcdef")):
        ApiKey.model_validate(key)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_are_shut_in(compose: dict[str, Any], program: str) -> None:
    service = compose["services"][program]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "/var/lib/ratchet" in " ".join(service["volumes"])


def test_only_the_service_waits_for_nothing(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert "depends_on" not in services["service"]
    assert set(services["feedback"]["depends_on"]) == {"kafka", "postgres"}
    assert set(services["trainer"]["depends_on"]) == {"postgres"}
    for name in ("kafka", "postgres"):
        assert "healthcheck" in services[name]


def test_volumes_and_networks_are_declared(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            declared = (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
            assert declared, f"{name}: {volume}"
        assert set(service["networks"]) <= set(compose["networks"])


def test_the_gpu_file_changes_a_service_that_exists(compose: dict[str, Any]) -> None:
    override = yaml.safe_load((DEPLOY / "compose.gpu.yaml").read_text(encoding="utf-8"))
    assert set(override["services"]) <= set(compose["services"])


# prometheus


def test_prometheus_scrapes_every_program_where_it_listens(compose: dict[str, Any]) -> None:
    document = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job for job in document["scrape_configs"]}
    for program in PROGRAMS:
        (found,) = jobs[program]["dns_sd_configs"]
        variable = "RATCHET_PORT" if program == "service" else f"RATCHET_{program.upper()}_PORT"
        assert found["names"] == [program]
        assert str(found["port"]) == compose["services"][program]["environment"][variable]


def test_alerts_and_operations_name_metrics_that_exist() -> None:
    declared = {metric.name: metric for program in PROGRAMS for metric in metrics_of(program)}
    histograms = {f"{name}{end}" for name, metric in declared.items() for end in ("_bucket", "_sum", "_count")}
    for path in (DEPLOY / "alerts.yml", ROOT / "docs" / "operations.md"):
        used = set(re.findall(r"\bratchet_[a-z_]+\b", path.read_text(encoding="utf-8")))
        assert used, path
        assert used <= {*declared, *histograms}, path.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "deploy/prometheus.yml"],
        ["check", "rules", "deploy/alerts.yml"],
        ["test", "rules", "tests/golden/alerts.yml"],
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is missing; install Prometheus")
        pytest.skip("promtool is missing; install Prometheus")
    done = subprocess.run([promtool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
