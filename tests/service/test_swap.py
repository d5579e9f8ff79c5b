"""The live version follows the registry: no request notices, and no bad version ever answers."""

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import bentoml
import httpx
import psutil
import pytest
from prometheus_client import REGISTRY

from core.registry import ObjectStore, Registry
from core.status import read_status
from service.program import Program
from tests.service.bad_versions import loop_of, with_nan
from tests.service.serving import (
    LABELS,
    Served,
    champion,
    promote,
    publish,
    registry_of,
    serving,
    settings_for,
)
from tests.support import wait_until
from tests.support_bundles import favouring


class Load:
    """Clients that ask without a pause and remember who said what."""

    def __init__(self, served: Served, clients: int) -> None:
        self._port = served.port
        self._stop = threading.Event()
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=30, verify=False) as client:
            while not self._stop.is_set():
                many = number % 2
                body = {"inputs": [{"text": "where is my parcel"}] * 3} if many else {"text": "hello"}
                response = client.post("/v1/predict", json=body)
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                for answer in response.json()["predictions"] if many else [response.json()]:
                    self.answers[answer["model_version"], answer["label"]] += 1


def test_every_answer_names_the_version_that_made_it_while_versions_change(home: Path) -> None:
    favours = {f"v-000{n}": LABELS[n % 3] for n in range(1, 7)}
    champion(home, "v-0001", favour=favours["v-0001"])
    with serving(settings_for(home, queue_limit=10_000)) as served, Load(served, 6) as load:
        for version, favoured in favours.items():
            if version != "v-0001":
                champion(home, version, favour=favoured)
            wait_until(lambda pair=(version, favoured): load.answers[pair] > 20)  # type: ignore[misc]
        before = load.answers["v-0005", favours["v-0005"]]
        registry_of(home).promotions.rollback(reason="a test", actor="test", hold_until=None)
        wait_until(lambda: load.answers["v-0005", favours["v-0005"]] > before + 20)
    assert load.failures == []
    assert set(load.answers) == set(favours.items())


@pytest.mark.alone
def test_a_rollback_is_visible_at_once_because_the_version_before_is_resident(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    champion(home, "v-0002", favour="beta")
    with serving(settings_for(home, registry_poll_s=0.5)) as served:
        before = served.program.swapper.servable
        champion(home, "v-0003", favour="gamma")
        wait_until(lambda: served.live() == "v-0003")
        started = time.monotonic()
        served.client.post("/v1/rollback", json={"reason": "worse"})
        wait_until(lambda: served.predict()["label"] == "beta")
        assert time.monotonic() - started < 2
        assert served.program.swapper.servable is before


def test_a_rollback_right_after_a_swap_finds_the_version_before_in_memory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, favour in (("v-0001", "alpha"), ("v-0002", "beta")):
        champion(home, version, favour=favour)
    with serving(settings_for(home)) as served:
        program = served.program
        wait_until((home / "cache" / "service" / "v-0001").is_dir)
        before = program.swapper.servable
        replace = program.swapper._replace

        def replace_and_go_back(*arguments: Any, **options: Any) -> None:
            replace(*arguments, **options)
            if served.live() == "v-0003":  # the watch is still in the middle of its look
                program.registry.promotions.rollback(reason="a test", actor="test", hold_until=None)

        monkeypatch.setattr(program.swapper, "_replace", replace_and_go_back)
        champion(home, "v-0003", favour="gamma")
        wait_until(lambda: program.registry.promotions.entries()[-1].number == 4)
        wait_until(lambda: served.predict()["label"] == "beta")
        assert program.swapper.servable is before


@pytest.mark.alone
def test_neither_a_rollback_nor_a_pause_waits_for_a_version_that_is_tried(home: Path) -> None:
    for version, favour in (("v-0001", "alpha"), ("v-0002", "beta"), ("v-0003", "gamma")):
        champion(home, version, favour=favour)
    publish(home, "v-0004", edit=loop_of(2**62))
    with serving(settings_for(home, trial_timeout_s=300)) as served:
        wait_until((home / "cache" / "service" / "v-0002").is_dir)
        answered: list[int] = []
        promote = threading.Thread(target=lambda: answered.append(order(served, "versions/v-0004/promote")))
        promote.start()
        wait_until((home / "cache" / "service" / "v-0004" / "manifest.json").is_file)
        started = time.monotonic()
        assert order(served, "rollback") == 200
        wait_until(lambda: served.predict()["label"] == "beta")
        assert order(served, "pause") == 200
        # What follows from it does not hold the watch up either.
        wait_until(lambda: served.program.swapper.newest.number == 5)  # type: ignore[union-attr]
        assert time.monotonic() - started < 2
        assert answered == [], "the trial goes on"
        assert (home / "cache" / "service" / "v-0004").is_dir(), "and has its files"
        end_trial_process(served)
        promote.join()
        assert answered == [503]
        wait_until(lambda: not (home / "cache" / "service" / "v-0004").exists())
        wait_until((home / "cache" / "service" / "v-0001").is_dir, what="the next rollback's version")


def end_trial_process(served: Served) -> None:
    assert served.program.trial is not None
    psutil.Process(served.program.trial.process_id).kill()


def order(served: Served, path: str) -> int:
    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30, verify=False) as client:
        return client.post(f"/v1/{path}", json={"reason": "a test"}).status_code


def test_a_version_that_is_rolled_back_while_it_is_loaded_never_answers(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    champion(home, "v-0002", favour="beta")
    with serving(settings_for(home, swap_latency_ratio=1_000_000)) as served, Load(served, 2) as load:
        publish(home, "v-0003", favour="gamma", edit=loop_of(100_000))  # its trial takes a while
        promote(home, "v-0003")
        wait_until((home / "cache" / "service" / "v-0003" / "manifest.json").is_file)
        registry_of(home).promotions.rollback(reason="a test", actor="test", hold_until=None)
        wait_until(lambda: served.program.swapper.newest.number == 4)  # type: ignore[union-attr]
        before = load.answers["v-0002", "beta"]
        wait_until(lambda: load.answers["v-0002", "beta"] > before + 20)
        assert registry_of(home).summary("v-0003").refusals == [], "it was loaded"
    assert set(load.answers) == {("v-0002", "beta")}
    assert load.failures == []


def test_a_promotion_does_not_bring_back_what_was_rolled_back_while_it_was_tried(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    publish(home, "v-0002", edit=loop_of(100_000))
    with serving(settings_for(home, swap_latency_ratio=1_000_000)) as served:
        answered: list[int] = []
        trying = threading.Thread(target=lambda: answered.append(order(served, "versions/v-0002/promote")))
        trying.start()
        wait_until((home / "cache" / "service" / "v-0002" / "manifest.json").is_file)
        promote(home, "v-0002")
        registry_of(home).promotions.rollback(reason="a test", actor="test", hold_until=None)
        trying.join()
        assert answered == [409]
        assert served.live() == "v-0001"


def test_workers_do_not_delete_what_another_is_about_to_load(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    champion(home, "v-0001")
    programs = []
    for number in (1, 2):
        monkeypatch.setattr(bentoml.server_context, "worker_index", number)  # as BentoML does in a worker
        programs.append(Program(settings_for(home, workers=2)))
    one, two = programs
    try:
        publish(home, "v-0002")
        being_tried = two.registry.fetch("v-0002", two.loader.cache)
        one.swapper.step()
        champion(home, "v-0003")
        one.swapper.step()
        assert one.swapper.live is not None
        assert one.swapper.live.version == "v-0003"
        assert being_tried.path("model.onnx").is_file()
    finally:
        for program in programs:
            program.stop()


def test_a_look_at_which_nothing_is_new_asks_the_store_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    champion(home, "v-0001")
    champion(home, "v-0002")
    program = Program(settings_for(home))
    try:
        program.swapper.step()
        program.swapper.step()
        asked: list[str] = []
        get = ObjectStore.get
        monkeypatch.setattr(
            ObjectStore, "get", lambda self, path, **how: (asked.append(path), get(self, path, **how))[1]
        )
        program.swapper.step()
        assert asked == ["default/promotions/00000003.json"]
    finally:
        program.stop()


def test_a_trial_that_cannot_be_held_is_said_and_tried_again_ever_more_rarely(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failed() -> float:
        return REGISTRY.get_sample_value("ratchet_trials_unavailable_total") or 0.0

    champion(home, "v-0001", favour="alpha")
    with serving(settings_for(home)) as served:
        before = failed()
        end_trial_process(served)
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", str(home / "nothing"))
            champion(home, "v-0002", favour="beta")
            wait_until(lambda: failed() > before)
            time.sleep(1.5)  # 30 looks
            assert 2 <= failed() - before <= 8
            assert served.predict()["label"] == "alpha"
            status = wait_until(lambda: (now := read_status(home, "service")) and now.state == "degraded" and now)
            assert "cannot be started" in status.detail
            assert served.program.swapper.reachable
            # Something new is looked at without delay.
            registry_of(home).promotions.rollback(reason="a test", actor="test", hold_until=None)
            wait_until(lambda: served.program.swapper.untried == "")
        promote(home, "v-0002")
        wait_until(lambda: served.live() == "v-0002")
    assert capfd.readouterr().err.count("no version can be tried now") <= 1


def test_a_version_that_changes_only_its_head_goes_live_on_the_very_same_session(home: Path) -> None:
    champion(home, "v-0001", head=favouring(LABELS, "alpha"))
    with serving(settings_for(home)) as served, Load(served, 4) as load:
        before = served.program.swapper.servable
        assert before is not None
        more = [*LABELS, "delta"]
        champion(home, "v-0002", labels=more, graph_labels=len(LABELS), head=favouring(more, "delta"))
        wait_until(lambda: load.answers["v-0002", "delta"] > 20)
        after = served.program.swapper.servable
        assert after is not None
        assert after.shares_session_with(before)
        fetched = {path.name for path in (home / "cache" / "service" / "v-0002").iterdir()}
        assert fetched == {"manifest.json", "head.safetensors"}
        champion(home, "v-0003", seed=5, head=favouring(LABELS, "beta"))
        wait_until(lambda: load.answers["v-0003", "beta"] > 20)
        assert not served.program.swapper.servable.shares_session_with(before)  # type: ignore[union-attr]
    assert load.failures == []


def test_a_head_only_version_starts_by_itself_where_no_session_is_there_to_share(home: Path) -> None:
    champion(home, "v-0001", head=favouring(LABELS, "alpha"))
    champion(home, "v-0002", head=favouring(LABELS, "beta"))
    with serving(settings_for(home)) as served:
        assert served.predict()["label"] == "beta"
        shown = served.client.get("/v1/model").json()
        assert (shown["precision"], shown["artefact"]) == ("fp32", None), "a version from before it was measured"


def test_only_the_live_version_and_the_one_before_are_kept(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home)) as served:
        for version in ("v-0002", "v-0003"):
            champion(home, version)
            wait_until(lambda version=version: served.live() == version)  # type: ignore[misc]
        cache = home / "cache" / "service"
        wait_until(lambda: {path.name for path in cache.iterdir()} == {"v-0002", "v-0003"})


def test_a_start_on_a_spoilt_champion_serves_the_newest_good_version(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    champion(home, "v-0002", favour="beta")
    champion(home, "v-0003", favour="gamma", edit=with_nan)
    with serving(settings_for(home)) as served:
        assert served.predict()["label"] == "beta"
        assert "v-0003" in served.client.get("/v1/model").json()["degraded"]
        registry_of(home).promotions.rollback(reason="a test", actor="test", hold_until=None)
        wait_until(lambda: served.client.get("/v1/model").json()["degraded"] is None)
        assert served.live() == "v-0002"


def test_a_version_that_does_not_exist_changes_nothing(home: Path) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home)) as served:
        assert served.client.post("/v1/versions/v-0009/promote", json={"reason": "x"}).status_code == 404
        promote(home, "v-0009")
        wait_until(lambda: served.client.get("/v1/model").json()["degraded"])
        assert served.live() == "v-0001"
        assert registry_of(home).versions() == ["v-0001"]


def test_a_registry_out_of_reach_changes_nothing_and_is_followed_again(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    with serving(settings_for(home)) as served:
        (home / "registry").rename(home / "away")
        (home / "registry").write_text("")  # a file where the folder was
        wait_until(lambda: not served.program.swapper.reachable)
        assert served.predict()["label"] == "alpha"
        assert served.client.get("/v1/model").status_code == 200
        unavailable = served.client.get("/v1/versions")
        assert (unavailable.status_code, unavailable.json()["error"]["code"]) == (503, "registry_unavailable")
        (home / "registry").unlink()
        (home / "away").rename(home / "registry")
        champion(home, "v-0002", favour="beta")
        wait_until(lambda: served.live() == "v-0002")
        wait_until(lambda: served.program.swapper.reachable)


def test_the_watch_outlives_what_nobody_foresaw(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    champion(home, "v-0001")
    with serving(settings_for(home)) as served:
        with monkeypatch.context() as broken:
            broken.setattr(Registry, "fetch", lambda *_: 1 / 0)
            champion(home, "v-0002")
            wait_until(lambda: "ratchet_internal_errors_total 0.0" not in served.client.get("/metrics").text)
        wait_until(lambda: served.live() == "v-0002")
        assert served.client.get("/livez").status_code == 200
