"""A version is tried while it waits for its verdict, and only then: what comes of it is seen when it is promoted."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

import service.loading
import service.swap
from service.memory import needed_bytes
from service.program import Program
from service.scout import Scout
from tests.service.bad_versions import loop_of, with_nan
from tests.service.serving import Served, champion, promote, publish, registry_of, serving, settings_for
from tests.support import wait_until

pytestmark = pytest.mark.alone  # an early trial takes only what is left of the processors


@contextmanager
def scouted(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A service on one version, that looks for new ones all the time."""
    champion(home, "v-0001", favour="alpha")
    make = Program.__init__

    def init(self: Program, *arguments: object, **options: object) -> None:
        make(self, *arguments, **options)  # type: ignore[arg-type]
        self.scout = Scout(self.registry, self.swapper.expect, every_s=0.05)

    monkeypatch.setattr(Program, "__init__", init)
    with serving(settings_for(home)) as served:
        yield served


def done(phase: str) -> float:
    return REGISTRY.get_sample_value("ratchet_swap_seconds_count", {"phase": phase}) or 0.0


def is_ready(served: Served, version: str) -> bool:
    return version in [servable.version for servable in served.program.swapper.loaded()]


def test_a_promotion_does_not_wait_for_what_was_done_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scouted(home, monkeypatch) as served:
        before = done("trial"), done("load")
        publish(home, "v-0002", favour="beta")
        wait_until(lambda: is_ready(served, "v-0002"))
        assert served.live() == "v-0001"
        promote(home, "v-0002")
        wait_until(lambda: served.predict()["label"] == "beta")
        assert (done("trial"), done("load")) == (before[0] + 1, before[1] + 1)
        promote(home, "v-0001")  # what answered before is still at hand
        wait_until(lambda: served.predict()["label"] == "alpha")
        assert done("load") == before[1] + 1


def test_a_version_that_is_ready_is_refused_where_it_is_slower_than_the_live_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scouted(home, monkeypatch) as served:
        publish(home, "v-0002", edit=loop_of(15_000))  # fast enough for a service with nothing live
        wait_until(lambda: is_ready(served, "v-0002"))
        promote(home, "v-0002")
        wait_until(lambda: registry_of(home).summary("v-0002").refusals != [])
        (refusal,) = registry_of(home).summary("v-0002").refusals
        assert "the live version takes" in refusal["reason"]
        assert served.live() == "v-0001"


def test_a_version_is_not_kept_ready_for_ever(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.swap, "_EXPECTED_S", 0.5)
    with scouted(home, monkeypatch) as served:
        publish(home, "v-0002", favour="beta")
        wait_until(lambda: is_ready(served, "v-0002"))
        wait_until(lambda: not is_ready(served, "v-0002"))
        promote(home, "v-0002")
        wait_until(lambda: served.live() == "v-0002")


def test_a_version_is_not_made_ready_where_memory_is_short(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scouted(home, monkeypatch) as served:
        needed = needed_bytes(publish(home, "v-0002", favour="beta").manifest)
        monkeypatch.setattr(service.loading, "available_bytes", lambda: 2 * needed)
        publish(home, "v-0003", favour="gamma")
        before = done("trial")
        wait_until(lambda: done("trial") > before)
        time.sleep(0.3)
        assert not is_ready(served, "v-0003")
        promote(home, "v-0003")
        wait_until(lambda: served.live() == "v-0003")


def test_a_version_that_fails_early_is_refused_only_when_it_is_promoted(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    with serving(settings_for(home)) as served:
        program = served.program
        scout = Scout(program.registry, program.swapper.expect)
        scout.step()
        publish(home, "v-0002", edit=with_nan)
        scout.step()
        assert program.loader.expected == "v-0002"
        assert registry_of(home).summary("v-0002").refusals == []
        promote(home, "v-0002")
        wait_until(lambda: registry_of(home).summary("v-0002").refusals != [])
        (refusal,) = registry_of(home).summary("v-0002").refusals
        assert "not finite" in refusal["reason"]
        assert served.predict()["model_version"] == "v-0001"


def test_an_early_trial_that_hangs_does_not_keep_a_promotion_waiting(home: Path) -> None:
    champion(home, "v-0001", favour="alpha")
    with serving(settings_for(home, trial_timeout_s=300)) as served:
        program = served.program
        scout = Scout(program.registry, program.swapper.expect)
        scout.step()
        publish(home, "v-0002", edit=loop_of(2**62))
        looking = threading.Thread(target=scout.step)
        looking.start()
        wait_until((home / "cache" / "service" / "v-0002" / "manifest.json").is_file)
        time.sleep(0.2)  # the trial has begun
        champion(home, "v-0003", favour="beta")
        wait_until(lambda: served.live() == "v-0003", timeout_s=20)
        looking.join(10)
        assert not looking.is_alive(), "it was told that there was no trial"


def test_a_swap_to_another_version_leaves_the_files_of_the_one_that_is_expected(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scouted(home, monkeypatch) as served:
        publish(home, "v-0002", favour="beta")
        wait_until(lambda: served.program.loader.expected == "v-0002")
        publish(home, "v-0003", favour="gamma")
        wait_until(lambda: served.program.loader.expected == "v-0003")
        wait_until((home / "cache" / "service" / "v-0003" / "manifest.json").is_file)
        promote(home, "v-0002")
        wait_until(lambda: served.live() == "v-0002")
        promote(home, "v-0001")
        wait_until(lambda: served.live() == "v-0001")
        assert (home / "cache" / "service" / "v-0003" / "manifest.json").is_file()


def test_an_operator_is_told_that_a_version_which_is_ready_is_too_slow(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scouted(home, monkeypatch) as served:
        publish(home, "v-0002", edit=loop_of(15_000))
        wait_until(lambda: is_ready(served, "v-0002"))
        refused = served.client.post("/v1/versions/v-0002/promote", json={"reason": "a test"})
        assert refused.status_code == 422
        assert "the live version takes" in refused.json()["error"]["message"]
        newest = registry_of(home).promotions.refresh()
        assert newest is not None
        assert newest.version == "v-0001", "nothing was written"
