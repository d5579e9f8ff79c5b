"""Whole runs on a tiny encoder: from the store to the promotion, and through every way to go wrong."""

import threading
from collections.abc import Iterator

import pytest

from core.bundle import Lane, ModelBundle
from core.errors import BadSettings, LeaseLost
from core.events import Command, Origin, Split, now
from core.examples import ExampleStore
from core.known_answers import TEXTS
from core.masking import Policy
from core.registry import PromotionKind, Registry, RunState, Verdict
from core.runtime import Engine, Servable
from core.settings import Settings
from tests.support import wait_until
from tests.trainer.support import example, fill, texts
from trainer.classifier import Classifier, training_files
from trainer.export import export_onnx, parity
from trainer.gate import Gate, Judgement
from trainer.loop import TrainerLoop

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def store(settings: Settings) -> Iterator[ExampleStore]:
    opened = ExampleStore(settings.example_store_url, settings.model)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings.registry_store_url, settings.model)


@pytest.fixture
def loop(settings: Settings) -> Iterator[TrainerLoop]:
    """A trainer in a thread."""
    with Running(settings) as found:
        yield found


class Running:
    def __init__(self, settings: Settings) -> None:
        self.loop = TrainerLoop(settings)
        self.thread = threading.Thread(target=self.loop.run)

    def __enter__(self) -> TrainerLoop:
        self.thread.start()
        return self.loop

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()


def ended(registry: Registry, count: int) -> bool:
    return len([run for run in registry.runs(newest=50) if run.state != RunState.RUNNING]) >= count


def test_the_first_model_then_the_fine_tuned_one_then_a_new_label(
    settings: Settings, store: ExampleStore, registry: Registry, loop: TrainerLoop
) -> None:
    fill(store, "abc", each=20)
    wait_until(lambda: ended(registry, 2), timeout_s=120, what="the seed and the first fine-tuning")
    seed, tuned = registry.runs(newest=50)[:2]
    assert (seed.state, seed.lane) == (RunState.PROMOTED, Lane.SEED)
    assert tuned.parent == seed.version
    before = registry.promotions.refresh()
    assert before is not None
    fill(store, "d", each=8, origin=Origin.CORRECTION, holdout=0)
    wait_until(lambda: registry.promotions.refresh() != before, timeout_s=60, what="a promotion")
    champion = registry.promotions.refresh()
    assert champion is not None
    manifest = registry.manifest(champion.version)
    assert manifest.labels == ["a", "b", "c", "d"]
    assert manifest.masking == Policy()
    assert manifest.parent == before.version
    assert [probe.text for probe in manifest.probes] == list(TEXTS)
    servable = Servable.load(registry.fetch(champion.version, settings.home / "cache"))
    answers = servable.predict([{"text": text} for text in texts("d", 8)])
    assert [answer["label"] for answer in answers].count("d") >= 7
    verdict = registry.verdict(champion.version)
    assert verdict is not None
    assert verdict.passed
    assert verdict.judged_against == before.number


def test_training_goes_on_from_the_live_weights_and_both_halves_give_the_same_answers(
    settings: Settings, store: ExampleStore, registry: Registry, loop: TrainerLoop
) -> None:
    fill(store, "ab", each=20)
    wait_until(registry.promotions.refresh, timeout_s=60, what="a model")
    champion = registry.promotions.refresh()
    assert champion is not None
    manifest = registry.manifest(champion.version)
    names = {*manifest.serving_files, *training_files(manifest)}
    bundle = registry.fetch(champion.version, settings.home / "c", names=names)
    model = Classifier.from_bundle(bundle)
    export_onnx(model, bundle.path("again.onnx"))
    engine = Engine.load(bundle.path("again.onnx"), bundle.path("tokenizer.json"), max_tokens=32)
    assert parity(model, engine, texts("a", 10)) < 1e-4
    served = Servable.load(bundle).predict([{"text": text} for text in texts("a", 10)])
    (logits,) = engine.run_all(engine.tokenize(texts("a", 10)), ["logits"])
    assert [manifest.labels[row.argmax()] for row in logits] == [answer["label"] for answer in served]


def test_two_trainers_at_once_make_each_run_once(
    settings: Settings, store: ExampleStore, registry: Registry, loop: TrainerLoop
) -> None:
    with Running(settings):
        fill(store, "abc", each=20)
        wait_until(lambda: ended(registry, 2), timeout_s=120, what="two runs")
    entries = registry.promotions.entries()
    assert [entry.kind for entry in entries].count(PromotionKind.PROMOTE) == len(entries)
    assert len({run.through_seq for run in registry.runs(newest=50) if run.lane == Lane.SEED}) == 1
    assert len([run for run in registry.runs(newest=50) if run.lane == Lane.SEED]) == 1


def test_a_rejected_challenger_leaves_its_reasons_and_starts_no_second_run(
    settings: Settings, store: ExampleStore, registry: Registry
) -> None:
    strict = settings.model_copy(update={"gate_latency_ratio": 1e-6})
    fill(store, "abc", each=20)
    with Running(strict):
        wait_until(lambda: ended(registry, 2), timeout_s=120, what="the seed, and a rejected challenger")
        rejected = registry.runs(newest=50)[1]
        assert rejected.state == RunState.REJECTED
        assert any("latency" in reason for reason in rejected.reasons)
        wait_until(lambda: len(registry.versions()) == 2, timeout_s=5, what="the challenger's record")
        verdict = registry.verdict(registry.versions()[-1])
        assert isinstance(verdict, Verdict)
        assert not verdict.passed
        threading.Event().wait(2.5)
    assert len(registry.runs(newest=50)) == 2
    newest = registry.promotions.refresh()
    assert newest is not None
    assert newest.number == 1


def test_a_network_that_cannot_be_served_does_not_take_the_refitted_head_down(
    settings: Settings, store: ExampleStore, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, "abc", each=20)
    with Running(settings):
        wait_until(lambda: ended(registry, 2), timeout_s=120, what="two runs")
        monkeypatch.setattr("trainer.building.export_onnx", lambda _, path: path.write_bytes(b"rubbish"))
        fill(store, "d", each=8, origin=Origin.CORRECTION, holdout=0)
        wait_until(lambda: ended(registry, 3), timeout_s=60, what="a third run")
    run = registry.runs(newest=50)[2]
    assert run.state == RunState.PROMOTED, run.reasons
    assert run.version is not None
    manifest = registry.manifest(run.version)
    assert (manifest.lane, manifest.labels) == (Lane.HEAD, ["a", "b", "c", "d"])


def test_a_verdict_against_an_older_champion_is_void_and_is_judged_again(
    settings: Settings, store: ExampleStore, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []
    honest = Gate.judge

    def meanwhile(self: Gate, *args: object, **kwargs: object) -> Judgement:
        """The champion moves while the second model is being judged for the first time."""
        judged.append(1)
        if len(judged) == 2:
            newest = registry.promotions.refresh()
            assert newest is not None
            registry.promotions.promote_by_operator(newest.version, reason="a test", actor="test")
        return honest(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Gate, "judge", meanwhile)
    fill(store, "abc", each=20)
    with Running(settings):
        wait_until(lambda: ended(registry, 2), timeout_s=120, what="two runs")
    assert len(judged) >= 3, "the second model was judged twice"
    entries = registry.promotions.entries()
    if registry.runs(newest=50)[1].state == RunState.PROMOTED:
        verdict = registry.verdict(entries[-1].version)
        assert verdict is not None
        assert verdict.judged_against == 2


def test_paused_promotions_start_no_run_unless_an_operator_asks_and_then_promote_nothing(
    settings: Settings, store: ExampleStore, registry: Registry
) -> None:
    fill(store, "ab", each=20)
    with Running(settings):
        wait_until(lambda: ended(registry, 2), timeout_s=120, what="two runs")
        registry.promotions.pause(reason="a test", actor="test")
        runs = len(registry.runs(newest=50))
        fill(store, "c", each=8, origin=Origin.CORRECTION, holdout=0)
        threading.Event().wait(2.5)
        assert len(registry.runs(newest=50)) == runs
        with store.transaction() as transaction:
            transaction.add_command(Command(command_id="c1", reason="now", at=now()))
        wait_until(lambda: ended(registry, runs + 1), timeout_s=60, what="the run that was asked for")
        last = registry.runs(newest=50)[-1]
        assert last.state == RunState.REJECTED
        assert any("paused" in reason for reason in last.reasons)
        registry.promotions.resume(reason="a test", actor="test")
        wait_until(
            lambda: registry.runs(newest=9)[-1].state == RunState.PROMOTED, timeout_s=60, what="learning goes on"
        )


def test_a_corrupted_champion_fails_the_run_and_neither_the_loop_nor_the_registry(
    settings: Settings, store: ExampleStore, registry: Registry
) -> None:
    fill(store, "ab", each=20)
    with Running(settings):
        wait_until(lambda: ended(registry, 2), timeout_s=120, what="two runs")
    newest = registry.promotions.refresh()
    assert newest is not None
    digest = registry.manifest(newest.version).files["weights/model.safetensors"].sha256
    blob = settings.home / "registry" / settings.model / "blobs" / digest
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    cached = settings.home / "cache" / "trainer" / newest.version / "weights" / "model.safetensors"
    cached.unlink(missing_ok=True)
    fill(store, "c", each=8, origin=Origin.CORRECTION, holdout=0)
    with Running(settings) as loop:
        wait_until(lambda: registry.runs(newest=50)[-1].state == RunState.FAILED, timeout_s=30, what="a failed run")
        assert "sha256" in registry.runs(newest=50)[-1].reasons[0]
        assert loop.is_alive()
    assert registry.promotions.refresh() == newest


def test_a_stale_lease_is_noticed_before_anything_is_promoted(settings: Settings, store: ExampleStore) -> None:
    mine = store.leases(holder="a", ttl_s=0.01)
    lease = mine.acquire(Lane.FINETUNE)
    assert lease is not None
    wait_until(lambda: store.leases(holder="b", ttl_s=30).acquire(Lane.FINETUNE), timeout_s=5, what="a takeover")
    with pytest.raises(LeaseLost, match="taken over"):
        mine.renew(lease)


def test_stopping_in_the_middle_of_a_run_ends_soon_and_the_run_starts_anew(
    settings: Settings, store: ExampleStore, registry: Registry
) -> None:
    slow = settings.model_copy(update={"epochs": 200})
    fill(store, "abc", each=20)
    with Running(slow):
        wait_until(lambda: len(registry.runs(newest=50)) == 2, timeout_s=60, what="fine-tuning has begun")
    assert registry.runs(newest=50)[-1].state == RunState.FAILED
    with Running(settings):
        wait_until(lambda: registry.runs(newest=50)[-1].state in (RunState.PROMOTED, RunState.REJECTED), timeout_s=60)


def test_settings_that_cannot_work_end_the_program(settings: Settings) -> None:
    with pytest.raises(BadSettings, match="no method 'magic'"):
        TrainerLoop(settings.model_copy(update={"method": "magic"}))


def test_the_training_set_is_named_in_the_bundle(
    settings: Settings, store: ExampleStore, registry: Registry, loop: TrainerLoop
) -> None:
    fill(store, "ab", each=10)
    with store.transaction() as transaction:
        held = example("a1 a2", "a", origin=Origin.AUDIT, split=Split.HOLDOUT)
        transaction.put_example(held, target_at=now(), target_by="t")
    wait_until(registry.promotions.refresh, timeout_s=60, what="a model")
    newest = registry.promotions.refresh()
    assert newest is not None
    bundle: ModelBundle = registry.fetch(newest.version, settings.home / "c", names=["training_set.json"])
    ids = bundle.path("training_set.json").read_text(encoding="utf-8")
    assert held.example_id not in ids
    assert bundle.manifest.training_set.count == 14
