"""The live version follows the registry: no request notices, and no bad version ever answers."""

import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from core.registry import Registry
from tests.service.bad_versions import with_nan
from tests.service.serving import (
    LABELS,
    Served,
    champion,
    promote,
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
