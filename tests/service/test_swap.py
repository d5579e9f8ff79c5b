"""The live version follows the registry: no request notices, and no bad version ever answers."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from core.head import LinearHead
from core.registry import Registry
from core.status import read_status
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
from tests.support_bundles import favouring, make_bundle


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


def spoil_file(name: str, change: Callable[[bytes], bytes | None]) -> Callable[[Path, str], None]:
    """A version of which one stored file is changed, or gone where the change gives None."""

    def spoil(home: Path, version: str) -> None:
        bundle = publish(home, version, seed=7, embedding_size=9)
        blob = home / "registry" / "default" / "blobs" / bundle.manifest.files[name].sha256
        changed = change(blob.read_bytes())
        if changed is None:
            blob.unlink()
        else:
            blob.write_bytes(changed)

    return spoil


def flip(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


def spoil_manifest(change: Callable[[str], str]) -> Callable[[Path, str], None]:
    def spoil(home: Path, version: str) -> None:
        publish(home, version)
        path = home / "registry" / "default" / "versions" / version / "manifest.json"
        path.write_text(change(path.read_text()))

    return spoil


def spoil_bundle(**how: Any) -> Callable[[Path, str], None]:
    def spoil(home: Path, version: str) -> None:
        publish(home, version, **how)

    return spoil


def with_nan(model: onnx.ModelProto) -> None:
    weight = next(item for item in model.graph.initializer if item.name == "weight")
    array = numpy_helper.to_array(weight).copy()
    array[0, 0] = float("nan")
    weight.CopyFrom(numpy_helper.from_array(array, "weight"))


def with_other_names(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "tokens"
    model.graph.node[0].input[1] = "tokens"


def with_one_more_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["n", "l"]))


def without_embedding(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def of_fixed_length(model: onnx.ModelProto) -> None:
    for item in model.graph.input:
        item.type.tensor_type.shape.dim[1].dim_value = 16


def spoil_fields(**fields: Any) -> Callable[[Path, str], None]:
    """A sound graph under a manifest that promises something else."""

    def spoil(home: Path, version: str) -> None:
        made = make_bundle(home / "made" / version, LABELS, version=version)
        values = {**made.manifest.model_dump(exclude={"files"}), **fields}
        registry_of(home).publish(type(made).write(made.directory, **values))

    return spoil


def spoil_content(name: str, content: bytes) -> Callable[[Path, str], None]:
    """A bundle that is whole, but one of its files was rubbish from the start."""

    def spoil(home: Path, version: str) -> None:
        made = make_bundle(home / "made" / version, LABELS, version=version)
        made.path(name).write_bytes(content)
        values = made.manifest.model_dump(exclude={"files"})
        registry_of(home).publish(type(made).write(made.directory, **values))

    return spoil


def spoil_head(home: Path, version: str) -> None:
    """A head that was rubbish from the start."""
    made = make_bundle(home / "made" / version, LABELS, version=version)
    made.path("head.safetensors").write_bytes(b"rubbish")
    values = made.manifest.model_dump(exclude={"files"})
    registry_of(home).publish(type(made).write(made.directory, **values))


def head_with_nan() -> LinearHead:
    head = favouring(LABELS, "beta")
    head.weight[0, 0] = float("nan")
    return head


SPOILED: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "a flipped byte": (spoil_file("model.onnx", flip), "sha256"),
    "a truncated file": (spoil_file("model.onnx", lambda data: data[:-1]), "bytes"),
    "a missing model": (spoil_file("model.onnx", lambda _: None), "missing"),
    "a missing tokenizer": (spoil_file("tokenizer.json", lambda _: None), "missing"),
    "an empty manifest": (spoil_manifest(lambda _: ""), "manifest.json"),
    "a newer schema": (
        spoil_manifest(lambda text: text.replace('"schema_version": 1', '"schema_version": 2')),
        "schema",
    ),
    "another version's manifest": (spoil_manifest(lambda text: text.replace("v-bad", "v-not")), "is that of"),
    "a file outside": (spoil_manifest(lambda text: text.replace('"tokenizer.json"', '"../../x.json"')), "files"),
    "weights that are not numbers": (spoil_bundle(edit=with_nan), "not finite"),
    "other input names": (spoil_bundle(edit=with_other_names), "the graph takes"),
    "one more input": (spoil_bundle(edit=with_one_more_input), "the graph takes"),
    "no embedding": (spoil_bundle(edit=without_embedding), "the graph gives"),
    "one length only": (spoil_bundle(edit=of_fixed_length), "does not answer"),
    "another task": (spoil_bundle(task="image_classification"), "image_classification"),
    "another model's": (spoil_bundle(model="other"), "'other'"),
    "a label too many": (spoil_fields(labels=[*LABELS, "delta"]), "logits has shape"),
    "a label too few": (spoil_fields(labels=LABELS[:2]), "logits has shape"),
    "another embedding size": (spoil_fields(embedding_size=16), "embedding has shape"),
    "a head of other labels": (spoil_bundle(head=favouring(["x", "y"], "y")), "head.safetensors holds"),
    "a head that is not numbers": (spoil_bundle(head=head_with_nan()), "not finite"),
    "no head": (spoil_head, "cannot be read"),
    "no graph": (spoil_content("model.onnx", b"rubbish"), "does not load"),
    "no tokenizer": (spoil_content("tokenizer.json", b"{}"), "does not load"),
}


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A service whose champion is good before each bad version comes."""
    home = tmp_path_factory.mktemp("home")
    champion(home, "v-good-0", favour="alpha")
    with serving(settings_for(home)) as served:
        yield served


@pytest.mark.parametrize("fault", list(SPOILED))
def test_a_spoilt_version_is_refused_on_record_while_the_champion_answers(steady: Served, fault: str) -> None:
    home = steady.program.settings.home
    spoil, said = SPOILED[fault]
    version = f"v-bad-{list(SPOILED).index(fault)}"
    spoil(home, version)
    operator = steady.client.post(f"/v1/versions/{version}/promote", json={"reason": "try"})
    assert operator.status_code == 422, operator.text
    assert operator.json()["error"]["code"] == "unservable_version"
    promote(home, version)
    refusals = home / "registry" / "default" / "versions" / version / "refusals"
    wait_until(lambda: refusals.is_dir() and any(refusals.iterdir()), what="the refusal")
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
