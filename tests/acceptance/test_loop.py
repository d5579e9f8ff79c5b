"""The whole loop as a user runs it: real processes, real HTTP, a real encoder, and SIGKILL at bad moments."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from core.events import OutcomeStatus, new_id
from core.examples import ExampleStore
from core.registry import Registry
from tests.acceptance.support import PICKUP, RunningRatchet, write_seed
from tests.support import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.alone, pytest.mark.timeout(900)]
#: by ids under this key none of the texts of PICKUP is held out, so all are learned
KEY = {"RATCHET_ID_KEY": "acceptance-2"}


@pytest.fixture(scope="module")
def ratchet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRatchet]:
    folder = tmp_path_factory.mktemp("loop")
    seed = write_seed(folder / "seed.jsonl", labels=6, each=25)
    running = RunningRatchet(folder / "home", arguments=["--seed", str(seed)], settings=KEY)
    yield running
    running.close()


def settle(running: RunningRatchet) -> None:
    """Wait until the trainer has nothing to do and the service serves what it promoted last."""
    registry = Registry((running.home / "registry").as_uri(), "default")

    def is_settled() -> bool:
        newest = registry.promotions.refresh()
        return (
            running.state_of("trainer") == "idle" and newest is not None and running.live()["version"] == newest.version
        )

    wait_until(is_settled, timeout_s=240, every_s=0.3, what="the trainer is idle")


def test_a_correction_with_a_new_label_is_learned_and_goes_live(ratchet: RunningRatchet) -> None:
    ratchet.ready()
    first = ratchet.live()
    assert "store_pickup" not in first["labels"]
    feedback = [ratchet.correct(text, "store_pickup") for text in PICKUP]
    for feedback_id in feedback:
        outcome = wait_until(partial(settled, ratchet, feedback_id), timeout_s=30, what="an outcome")
        assert outcome["status"] == "accepted"
    wait_until(
        lambda: "store_pickup" in ratchet.live()["labels"], timeout_s=300, every_s=0.5, what="the new label is live"
    )
    live = ratchet.live()
    assert live["parent"] is not None
    assert live["evaluation"]["holdout"]["count"] > 0
    answers = [ratchet.predict(text) for text in PICKUP]
    assert [answer["label"] for answer in answers].count("store_pickup") >= len(PICKUP) - 1
    assert {answer["model_version"] for answer in answers} == {live["version"]}


def settled(running: RunningRatchet, feedback_id: str) -> dict[str, Any]:
    """The outcome once there is one, else an empty dict."""
    outcome = running.outcome(feedback_id)
    return outcome if outcome.get("status") not in (None, "pending") else {}


class Pusher(threading.Thread):
    """A user who keeps correcting, by prediction and by text in turn; keeps the ids of what was acknowledged."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ended = threading.Event()
        self.acknowledged: list[str] = []
        self.refused = 0

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=5.0) as http:
            number = 0
            while not self._ended.is_set():
                number += 1
                try:
                    self._correct(http, f"Message {number} about parcel {new_id()[-6:]}: where is it?", number % 2 == 0)
                except (httpx.HTTPError, AssertionError):
                    self.refused += 1
                time.sleep(0.05)

    def _correct(self, http: httpx.Client, text: str, by_prediction: bool) -> None:
        body = {"label": "track_order", "text": text}
        if by_prediction:
            answer = http.post("/v1/predict", json={"text": text})
            assert answer.status_code == 200
            body = {"label": "track_order", "prediction_id": answer.json()["prediction_id"]}
        response = http.post("/v1/feedback", json=body, headers={"Idempotency-Key": new_id()})
        assert response.status_code == 202
        self.acknowledged.append(response.json()["feedback_id"])

    def end(self) -> None:
        self._ended.set()
        self.join(timeout=20)


def has_grown(found: list[str], size: int) -> bool:
    """True once a list has more than ``size`` items."""
    return len(found) > size


def kill_and_wait(running: RunningRatchet, program: str) -> None:
    """SIGKILL to a program, then wait until another process has taken its place."""
    name = program.removesuffix("'s supervisor")
    before = running.pid_of(name)
    process = psutil.Process(before)
    (process.parent() if name != program else process).kill()
    wait_until(lambda: running.pid_of(name) != before, timeout_s=90, every_s=0.1, what=f"{program} is back")


def test_no_acknowledged_correction_is_lost_or_doubled_when_programs_are_killed(ratchet: RunningRatchet) -> None:
    settle(ratchet)
    pusher = Pusher(f"http://127.0.0.1:{ratchet.port}")
    pusher.start()
    wait_until(lambda: len(pusher.acknowledged) > 20, timeout_s=30, what="feedback flows")
    for program in ("feedback", "service", "service's supervisor", "feedback"):
        kill_and_wait(ratchet, program)
        count = len(pusher.acknowledged)
        wait_until(partial(has_grown, pusher.acknowledged, count + 10), timeout_s=90, what="feedback flows again")
    wait_until(lambda: ratchet.state_of("trainer") == "training", timeout_s=60, what="a run is going on")
    kill_and_wait(ratchet, "trainer")
    pusher.end()
    assert len(set(pusher.acknowledged)) == len(pusher.acknowledged)
    for feedback_id in pusher.acknowledged:
        wait_until(partial(settled, ratchet, feedback_id), timeout_s=90, what=f"an outcome of {feedback_id}")
    store = ExampleStore(f"sqlite:///{ratchet.home / 'examples.db'}", "default")
    outcomes = {outcome.feedback_id: outcome.status for outcome in store.outcomes()}
    told = [outcomes[feedback_id] for feedback_id in pusher.acknowledged]
    # A prediction's record may die with the service, and then a correction that only names it stays unmatched.
    assert set(told) <= {OutcomeStatus.ACCEPTED, OutcomeStatus.UNMATCHED}
    assert told.count(OutcomeStatus.UNMATCHED) <= 10
    acknowledged = set(pusher.acknowledged)
    sources = [source for example in store.examples() for source in example.sources if source in acknowledged]
    assert len(sources) == len(set(sources)) == told.count(OutcomeStatus.ACCEPTED)
    store.close()
    wait_until(lambda: ratchet.state_of("trainer") != "training", timeout_s=240, every_s=0.3, what="the run has ended")
    runs = Registry((ratchet.home / "registry").as_uri(), "default").runs(newest=50)
    assert any("trainer died" in reason for run in runs for reason in run.reasons)


def test_rollback_is_one_command_takes_two_seconds_and_stays(ratchet: RunningRatchet) -> None:
    settle(ratchet)
    live = ratchet.live()["version"]
    result = ratchet.run("rollback", "--url", f"http://127.0.0.1:{ratchet.port}", "--reason", "a test")
    started = time.monotonic()
    assert result.returncode == 0, result.stderr
    wait_until(lambda: ratchet.live()["version"] != live, timeout_s=2.0, what="the version before is live")
    assert time.monotonic() - started < 2.0
    back = ratchet.live()["version"]
    assert ratchet.predict(PICKUP[0])["model_version"] == back
    again = ratchet.http.post(f"/v1/versions/{live}/promote", json={"reason": "a test"})
    assert again.status_code == 200, again.text
    wait_until(lambda: ratchet.live()["version"] == live, what="the operator's choice is live")
    started = time.monotonic()  # and one request, from the order to its effect
    assert ratchet.http.post("/v1/rollback", json={"reason": "a test"}).status_code == 200
    wait_until(lambda: ratchet.predict(PICKUP[0])["model_version"] == back, timeout_s=2.0, what="the answers change")
    assert time.monotonic() - started < 2.0
    for number in range(3):
        ratchet.correct(f"Collect number {number} at the shop, please", "store_pickup")
    time.sleep(5.0)  # longer than the trigger's age: a run would have started
    assert ratchet.live()["version"] == back
    assert ratchet.live()["hold"]["paused"]
    assert ratchet.run("resume", "--url", f"http://127.0.0.1:{ratchet.port}").returncode == 0
    wait_until(lambda: ratchet.live()["version"] != back, timeout_s=240, every_s=0.5, what="learning goes on")


def is_at_work(process: psutil.Process) -> bool:
    """True unless it has ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_ctrl_c_ends_everything_and_a_new_start_goes_on_where_it_was(ratchet: RunningRatchet) -> None:
    settle(ratchet)
    live = ratchet.live()["version"]
    children = psutil.Process(ratchet.process.pid).children(recursive=True)
    assert len(children) >= 3
    assert ratchet.interrupt() == 0
    assert not any(is_at_work(child) for child in children)
    ratchet.start()
    ratchet.ready(timeout_s=60)
    assert ratchet.live()["version"] == live
    children = psutil.Process(ratchet.process.pid).children(recursive=True)
    ratchet.process.kill()  # and not even SIGKILL to the parent leaves programs behind, or the folder locked
    ratchet.process.wait()
    ratchet.start()  # at once: it waits for what is ending still
    # The old service must not answer for the new one below. Who has no parent to ask for it stays listed as a zombie.
    wait_until(lambda: not any(is_at_work(child) for child in children), timeout_s=30, what="the old programs are gone")
    ratchet.ready(timeout_s=60)
    assert ratchet.live()["version"] == live


def test_replay_and_evaluate_play_a_stream_and_report(ratchet: RunningRatchet, tmp_path: Path) -> None:
    stream = write_seed(tmp_path / "stream.jsonl", labels=6, each=30)
    url = f"http://127.0.0.1:{ratchet.port}"
    played = ratchet.run("replay", str(stream), "--url", url, "--limit", "60", "--json", str(tmp_path / "r.json"))
    assert played.returncode == 0, played.stderr
    assert '"failed": 0' in (tmp_path / "r.json").read_text(encoding="utf-8")
    scored = ratchet.run("evaluate", str(stream), "--url", url, "--json", str(tmp_path / "e.json"))
    assert scored.returncode == 0, scored.stderr
    assert '"accuracy"' in (tmp_path / "e.json").read_text(encoding="utf-8")
