"""The form of the graph that is served: chosen by what was measured, refused where it answers otherwise than fp32."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.bundle import Artefact, Lane, Measured, Precision
from core.events import Origin
from core.head import LinearHead
from core.runtime import Engine, Servable
from core.settings import Settings, load_settings
from tests.support_bundles import make_bundle
from tests.trainer.support import example, texts
from trainer.artefact import ArtefactChooser, Sample, decide, machine
from trainer.building import Builder, load
from trainer.candidates import Candidates, Start
from trainer.classifier import Classifier, save_base_tokenizer, training_files
from trainer.export import export_onnx
from trainer.forms import FP16, INT8, INT8_NARROW, Form
from trainer.gate import Gate
from trainer.training_set import ExamplePool, make_pool


def measured(precision: Precision, *, variant: str = "matmul", **fields: Any) -> Measured:
    usual = {"throughput": 1.0, "latency_ms": 5.0, "agreement": 1.0, "logit_difference": 0.1, "accuracy": 0.9}
    return Measured(precision=precision, variant=variant, **{**usual, "size": 80, "load_seconds": 0.1, **fields})


FP32 = measured(Precision.FP32, variant="graph", size=90)


def decided(*others: Measured, **settings: Any) -> tuple[Measured, str]:
    return decide([FP32, *others], load_settings(**settings), texts=100)


def test_the_fastest_that_passes_is_served_and_the_reason_has_the_figures() -> None:
    fast = measured(Precision.INT8, throughput=2.4, agreement=0.985)
    chosen, reason = decided(measured(Precision.INT8, throughput=1.5), fast)
    assert chosen is fast
    assert "2.40 of fp32's throughput" in reason
    assert "98.5 % of 100 texts" in reason


def test_of_equally_fast_forms_the_smallest_is_served() -> None:
    small = measured(Precision.INT8, throughput=1.98, size=22)
    assert decided(measured(Precision.INT8, throughput=2.0), small)[0] is small


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"agreement": 0.96}, "on only 96.0 % of the texts (at least 97 %)"),
        ({"accuracy": 0.88}, "2.0 points fewer of the holdout"),
        ({"throughput": 1.04}, "hardly faster (1.04"),
    ],
)
def test_a_form_that_answers_otherwise_or_gains_nothing_is_not_served(fields: dict[str, Any], told: str) -> None:
    chosen, reason = decided(measured(Precision.INT8, **{"throughput": 2.0, **fields}))
    assert chosen is FP32
    assert told in reason


def test_the_setting_can_ask_for_a_precision_but_only_what_passes_comes_first() -> None:
    slow = measured(Precision.INT8, throughput=0.9)
    assert decided(slow)[0] is FP32
    assert decided(slow, precision="int8")[0] is slow
    far, nearer = (measured(Precision.INT8, agreement=share) for share in (0.5, 0.9))
    assert decided(far, nearer, precision="int8")[0] is nearer, "the gate will refuse it, with the reason"
    assert decided(precision="fp32")[0] is FP32
    assert decided(measured(Precision.INT8, throughput=2.0, accuracy=None))[0].precision == Precision.INT8


@pytest.fixture
def exported(tmp_path: Path, base_model: Path) -> Path:
    """A folder with the graph and tokenizer of a tiny network."""
    save_base_tokenizer(str(base_model), tmp_path / "tokenizer.json")
    export_onnx(Classifier.from_base(str(base_model), labels=3), tmp_path / "model.onnx")
    return tmp_path


@pytest.mark.parametrize("form", [*INT8, INT8_NARROW, FP16], ids=lambda form: form.name)
def test_every_form_gives_nearly_the_embeddings_of_the_graph_it_was_made_from(exported: Path, form: Form) -> None:
    form.make(exported / "model.onnx", exported / "other.onnx")
    found = []
    for name in ("model.onnx", "other.onnx"):
        engine = Engine.load(exported / name, exported / "tokenizer.json", max_tokens=32, device="cpu")
        found += engine.run_all(engine.tokenize(texts("a", 20) + texts("b", 20)), ["embedding"])
    assert found[1].dtype == np.float32
    assert float((found[0] * found[1]).sum(axis=1).min()) > 0.99, "cosine"
    assert not np.array_equal(*found)


def test_the_head_is_not_rounded_in_int8(exported: Path, base_model: Path) -> None:
    torch.manual_seed(1)
    model = Classifier.from_base(str(base_model), labels=3)
    export_onnx(model, exported / "model.onnx")
    INT8[0].make(exported / "model.onnx", exported / "other.onnx")
    assert "MatMulInteger" in {node.op_type for node in onnx.load(exported / "other.onnx").graph.node}
    engine = Engine.load(exported / "other.onnx", exported / "tokenizer.json", max_tokens=32, device="cpu")
    logits, embedding = engine.run_all(engine.tokenize(texts("a", 20)), ["logits", "embedding"])
    head = LinearHead(model.head.weight.detach().numpy(), model.head.bias.detach().numpy())
    np.testing.assert_allclose(logits, head.logits(embedding), atol=1e-6)


def test_what_was_chosen_is_in_the_graphs_place_and_all_that_was_measured_is_on_record(
    exported: Path, settings: Settings
) -> None:
    before = (exported / "model.onnx").read_bytes()
    sample = Sample(texts=texts("a", 20) + texts("b", 20), targets=[0] * 10)
    strict = settings.model_copy(update={"precision": "int8"})
    artefact = ArtefactChooser(exported, sample, strict, max_tokens=32).choose(lambda: None)
    assert artefact.precision == Precision.INT8
    assert {form.precision for form in artefact.measured} == {Precision.FP32, Precision.INT8}
    chosen = next(form for form in artefact.measured if form.variant == artefact.variant)
    assert chosen.size == (exported / "model.onnx").stat().st_size
    assert (exported / "model.onnx").read_bytes() != before
    assert {path.name for path in exported.iterdir()} == {"model.onnx", "tokenizer.json"}
    assert artefact.provider == "CPUExecutionProvider"
    assert artefact.machine == machine()


def test_a_form_that_cannot_be_made_leaves_fp32_and_says_so(
    exported: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Form(
        precision=Precision.INT8, variant="broken", make=lambda graph, target: target.write_bytes(b"x") and None
    )
    monkeypatch.setattr("trainer.artefact.INT8", (broken,))
    before = (exported / "model.onnx").read_bytes()
    sample = Sample(texts=texts("a", 20), targets=[])
    artefact = ArtefactChooser(exported, sample, settings, max_tokens=32).choose(lambda: None)
    assert artefact.precision == Precision.FP32
    assert "int8 (broken) does not work" in artefact.reason
    assert (exported / "model.onnx").read_bytes() == before


def a_pool(labels: str) -> ExamplePool:
    rows = [(text, label) for label in labels for text in texts(label, 12)]
    return make_pool([example(text, label, seq=seq + 1) for seq, (text, label) in enumerate(rows)], after=0)


def quiet(phase: str, done: int, total: int) -> None:
    """Nobody is told."""


def test_a_head_candidate_is_its_parents_graph_and_weights_with_a_head_fitted_on_what_that_graph_gives(
    tmp_path: Path, settings: Settings
) -> None:
    start = Start.load(None, settings, tmp_path)
    seed = next(Candidates(start, a_pool("ab"), settings, quiet).make())
    first = Builder(start, a_pool("ab"), settings, quiet, run_id="r1", scratch=tmp_path).build(seed)
    assert first.parity is not None
    assert first.bundle.manifest.artefact is not None
    pool = a_pool("abc")
    start = Start.load(first.bundle, settings, tmp_path, servable=first.servable)
    found = {candidate.lane: candidate for candidate in Candidates(start, pool, settings, quiet).make()}
    builder = Builder(start, pool, settings, quiet, run_id="r2", scratch=tmp_path)
    second = builder.build(found[Lane.HEAD])
    old, new = first.bundle.manifest, second.bundle.manifest
    assert {name for name in new.files if new.files[name] == old.files.get(name)} == {
        "model.onnx", "tokenizer.json", "weights/model.safetensors", "weights/config.json",
    }  # fmt: skip
    assert {path.name for path in second.bundle.directory.iterdir()} == {
        "manifest.json", "head.safetensors", "training_set.json",
    }  # fmt: skip
    assert second.servable.shares_session_with(first.servable)
    assert (second.parity, new.artefact) == (None, old.artefact)
    answers = second.servable.predict([item.inputs for item in pool.train])
    assert [answer["label"] for answer in answers].count("c") >= 11
    tuned = builder.build(found[Lane.FINETUNE])
    assert tuned.bundle.manifest.files["model.onnx"] != old.files["model.onnx"]
    again = Classifier.from_bundle(tuned.bundle)
    head = tuned.servable.infer([pool.train[0].inputs])[0].shape[1]
    assert again.head.out_features == head == 3
    assert set(training_files(new)) <= set(new.files)


def test_the_gate_refuses_a_form_that_does_not_give_fp32s_answers(tmp_path: Path) -> None:
    def judged(share: float) -> set[str]:
        artefact = Artefact(
            precision=Precision.INT8, variant="matmul", reason="r", agreement=share, provider="p", machine="m", texts=50
        )
        bundle = make_bundle(tmp_path / str(share), ["yes", "no"], version="v-0001", favour="yes", artefact=artefact)
        judgement = Gate(load_settings()).judge(
            Servable.load(bundle), None, holdout=[example("word1", "yes", origin=Origin.AUDIT)], corrections=[], new=[],
            parity=None,
        )  # fmt: skip
        assert judgement.evaluation["agreement"] == share
        return {check.name for check in judgement.checks if not check.passed}

    assert judged(0.98) == set()
    assert judged(0.96) == {"agreement"}


def test_a_bundle_from_before_heads_were_files_can_still_be_trained_from(tmp_path: Path, settings: Settings) -> None:
    start = Start.load(None, settings, tmp_path)
    seed = next(Candidates(start, a_pool("ab"), settings, quiet).make())
    made = Builder(start, a_pool("ab"), settings, quiet, run_id="r1", scratch=tmp_path).build(seed).bundle
    head = load_file(made.path("head.safetensors"))
    weights = load_file(made.path("weights/model.safetensors"))
    save_file(weights | {f"head.{name}": value for name, value in head.items()}, made.path("weights/model.safetensors"))
    made.path("head.safetensors").unlink()
    fields = made.manifest.model_dump(exclude={"files", "artefact"})
    old = type(made).write(made.directory, **fields)
    assert "head.safetensors" not in old.manifest.files
    model = Classifier.from_bundle(old)
    np.testing.assert_array_equal(model.head.weight.detach().numpy(), head["weight"].numpy())
    start = Start.load(old, settings, tmp_path, servable=load(old, settings))
    last = list(Candidates(start, a_pool("abc"), settings, quiet).make())[-1]
    built = Builder(start, a_pool("abc"), settings, quiet, run_id="r2", scratch=tmp_path).build(last)
    assert built.bundle.manifest.artefact is None
    shutil.copytree(made.path("weights"), built.bundle.path("weights"))
    child = Classifier.from_bundle(built.bundle)
    fitted = load_file(built.bundle.path("head.safetensors"))["weight"]
    assert torch.equal(child.head.weight, fitted), "the file counts, not the head that is still among the weights"
