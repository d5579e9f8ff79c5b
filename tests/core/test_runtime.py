"""A bundle on ONNX Runtime: it answers as its manifest says, or it is not served."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from core.bundle import ModelBundle
from core.errors import UnservableBundle
from core.runtime import Servable, files_to_load
from tests.support_bundles import GraphEdit, favouring, make_bundle

LABELS = ["a", "b", "c"]


def _load(folder: Path, *, edit: GraphEdit | None = None, labels: list[str] = LABELS, **fields: Any) -> Servable:
    return Servable.load(make_bundle(folder, labels, version="v-0001", edit=edit, **fields), device="cpu")


def test_answers_come_in_the_order_asked_whatever_their_length(tmp_path: Path) -> None:
    servable = _load(tmp_path)
    inputs = [{"text": " ".join(["word1", "parcel", "card"][: 1 + number % 3] * (1 + number))} for number in range(40)]
    logits, embeddings = servable.infer(inputs, batch_size=7)
    for row in (0, 17, 39):
        alone_logits, alone_embedding = servable.infer([inputs[row]])
        np.testing.assert_allclose(logits[row], alone_logits[0], atol=1e-5)
        np.testing.assert_allclose(embeddings[row], alone_embedding[0], atol=1e-5)
    assert servable.provider == "CPUExecutionProvider"
    assert [answer["label"] for answer in servable.predict(inputs)] == [LABELS[row.argmax()] for row in logits]


def test_a_text_beyond_the_limit_is_cut_and_said_to_be(tmp_path: Path) -> None:
    short, long = _load(tmp_path, max_tokens=8).tokenize([{"text": "word1 " * 8}, {"text": "word1 " * 9}])
    assert (short.truncated, len(short.ids)) == (False, 8)
    assert (long.truncated, len(long.ids)) == (True, 8)


def _make_nan(graph: onnx.ModelProto) -> None:
    for tensor in graph.graph.initializer:
        if tensor.name == "bias":
            tensor.CopyFrom(numpy_helper.from_array(np.full(len(LABELS), np.nan, dtype=np.float32), "bias"))


def _rename_input(graph: onnx.ModelProto) -> None:
    graph.graph.input[1].name = "mask_of_attention"
    graph.graph.node[1].input[0] = "mask_of_attention"


def _more_input(graph: onnx.ModelProto) -> None:
    graph.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["n", "l"]))


def _without_embedding(graph: onnx.ModelProto) -> None:
    del graph.graph.output[1]


def _only_short_texts(graph: onnx.ModelProto) -> None:
    for tensor in graph.graph.initializer:
        if tensor.name == "table":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:1], "table"))


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (_make_nan, "logits has values that are not finite"),
        (_rename_input, "the graph takes ['input_ids', 'mask_of_attention'], it must take"),
        (_more_input, "the graph takes ['attention_mask', 'input_ids', 'token_type_ids']"),
        (_without_embedding, "the graph gives ['logits'], it must give ['logits', 'embedding']"),
        (_only_short_texts, "does not answer: "),
    ],
)
def test_a_graph_that_does_not_do_its_work_is_refused(tmp_path: Path, edit: GraphEdit, told: str) -> None:
    with pytest.raises(UnservableBundle) as refused:
        _load(tmp_path, edit=edit)
    assert str(refused.value).startswith("v-0001")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"labels": ["a", "b", "c", "d"]}, "logits has shape (2, 3), the manifest means (2, 4)"),
        ({"embedding_size": 9}, "embedding has shape (2, 8), the manifest means (2, 9)"),
        ({"task": "cooking"}, "does not load: no task 'cooking'"),
    ],
)
def test_a_manifest_that_promises_something_else_is_refused(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    bundle = make_bundle(tmp_path, LABELS, version="v-0001")
    manifest = bundle.manifest.model_copy(update=fields)
    with pytest.raises(UnservableBundle) as refused:
        Servable.load(type(bundle)(directory=bundle.directory, manifest=manifest), device="cpu")
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_files_that_are_none_of_theirs_do_not_load(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path, LABELS, version="v-0001")
    (tmp_path / name).write_bytes(b"\x08\x07garbage")
    bundle = type(bundle).write(tmp_path, **bundle.manifest.model_dump(exclude={"files"}))
    with pytest.raises(UnservableBundle, match="v-0001 does not load: "):
        Servable.load(bundle, device="cpu")


def test_an_external_head_answers_in_place_of_the_graphs_own_and_may_know_more_labels(tmp_path: Path) -> None:
    labels = [*LABELS, "d"]
    plain = _load(tmp_path / "plain")
    headed = _load(tmp_path / "headed", labels=labels, graph_labels=len(LABELS), head=favouring(labels, "d"))
    inputs = [{"text": "where is my parcel"}, {"text": "hello"}]
    logits, embeddings = headed.infer(inputs)
    assert logits.shape == (2, 4)
    assert [answer["label"] for answer in headed.predict(inputs)] == ["d", "d"]
    np.testing.assert_allclose(embeddings, plain.infer(inputs)[1], atol=1e-6)
    ran, _ = headed.run(headed.tokenize(inputs))
    np.testing.assert_allclose(ran, logits, atol=1e-5)


def test_a_head_that_does_not_fit_the_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnservableBundle, match=r"v-0001 does not load: head\.safetensors holds"):
        _load(tmp_path, head=favouring(["a", "b"], "b"))


def without_graph(bundle: ModelBundle) -> ModelBundle:
    """The bundle as it is fetched where another version lends its session."""
    bundle.path("model.onnx").unlink()
    bundle.path("tokenizer.json").unlink()
    return bundle


def test_a_version_of_the_same_graph_takes_over_its_session_and_needs_only_the_head(tmp_path: Path) -> None:
    first = _load(tmp_path / "first", head=favouring(LABELS, "a"))
    made = make_bundle(tmp_path / "second", LABELS, version="v-0002", head=favouring(LABELS, "b"))
    assert files_to_load(made.manifest, device="cpu") == ("model.onnx", "tokenizer.json", "head.safetensors")
    assert files_to_load(made.manifest, device="cpu", sharing=[first]) == ("head.safetensors",)
    second = Servable.load(without_graph(made), device="cpu", sharing=[first])
    assert second.shares_session_with(first)
    inputs = [{"text": "hello"}]
    assert (first.predict(inputs)[0]["label"], second.predict(inputs)[0]["label"]) == ("a", "b")


@pytest.mark.parametrize("fields", [{"seed": 1}, {"max_tokens": 64}, {"embedding_size": 9}])
def test_a_session_is_not_shared_with_what_differs_in_more_than_the_head(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    first = _load(tmp_path / "first", head=favouring(LABELS, "a"))
    size = fields.get("embedding_size", 8)
    made = make_bundle(tmp_path / "b", LABELS, version="v-0002", head=favouring(LABELS, "b", size=size), **fields)
    assert not Servable.load(made, device="cpu", sharing=[first]).shares_session_with(first)
    same = make_bundle(tmp_path / "c", LABELS, version="v-0003", head=favouring(LABELS, "b"))
    assert not Servable.load(same, device="cpu", threads=2, sharing=[first]).shares_session_with(first)


def test_a_borrowed_session_that_cannot_answer_for_the_manifest_is_refused(tmp_path: Path) -> None:
    first = _load(tmp_path / "first")
    made = make_bundle(tmp_path / "second", [*LABELS, "d"], version="v-0002", graph_labels=len(LABELS))
    with pytest.raises(UnservableBundle, match="logits has shape"):
        Servable.load(made, device="cpu", sharing=[first])


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Its wheel for Linux does so by default; then it has a thread for it, and a database below the home folder."""
    code = "import core.runtime, os; print(len(os.listdir('/proc/self/task')) if os.path.exists('/proc/self') else 1)"
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = {**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "1"
    assert list(tmp_path.iterdir()) == []
