"""What operators see and order."""

from datetime import timedelta
from pathlib import Path

import pytest

from core.events import Command, now
from core.registry import RunState, TrainingRun, Verdict
from tests.service.serving import (
    Served,
    champion,
    interactions,
    promote,
    publish,
    registry_of,
    serving,
    settings_for,
)
from tests.support import wait_until

WHY = {"reason": "because"}


def judge(home: Path, version: str, *, passed: bool) -> None:
    registry_of(home).record_verdict(
        Verdict(
            version=version,
            passed=passed,
            champion=None,
            judged_against=0,
            reasons=["holdout 90 %"],
            low_power=True,
            evaluation={"holdout": {"accuracy": 0.9, "per_label": {"alpha": {}}}, "parity": 0.0},
        )
    )


def test_the_live_model_is_shown_with_its_evaluation(home: Path) -> None:
    publish(home, "v-0001")
    judge(home, "v-0001", passed=True)
    promote(home, "v-0001")
    with serving(settings_for(home)) as served:
        shown = served.client.get("/v1/model").json()
    assert shown["version"] == "v-0001"
    assert shown["labels"] == ["alpha", "beta", "gamma"]
    assert shown["promotion"] == 1
    assert shown["evaluation"]["holdout"]["accuracy"] == 0.9
    assert shown["verdict"]["reasons"] == ["holdout 90 %"]
    assert shown["hold"] == {"paused": False, "until": None, "reason": None}
    assert shown["degraded"] is None


def test_versions_promotions_and_runs_are_listed(home: Path) -> None:
    champion(home, "v-0001")
    publish(home, "v-0002")
    judge(home, "v-0002", passed=False)
    run = TrainingRun(
        run_id="r1", lane="head", trigger="count", parent="v-0001", seed=0, state=RunState.REJECTED, through_seq=1
    )
    registry_of(home).record_run(run)
    with serving(settings_for(home)) as served:
        listed = served.client.get("/v1/versions").json()
        assert [version["version"] for version in listed["versions"]] == ["v-0002", "v-0001"]
        assert listed["versions"][0]["verdict"]["passed"] is False
        assert listed["versions"][0]["evaluation"] == {"holdout": {"accuracy": 0.9}, "parity": 0.0}
        assert listed["live"] == "v-0001"
        assert [entry["number"] for entry in listed["promotions"]] == [1]
        assert [run["run_id"] for run in listed["runs"]] == ["r1"]
        assert len(served.client.get("/v1/versions?limit=1").json()["versions"]) == 1
        one = served.client.get("/v1/versions/v-0002").json()
        assert one["manifest"]["files"]
        assert one["verdict"]["evaluation"]["holdout"]["per_label"] == {"alpha": {}}


@pytest.mark.alone
def test_promote_rollback_pause_and_resume(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    publish(home, "v-0002", favour="beta")
    with serving(settings_for(home)) as served:
        moved = served.client.post("/v1/versions/v-0002/promote", json=WHY)
        assert moved.status_code == 200, moved.text
        assert moved.json()["promotion"]["actor"] == "local"
        wait_until(lambda: served.predict()["label"] == "beta", timeout_s=2)
        assert served.client.post("/v1/versions/v-0002/promote", json=WHY).status_code == 409

        assert served.client.post("/v1/rollback", json=WHY).json()["promotion"]["bad"] == ["v-0002"]
        wait_until(lambda: served.predict()["label"] == "alpha", timeout_s=2)
        assert served.client.get("/v1/model").json()["hold"]["paused"]
        assert served.client.get("/v1/versions").json()["bad_versions"] == ["v-0002"]
        nowhere = served.client.post("/v1/rollback", json=WHY)
        assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "unknown_version")

        served.client.post("/v1/resume", json=WHY)
        wait_until(lambda: not served.client.get("/v1/model").json()["hold"]["paused"])
        held = served.client.post("/v1/pause", json={**WHY, "until_s": 60}).json()["promotion"]
        assert held["hold"]
        assert held["hold_until"] > now().isoformat()


def test_a_rollback_holds_as_long_as_it_is_set_to(home: Path) -> None:
    champion(home, "v-0001")
    champion(home, "v-0002")
    with serving(settings_for(home, rollback_hold_s=60)) as served:
        served.client.post("/v1/rollback", json=WHY)
        newest = registry_of(home).promotions.refresh()
        assert newest is not None
        assert newest.hold_until is not None
        assert now() < newest.hold_until < now() + timedelta(seconds=61)


@pytest.mark.parametrize("path", ["/v1/rollback", "/v1/pause", "/v1/resume"])
def test_where_nothing_was_ever_promoted_there_is_nothing_to_move(home: Path, path: str) -> None:
    with serving(settings_for(home), ready=False) as served:
        response = served.client.post(path, json=WHY)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": 3}, {"reason": "x" * 1_001}, {"reason": "x", "until": 3}]
)
def test_an_order_needs_a_reason(served: Served, body: dict[str, object]) -> None:
    for path in ("/v1/rollback", "/v1/pause", "/v1/resume", "/v1/versions/v-0001/promote"):
        assert served.client.post(path, json=body).status_code == 422


@pytest.mark.parametrize("until", [0, -1, "60", True, 1e400, 1e12, []])
def test_a_pause_lasts_a_number_of_seconds(served: Served, until: object) -> None:
    content = f'{{"reason": "x", "until_s": {str(until).lower() if until != 1e400 else "1e400"}}}'
    if isinstance(until, str):
        content = f'{{"reason": "x", "until_s": "{until}"}}'
    response = served.client.post("/v1/pause", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422, response.text


def test_a_command_to_train_goes_through_the_log(home: Path) -> None:
    settings = settings_for(home)
    with serving(settings, ready=False) as served:
        first = served.client.post("/v1/train", json={"reason": "new labels"})
        assert first.status_code == 202
        again = [served.client.post("/v1/train", headers={"Idempotency-Key": "k"}).json() for _ in range(2)]
        assert again[0] == again[1]
    found = {event.command_id: event for event in interactions(settings) if isinstance(event, Command)}
    assert set(found) == {first.json()["command_id"], again[0]["command_id"]}
    command = found[first.json()["command_id"]]
    assert (command.reason, command.actor) == ("new labels", "local")
