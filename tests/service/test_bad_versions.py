"""No bad version ever answers: it is refused with the reason, on record, and the service does not suffer."""

import ctypes
import gc
import time
from collections.abc import Iterator

import psutil
import pytest

from core.errors import BundleError
from core.status import read_status
from tests.service.bad_versions import KINDS
from tests.service.serving import Served, champion, promote, serving, settings_for
from tests.support import wait_until

SLOW = {"a graph that never ends", "a slow graph", "a tokenizer that aborts"}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service whose champion is good before each bad version comes."""
    home = tmp_path_factory.mktemp("home")
    champion(home, "v-good-0", favour="alpha")
    with serving(settings_for(home, trial_timeout_s=2)) as served:
        yield served


def name_of(kind: str) -> str:
    return f"v-bad-{list(KINDS).index(kind)}"


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_bad_version_is_refused_on_record_while_the_champion_answers(steady: Served, kind: str) -> None:
    home = steady.program.settings.home
    spoil, said = KINDS[kind]
    version = name_of(kind)
    spoil(home, version)
    operator = steady.client.post(f"/v1/versions/{version}/promote", json={"reason": "try"})
    assert operator.status_code == 422, operator.text
    assert operator.json()["error"]["code"] == "unservable_version"
    assert said in operator.json()["error"]["message"]
    promote(home, version)
    refusals = home / "registry" / "default" / "versions" / version / "refusals"
    while not (refusals.is_dir() and any(refusals.iterdir())):
        assert steady.predict()["model_version"] == "v-good-0"
        assert steady.client.get("/readyz").status_code == 200
        time.sleep(0.02)
    time.sleep(0.2)
    (refusal,) = refusals.iterdir()
    assert said in refusal.read_text()
    answer = steady.predict()
    assert (answer["model_version"], answer["label"]) == ("v-good-0", "alpha")
    shown = steady.client.get("/v1/model").json()
    assert version in shown["degraded"]
    assert steady.client.get("/readyz").status_code == 200
    listed = steady.client.get("/v1/versions?limit=100").json()["versions"]
    mine = next(item for item in listed if item["version"] == version)
    assert mine.get("refusals") or mine.get("error")
    status = wait_until(lambda: read_status(home, "service"))
    assert status.state == "degraded"


def test_a_good_version_after_bad_ones_goes_live(steady: Served) -> None:
    champion(steady.program.settings.home, "v-good-1", favour="beta")
    wait_until(lambda: steady.live() == "v-good-1")
    assert steady.client.get("/v1/model").json()["degraded"] is None


def test_bad_versions_leave_nothing_behind(steady: Served) -> None:
    """Rounds of all kinds that are quick to refuse: after the first, nothing grows."""
    home, loader, process = steady.program.settings.home, steady.program.loader, psutil.Process()
    for kind, (spoil, _) in KINDS.items():
        if not (home / "made" / name_of(kind)).exists():  # this test ran alone
            spoil(home, name_of(kind))
    # After the last flip it takes a while until what was fetched for nothing is removed; with a file that is missing in the
    # registry still at hand, a version is whole.
    wait_until(lambda: not (loader.cache / name_of("a missing tokenizer")).exists(), what="the cache to be tidy")
    sizes = []
    for turn in range(9):
        for kind in set(KINDS) - SLOW:
            try:
                loader.load(name_of(kind))
            except BundleError:
                continue
            pytest.fail(f"{kind}: taken in round {turn}")
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        sizes.append(process.memory_info().rss / 2**20)
        now = (len(process.open_files()), len(process.children(recursive=True)), process.num_threads())
        if turn == 0:
            first = now
    assert all(after <= before for after, before in zip(now, first, strict=True)), f"{first} became {now}"
    assert [child.status() for child in process.children()].count(psutil.STATUS_ZOMBIE) == 0
    assert sizes[-1] - sizes[2] < 3.0, f"MiB after each round: {sizes}"


def test_what_is_larger_than_allowed_is_not_fetched(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("small")
    champion(home, "v-good-0")
    with serving(settings_for(home, max_model_bytes=50_000)) as served:
        champion(home, "v-large", embedding_size=2_000)
        wait_until(lambda: served.client.get("/v1/model").json()["degraded"])
        assert "max_model_bytes allows" in served.client.get("/v1/model").json()["degraded"]
        assert not (home / "cache" / "service" / "v-large").exists()
        assert served.live() == "v-good-0"
