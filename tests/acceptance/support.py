"""A running Ratchet as a user has it: started by its own command, spoken to over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support import free_port, wait_until

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "cli" / "demo" / "intents" / "train.jsonl"

PICKUP = [
    "Can I collect my order from your shop?",
    "Is it possible to pick the parcel up in store?",
    "I'd rather fetch it at the branch in town myself.",
    "Do you have a counter where I can collect things?",
    "Could I pick up my lamp at your store on Friday?",
    "Let me collect it in person, please.",
]

QUICK = {
    # a loop that turns within seconds: small, frequent runs
    "RATCHET_TRIGGER_AGE_S": "1",
    "RATCHET_EPOCHS": "1",
    "RATCHET_REPLAY_MINIMUM": "64",
    "RATCHET_LEASE_TTL_S": "4",
    "RATCHET_JOIN_TIMEOUT_S": "30",
    "RATCHET_FEEDBACK_PORT": "0",
    "RATCHET_TRAINER_PORT": "0",
}


def write_seed(path: Path, *, labels: int, each: int) -> Path:
    """The first ``each`` demo texts of the first ``labels`` labels."""
    by_label: dict[str, list[str]] = {}
    for line in DEMO.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by_label.setdefault(row["label"], []).append(row["text"])
    rows = [{"text": text, "label": label} for label in sorted(by_label)[:labels] for text in by_label[label][:each]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class RunningRatchet:
    """``ratchet up`` in a process of its own."""

    def __init__(self, home: Path, *, arguments: list[str], settings: dict[str, str]) -> None:
        self.home = home
        self.port = free_port()
        self._arguments = arguments
        self._environment = {**os.environ, **QUICK, **settings}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=15.0)
        self.start()

    def start(self) -> None:
        """Start it, or start it again on the same folder and port."""
        command = [sys.executable, "-m", "cli", "up", "--home", str(self.home), "--port", str(self.port)]
        self.output = self.home.parent / f"up-{time.monotonic_ns()}.log"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *self._arguments], cwd=ROOT, env=self._environment, stdout=output, stderr=output
            )

    def ready(self, timeout_s: float = 180.0) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.output.read_text(encoding="utf-8")
            try:
                return self.http.get("/readyz").is_success
            except httpx.HTTPError:
                return False

        wait_until(answers, timeout_s=timeout_s, every_s=0.2, what="the service is ready")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another ``ratchet`` command against it."""
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """``ratchet status --json``."""
        found: dict[str, Any] = json.loads(self.run("status", "--json", "--home", str(self.home)).stdout)
        return found

    def predict(self, text: str) -> dict[str, Any]:
        """Ask for a prediction."""
        response = self.http.post("/v1/predict", json={"text": text})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def correct(self, text: str, label: str) -> str:
        """Predict, correct, and return the feedback's id."""
        prediction_id = self.predict(text)["prediction_id"]
        response = self.http.post("/v1/feedback", json={"prediction_id": prediction_id, "label": label})
        assert response.status_code == 202, response.text
        return str(response.json()["feedback_id"])

    def outcome(self, feedback_id: str) -> dict[str, Any]:
        """What became of a feedback; ``{}`` while it is not known."""
        response = self.http.get(f"/v1/feedback/{feedback_id}")
        return response.json() if response.is_success else {}

    def live(self) -> dict[str, Any]:
        """The live model."""
        found: dict[str, Any] = self.http.get("/v1/model").json()
        return found

    def pid_of(self, program: str) -> int:
        """The process that wrote the program's status."""
        return int(json.loads((self.home / "status" / f"{program}.json").read_text(encoding="utf-8"))["pid"])

    def state_of(self, program: str) -> str:
        """What the program says it is doing."""
        return str(json.loads((self.home / "status" / f"{program}.json").read_text(encoding="utf-8"))["state"])

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.http.close()
