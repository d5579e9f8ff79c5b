"""What the registry promises: one winner, a champion that can always be loaded, and a way back."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.bundle import MODEL, TOKENIZER, ModelBundle
from core.errors import (
    BadSettings,
    Conflict,
    CorruptBundle,
    PromotionsPaused,
    RegistryUnavailable,
    UnknownVersion,
    VerdictVoid,
)
from core.events import new_id, now
from core.registry import ObjectStore, Promotion, Registry, RunState, TrainingRun, Verdict, forget_cached
from core.runtime import Servable
from tests.support import wait_until
from tests.support_bundles import make_bundle

LABELS = ["a", "b"]
WHO: dict[str, Any] = {"reason": "a test", "actor": "test"}
Open = Callable[[], Registry]


@pytest.fixture(params=["folder"])
def open_registry(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same registry again and again, as several programs do."""
    url = (tmp_path / "registry with a blank, ü and #").as_uri()
    return lambda: Registry(url, "default")


@pytest.fixture
def registry(open_registry: Open) -> Registry:
    """The registry as one program sees it."""
    return open_registry()


@pytest.fixture
def bundle_of(tmp_path: Path) -> Callable[..., ModelBundle]:
    """Makes a toy version; ``seed`` decides whether it shares its graph with another."""

    def make(version: str, *, seed: int = 0, **fields: Any) -> ModelBundle:
        return make_bundle(tmp_path / "made" / version, LABELS, version=version, seed=seed, **fields)

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where versions are fetched to."""
    return tmp_path / "cache"


def _live(registry: Registry) -> str | None:
    newest = registry.promotions.refresh()
    return newest.version if newest else None


def _promote(registry: Registry, *versions: str) -> Promotion:
    for version in versions:
        newest = registry.promotions.refresh()
        promoted = registry.promotions.promote(version, judged_against=newest.number if newest else 0, **WHO)
    return promoted


# versions


def test_a_version_that_was_published_comes_back_whole(
    registry: Registry, open_registry: Open, bundle_of: Any, cache: Path
) -> None:
    bundle = bundle_of("v-0001")
    registry.publish(bundle)
    registry.publish(bundle)
    fetched = open_registry().fetch("v-0001", cache)
    assert fetched.manifest == bundle.manifest
    assert ModelBundle.open(fetched.directory).manifest == bundle.manifest
    assert registry.versions() == ["v-0001"]


def test_a_version_is_immutable(registry: Registry, bundle_of: Any) -> None:
    first = bundle_of("v-0001", seed=1)
    registry.publish(first)
    with pytest.raises(Conflict, match="exists already, with another manifest"):
        registry.publish(bundle_of("v-0001", seed=2))


@pytest.mark.parametrize("version", ["v-0002", "../v-0001", "", "v-0001/..", "V", "%2e%2e"])
def test_a_version_that_is_not_there_is_unknown(registry: Registry, bundle_of: Any, cache: Path, version: str) -> None:
    registry.publish(bundle_of("v-0001"))
    for ask in (registry.manifest, registry.summary, lambda name: registry.fetch(name, cache)):
        with pytest.raises(UnknownVersion):
            ask(version)


def test_versions_that_share_a_graph_store_it_once(registry: Registry, bundle_of: Any, open_registry: Open) -> None:
    for version in ("v-0001", "v-0002"):
        registry.publish(bundle_of(version, seed=5))
    assert len(_blobs(registry)) == 2  # the graph and the tokenizer


def test_a_damaged_file_is_not_published_under_the_name_of_the_whole_one(
    registry: Registry, bundle_of: Any, cache: Path
) -> None:
    registry.publish(bundle_of("v-0001", seed=5))
    same = bundle_of("v-0002", seed=5)
    same.path(MODEL).write_bytes(same.path(MODEL).read_bytes()[::-1])
    with pytest.raises(CorruptBundle, match=r"v-0002: model\.onnx has sha256"):
        registry.publish(same)
    registry.fetch("v-0001", cache)


def test_a_file_that_is_stored_already_need_not_be_there_to_publish(
    registry: Registry, bundle_of: Any, cache: Path
) -> None:
    registry.publish(bundle_of("v-0001", seed=5))
    same = bundle_of("v-0002", seed=5)
    same.path(MODEL).unlink()
    registry.publish(same)
    registry.fetch("v-0002", cache)
    other = bundle_of("v-0003", seed=6)
    other.path(MODEL).unlink()
    with pytest.raises(CorruptBundle, match=r"model\.onnx is missing"):
        registry.publish(other)


def test_a_file_that_went_bad_in_the_cache_is_fetched_again(registry: Registry, bundle_of: Any, cache: Path) -> None:
    registry.publish(bundle_of("v-0001"))
    path = registry.fetch("v-0001", cache).path(MODEL)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert registry.fetch("v-0001", cache).path(MODEL).read_bytes() == whole
    assert sorted(found.name for found in path.parent.iterdir()) == ["manifest.json", MODEL, TOKENIZER]


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_file_that_went_bad_in_the_registry_is_not_served(
    registry: Registry, bundle_of: Any, cache: Path, damage: str
) -> None:
    bundle = bundle_of("v-0001")
    registry.publish(bundle)
    blob = f"default/blobs/{bundle.manifest.files[MODEL].sha256}"
    objects = _objects(registry)
    data = objects.get(blob)
    assert data is not None
    if damage == "gone":
        objects.delete([blob])
    else:
        objects.put(blob, bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(CorruptBundle, match=r"v-0001: model\.onnx"):
        registry.fetch("v-0001", cache)
    objects.put(blob, data)
    registry.fetch("v-0001", cache)


def test_a_manifest_of_another_version_is_corrupt(registry: Registry, bundle_of: Any) -> None:
    document = bundle_of("v-0001").manifest.model_dump_json().encode()
    _objects(registry).put("default/versions/v-0002/manifest.json", document)
    with pytest.raises(CorruptBundle, match="the manifest is that of v-0001"):
        registry.manifest("v-0002")


def test_programs_that_fetch_the_same_at_once_do_not_get_in_each_others_way(
    open_registry: Open, bundle_of: Any, cache: Path
) -> None:
    open_registry().publish(bundle_of("v-0001"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: open_registry().fetch("v-0001", cache), range(24)))
    assert len(list((cache / "v-0001").iterdir())) == 3


def test_a_cache_that_cannot_be_written_to_is_told_as_such(registry: Registry, bundle_of: Any, tmp_path: Path) -> None:
    registry.publish(bundle_of("v-0001"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryUnavailable, match="v-0001 cannot be kept below"):
        registry.fetch("v-0001", tmp_path / "file")


def test_verdicts_refusals_and_runs_are_kept_beside_a_version(
    registry: Registry, open_registry: Open, bundle_of: Any
) -> None:
    registry.publish(bundle_of("v-0001"))
    said = Verdict(version="v-0001", passed=False, champion=None, judged_against=0, reasons=["no"], low_power=True)
    registry.record_verdict(said)
    later = said.model_copy(update={"passed": True, "judged_against": 3})
    registry.record_verdict(later)
    registry.record_refusal("v-0001", reason="too big", actor="service")
    run = TrainingRun(
        run_id=new_id(), lane="head", trigger="count", parent=None, seed=0, state=RunState.RUNNING, through_seq=7
    )
    registry.record_run(run)
    assert open_registry().runs(newest=50) == [run]
    ended = run.model_copy(update={"state": RunState.REJECTED, "finished_at": now()})
    registry.record_run(ended)
    summary = open_registry().summary("v-0001")
    assert summary.verdict == later
    assert [refusal["reason"] for refusal in summary.refusals] == ["too big"]
    assert open_registry().runs(newest=50) == [ended]


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        ("default/promotions/00000001.json", lambda registry: registry.promotions.refresh()),
        ("default/versions/v-0001/verdicts/x.json", lambda registry: registry.verdict("v-0001")),
        ("default/versions/v-0001/refusals/x.json", lambda registry: registry.summary("v-0001")),
        ("default/runs/r/failed.json", lambda registry: registry.runs(newest=50)),
    ],
)
@pytest.mark.parametrize("damage", [b'{"number": 1', b"\xff"])
def test_a_damaged_record_is_told_by_its_path(
    registry: Registry, bundle_of: Any, path: str, ask: Callable[[Registry], object], damage: bytes
) -> None:
    registry.publish(bundle_of("v-0001"))
    _objects(registry).put(path, damage)
    with pytest.raises(RegistryUnavailable, match="is damaged; restore it from a backup: ") as told:
        ask(registry)
    assert path in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://host/x", "file:///proc/nowhere/registry"])
def test_a_registry_that_cannot_be_is_an_error_of_the_settings(url: str) -> None:
    with pytest.raises(BadSettings, match="registry_url"):
        Registry(url, "default")


# promotions


def test_of_eight_that_promote_at_once_one_wins(open_registry: Open) -> None:
    _promote(open_registry(), "v-0000")
    start = threading.Barrier(8)

    def promote(number: int) -> str:
        registry = open_registry()
        registry.promotions.refresh()
        start.wait()
        try:
            registry.promotions.promote(f"v-000{number}", judged_against=1, **WHO)
        except VerdictVoid:
            return "void"
        return f"v-000{number}"

    with ThreadPoolExecutor(8) as pool:
        results = sorted(pool.map(promote, range(1, 9)))
    assert results[-1:] == ["void"]
    assert results.count("void") == 7
    assert _live(open_registry()) == results[0]


def test_operators_that_act_at_once_all_get_their_turn(open_registry: Open) -> None:
    _promote(open_registry(), "v-0000")
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda _: open_registry().promotions.pause(**WHO), range(8)))
    assert sorted(entry.number for entry in entries) == list(range(2, 10))


def test_a_verdict_against_an_older_champion_is_void(registry: Registry) -> None:
    _promote(registry, "v-0001", "v-0002")
    with pytest.raises(VerdictVoid, match="judged against promotion 1, but 2 is the newest"):
        registry.promotions.promote("v-0003", judged_against=1, **WHO)
    assert _live(registry) == "v-0002"


def test_a_pause_voids_verdicts_and_holds_promotions_until_resumed(registry: Registry) -> None:
    _promote(registry, "v-0001")
    pause = registry.promotions.pause(reason="release freeze", actor="ops")
    assert pause.version == "v-0001"
    with pytest.raises(VerdictVoid):
        registry.promotions.promote("v-0002", judged_against=1, **WHO)
    with pytest.raises(PromotionsPaused, match="until an operator resumes them: release freeze"):
        registry.promotions.promote("v-0002", judged_against=2, **WHO)
    registry.promotions.resume(**WHO)
    assert _promote(registry, "v-0002").previous == "v-0001"


def test_a_hold_with_an_end_ends_by_itself(registry: Registry) -> None:
    _promote(registry, "v-0001")
    until = now() + timedelta(seconds=0.3)
    registry.promotions.pause(**WHO, until=until)
    with pytest.raises(PromotionsPaused):
        _promote(registry, "v-0002")
    wait_until(lambda: now() > until)
    assert _promote(registry, "v-0002").version == "v-0002"


def test_a_rollback_returns_to_the_version_before_and_stays(registry: Registry) -> None:
    _promote(registry, "v-0001", "v-0002")
    entry = registry.promotions.rollback(**WHO, hold_until=None)
    assert (entry.version, entry.previous, entry.bad) == ("v-0001", "v-0002", ["v-0002"])
    with pytest.raises(PromotionsPaused):
        _promote(registry, "v-0003")
    registry.promotions.resume(**WHO)
    _promote(registry, "v-0003")
    assert registry.promotions.bad_versions() == {"v-0002"}


def test_a_short_hold_never_cuts_a_longer_one_short(registry: Registry) -> None:
    _promote(registry, "v-0001", "v-0002")
    soon, late = now() + timedelta(seconds=60), now() + timedelta(seconds=600)
    assert registry.promotions.pause(**WHO, until=late).hold_until == late
    assert registry.promotions.pause(**WHO, until=soon).hold_until == late
    assert registry.promotions.pause(**WHO).hold_until is None
    assert registry.promotions.rollback(**WHO, hold_until=soon).hold_until is None
    registry.promotions.resume(**WHO)
    assert registry.promotions.pause(**WHO, until=soon).hold_until == soon


def test_a_rollback_that_means_a_version_which_is_not_live_any_more_is_refused(registry: Registry) -> None:
    _promote(registry, "v-0001", "v-0002", "v-0003")
    with pytest.raises(Conflict, match="v-0002 is not live any more, v-0003 is"):
        registry.promotions.rollback(**WHO, hold_until=None, bad_version="v-0002")
    assert registry.promotions.rollback_target() == "v-0002"
    assert registry.promotions.rollback(**WHO, hold_until=None, bad_version="v-0003").version == "v-0002"


def test_a_second_rollback_goes_further_back_and_never_to_a_bad_version(registry: Registry) -> None:
    _promote(registry, "v-0001", "v-0002", "v-0003")
    seen = [registry.promotions.rollback(**WHO, hold_until=None).version for _ in range(2)]
    assert seen == ["v-0002", "v-0001"]
    with pytest.raises(UnknownVersion, match="there is no good version before v-0001"):
        registry.promotions.rollback(**WHO, hold_until=None)
    assert _live(registry) == "v-0001"
    registry.promotions.resume(**WHO)
    _promote(registry, "v-0004")
    assert registry.promotions.rollback(**WHO, hold_until=None).version == "v-0001"


def test_pauses_are_no_versions_to_roll_back_to(registry: Registry) -> None:
    _promote(registry, "v-0001", "v-0002")
    registry.promotions.pause(**WHO)
    registry.promotions.resume(**WHO)
    assert registry.promotions.rollback(**WHO, hold_until=None).version == "v-0001"


def test_an_operator_may_promote_a_bad_version_which_clears_it_and_keeps_the_hold(registry: Registry) -> None:
    _promote(registry, "v-0001", "v-0002")
    registry.promotions.rollback(**WHO, hold_until=None)
    entry = registry.promotions.promote_by_operator("v-0002", **WHO)
    assert entry.holds(now())
    assert registry.promotions.bad_versions() == set()
    assert registry.promotions.rollback(**WHO, hold_until=None).version == "v-0001"


def test_before_the_first_version_there_is_nothing_to_hold_or_to_roll_back(registry: Registry) -> None:
    assert registry.promotions.refresh() is None
    assert registry.promotions.live_since() is None
    assert registry.prune(keep=2) == []
    with pytest.raises(Conflict, match="no version is live yet"):
        registry.promotions.pause(**WHO)
    with pytest.raises(Conflict, match="no version is live yet"):
        registry.promotions.rollback(**WHO, hold_until=None)


def test_the_champion_is_live_since_its_promotion_and_not_since_a_pause(registry: Registry) -> None:
    promoted = _promote(registry, "v-0001")
    registry.promotions.pause(**WHO)
    assert registry.promotions.live_since() == promoted


# crashes


class Crash(Exception):
    """The process is gone."""


class DyingStore(ObjectStore):
    """A store whose process dies at its n-th write: before it, or after it but before the answer."""

    def __init__(self, url: str, *, dies_at: int, after: bool) -> None:
        super().__init__(url)
        self.left = dies_at
        self._after = after

    def _write(self, write: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left == 0 and not self._after:
            raise Crash
        done = write()
        if self.left == 0:
            raise Crash
        return done

    def put(self, path: str, data: bytes | Path) -> None:
        """Write, or die."""
        self._write(lambda: super(DyingStore, self).put(path, data))

    def create(self, path: str, data: bytes) -> bool:
        """Write if absent, or die."""
        return bool(self._write(lambda: super(DyingStore, self).create(path, data)))


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("dies_at", [1, 2, 3, 4, 5])
def test_a_crash_at_any_write_leaves_a_champion_that_loads(
    open_registry: Open, bundle_of: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int, after: bool
) -> None:
    before = open_registry()
    before.publish(bundle_of("v-0001", seed=1))
    _promote(before, "v-0001")
    bundle = bundle_of("v-0002", seed=2)
    verdict = Verdict(version="v-0002", passed=True, champion="v-0001", judged_against=1, reasons=[], low_power=False)

    def learn(registry: Registry) -> None:
        registry.publish(bundle)
        registry.record_verdict(verdict)
        registry.promotions.promote("v-0002", judged_against=1, **WHO)

    with monkeypatch.context() as patch:
        patch.setattr("core.registry.versions.ObjectStore", lambda url: DyingStore(url, dies_at=dies_at, after=after))
        with pytest.raises(Crash):
            learn(open_registry())

    survivor = open_registry()
    champion = _live(survivor)
    assert champion == ("v-0002" if (dies_at, after) == (5, True) else "v-0001")
    Servable.load(survivor.fetch(champion, cache), device="cpu")
    for version in survivor.versions():
        survivor.fetch(version, cache)  # what is listed exists in whole
    if dies_at < 3 or (dies_at, after) == (3, False):
        with pytest.raises(UnknownVersion):
            survivor.manifest("v-0002")
    if champion == "v-0001":
        learn(survivor)
    assert _live(open_registry()) == "v-0002"


# pruning


def _objects(registry: Registry) -> ObjectStore:
    return registry._objects


def _blobs(registry: Registry) -> list[str]:
    return _objects(registry).paths("default/blobs")


def _fetchable(registry: Registry, cache: Path) -> list[str]:
    found = []
    for version in registry.versions():
        forget_cached(cache, keep=[])
        try:
            registry.fetch(version, cache)
        except CorruptBundle:
            continue
        found.append(version)
    return found


def test_pruning_keeps_the_champion_what_rollbacks_need_and_the_newest(
    registry: Registry, open_registry: Open, bundle_of: Any, cache: Path
) -> None:
    names = [f"v-000{number}" for number in range(1, 8)]
    for number, name in enumerate(names):
        registry.publish(bundle_of(name, seed=number // 2))  # two and two share their graph
    _promote(registry, *names[:5])
    gone = registry.prune(keep=2)
    assert gone == ["v-0001"]  # 2 shares with 3, and 6 with the champion; their graphs cannot go
    assert registry.prune(keep=2) == []
    assert _fetchable(open_registry(), cache) == ["v-0003", "v-0004", "v-0005", "v-0006", "v-0007"]
    assert registry.promotions.rollback(**WHO, hold_until=None).version == "v-0004"
    registry.prune(keep=2)
    assert {"v-0003", "v-0004"} <= set(_fetchable(open_registry(), cache))
    assert [registry.manifest(name).version for name in names] == names


def test_pruning_spares_what_is_still_needed_and_the_champion_even_if_it_is_bad(
    registry: Registry, open_registry: Open, bundle_of: Any, cache: Path
) -> None:
    names = [f"v-000{number}" for number in range(1, 7)]
    for number, name in enumerate(names):
        registry.publish(bundle_of(name, seed=number))
    _promote(registry, *names[:4])
    registry.promotions.rollback(**WHO, hold_until=None)
    assert registry.prune(keep=2, also=["v-0001"]) == ["v-0004", "v-0005"]
    assert _fetchable(open_registry(), cache) == ["v-0001", "v-0002", "v-0003", "v-0006"]
