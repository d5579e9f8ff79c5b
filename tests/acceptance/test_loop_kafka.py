"""The whole loop on a real Kafka broker. It measures no time, so it may run beside other tests."""

import subprocess
from pathlib import Path

import pytest

from core.events import new_id
from tests.acceptance.support import PICKUP, RunningRatchet, write_seed
from tests.support import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]


def test_the_same_loop_runs_on_kafka(tmp_path: Path, kafka: str) -> None:
    seed = write_seed(tmp_path / "seed.jsonl", labels=4, each=25)
    model = f"t{new_id().replace('-', '')[-20:]}"  # a model of its own: others' events on the broker are not ours
    settings = {"RATCHET_MODEL": model}
    running = RunningRatchet(tmp_path / "home", arguments=["--seed", str(seed), "--kafka", kafka], settings=settings)
    try:
        running.ready()
        for text in PICKUP:
            running.correct(text, "store_pickup")
        wait_until(lambda: "store_pickup" in running.live()["labels"], timeout_s=300, every_s=0.5, what="it is learned")
        # the ids differ with the model's name, so that some of these may be held out
        assert [running.predict(text)["label"] for text in PICKUP].count("store_pickup") >= len(PICKUP) // 2
        assert running.run("status", "--json", "--home", str(running.home)).returncode == 0
    except (AssertionError, subprocess.TimeoutExpired):
        for log in (running.home / "logs").glob("*.log"):
            print(log.name, log.read_text(encoding="utf-8")[-3000:])
        raise
    finally:
        running.close()
