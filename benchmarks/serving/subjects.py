"""What is compared: how each server is started, and how it wants to be asked."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.bundle import Bundles, fill_registry
from benchmarks.serving.processes import HOST, ROOT, Running, free_port, server

REQUIREMENTS: Final = Path(__file__).with_name("requirements-peers.txt")
_PEERS: Final = "benchmarks.serving.peers"
Body = Callable[[str], dict[str, Any]]


def one_text(text: str) -> dict[str, Any]:
    """What all but BentoML take."""
    return {"text": text}


def list_of_one(text: str) -> dict[str, Any]:
    """BentoML batches by the first dimension of a list."""
    return {"texts": [text]}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One server."""

    name: str
    title: str
    path: str
    body: Body = one_text
    module: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


RATCHET: Final = Subject(name="ratchet", title="Ratchet", path="/v1/predict")
SUBJECTS: Final = (
    RATCHET,
    Subject(name="uvicorn", title="bare uvicorn, two lanes", path="/", module=f"{_PEERS}.bare_uvicorn"),
    Subject(name="mosec", title="mosec, 2 workers", path="/inference", module=f"{_PEERS}.mosec_worker"),
    Subject(
        name="mosec2", title="mosec, 1 worker of 2 threads", path="/inference", module=f"{_PEERS}.mosec_worker",
        environment={"BENCH_WORKERS": "1"},
    ),
    Subject(
        name="bentoml", title="BentoML `batchable=True`, 2 workers", path="/predict", body=list_of_one,
        module=f"{_PEERS}.bento_batchable:Classifier",
    ),
    Subject(name="litserve", title="LitServe, 2 workers", path="/predict", module=f"{_PEERS}.lit_api"),
)  # fmt: skip


def peers_python(cache: Path) -> Path:
    """The interpreter of the peers' own environment; made with uv the first time and when its list has changed.

    ``BENCH_PYTHON`` names another, for a machine that installs nothing.
    """
    if given := os.environ.get("BENCH_PYTHON"):
        return Path(given)
    stamp = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    folder = cache.resolve() / f"peers-{stamp}"
    python = folder / "bin" / "python"
    if not (folder / ".complete").is_file():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        install = [*uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True)
        (folder / ".complete").touch()
    return python


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where servers run from: the cache folder, the bundles, and the peers' interpreter."""

    cache: Path
    bundles: Bundles
    precision: str

    @contextmanager
    def serving(self, subject: Subject) -> Iterator[Running]:
        """A server that answers."""
        if subject is RATCHET:
            with self.ratchet() as running:
                yield running
            return
        port = free_port()
        python = str(peers_python(self.cache))
        command: Sequence[str] = [python, "-m", subject.module]
        if subject.module.endswith("mosec_worker"):
            command = [*command, "--address", HOST, "--port", str(port), "--log-level", "warning"]
        if subject.name == "bentoml":
            command = [python, "-m", "bentoml", "serve", subject.module, "--host", HOST, "--port", str(port)]
        folder = self.bundles.bundle(self.precision).directory
        environment = {
            "BENCH_BUNDLE": str(folder), "BENCH_PORT": str(port), "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(self.cache.resolve() / "bentoml"), "PYTHONPATH": str(ROOT), **subject.environment,
        }  # fmt: skip
        probe = (subject.path, _encoded(subject.body("is my card lost?")))
        with server(command, environment, port=port, log=self._log(subject.name), probe=probe) as running:
            yield running

    @contextmanager
    def ratchet(
        self, *, variants: int = 1, head_only: bool = False, name: str = "ratchet", **settings: str
    ) -> Iterator[Running]:
        """Ratchet as its users run it: ``python -m service.run`` on a fresh home, default settings but those given."""
        port = free_port()
        home = self.home(name)
        fill_registry(home, self.bundles, self.precision, variants=variants, head_only=head_only)
        chosen = {"home": str(home), "port": str(port), "host": HOST, **settings}
        environment = {f"RATCHET_{key.upper()}": value for key, value in chosen.items()}
        command = [sys.executable, "-m", "service.run"]
        probe = (RATCHET.path, _encoded(RATCHET.body("is my card lost?")))
        with server(command, environment, port=port, log=self._log(name), probe=probe) as running:
            yield running

    def home(self, name: str = "ratchet") -> Path:
        """Ratchet's home of that name."""
        return self.cache.resolve() / "homes" / f"{name}-{self.precision}"

    def raw_onnx(self, texts: Path, seconds: float) -> dict[str, float]:
        """Texts a second of raw ONNX Runtime; see peers/raw_onnx.py."""
        folder = self.bundles.bundle(self.precision).directory
        command = [str(peers_python(self.cache)), "-m", f"{_PEERS}.raw_onnx", str(texts), str(seconds)]
        environment = {**os.environ, "BENCH_BUNDLE": str(folder), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def _log(self, name: str) -> Path:
        return self.cache.resolve() / "logs" / f"{name}-{self.precision}.log"


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
