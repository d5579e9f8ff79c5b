"""Versions that must not be served: how each is made, and what the refusal must say."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from core.bundle import ModelBundle
from core.head import LinearHead
from core.known_answers import add_known_answers
from core.runtime import Servable
from tests.service.serving import LABELS, publish, registry_of
from tests.support_bundles import GraphEdit, favouring, make_bundle

Spoil = Callable[[Path, str], None]
"""Publishes a version with a name below a home."""


# what is stored is not what was made


def stored_file(name: str, change: Callable[[Path], None]) -> Spoil:
    """A version of which one stored file is changed."""

    def spoil(home: Path, version: str) -> None:
        bundle = publish(home, version, seed=7, embedding_size=9)
        blob = home / "registry" / "default" / "blobs" / bundle.manifest.files[name].sha256
        change(blob)

    return spoil


def flip(blob: Path) -> None:
    data = blob.read_bytes()
    blob.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])


def truncate(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:-1])


def lengthen(blob: Path) -> None:
    with blob.open("ab") as file:
        file.truncate(50 * 2**30)  # takes no room on the disk, and would take all of it in the cache


def empty(blob: Path) -> None:
    blob.write_bytes(b"")


def link_to_endless(blob: Path) -> None:
    blob.unlink()
    blob.symlink_to("/dev/zero")


def link_to_other(blob: Path) -> None:
    other = blob.with_name("other")
    other.write_bytes(bytes(blob.stat().st_size))
    blob.unlink()
    blob.symlink_to(other)


def stored_manifest(change: Callable[[str], str]) -> Spoil:
    def spoil(home: Path, version: str) -> None:
        publish(home, version)
        path = home / "registry" / "default" / "versions" / version / "manifest.json"
        path.write_text(change(path.read_text()))

    return spoil


def a_million_labels(text: str) -> str:
    return json.dumps({**json.loads(text), "labels": [f"label-{number}" for number in range(1_000_000)]})


def of_ten_terabytes(text: str) -> str:
    document = json.loads(text)
    document["files"]["model.onnx"]["size"] = 10 * 2**40
    return json.dumps(document)


def another_file(name: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        document = json.loads(text)
        document["files"][name] = document["files"]["tokenizer.json"]
        return json.dumps(document)

    return change


# what was made is not what the manifest says


def made(**how: Any) -> Spoil:
    def spoil(home: Path, version: str) -> None:
        publish(home, version, **how)

    return spoil


def with_fields(**fields: Any) -> Spoil:
    """A sound graph under a manifest that promises something else."""

    def spoil(home: Path, version: str) -> None:
        bundle = make_bundle(home / "made" / version, LABELS, version=version)
        republish(home, bundle, **fields)

    return spoil


def with_content(name: str, content: bytes) -> Spoil:
    """A bundle that is whole, but one of its files was rubbish from the start."""

    def spoil(home: Path, version: str) -> None:
        bundle = make_bundle(home / "made" / version, LABELS, version=version)
        bundle.path(name).write_bytes(content)
        republish(home, bundle)

    return spoil


def republish(home: Path, bundle: ModelBundle, **fields: Any) -> None:
    values = {**bundle.manifest.model_dump(exclude={"files"}), **fields}
    registry_of(home).publish(ModelBundle.write(bundle.directory, **values))


def after_export(change: Callable[[ModelBundle], None] = lambda _: None, **fields: Any) -> Spoil:
    """A sound version with its known answers, of which something was changed afterwards."""

    def spoil(home: Path, version: str) -> None:
        bundle = make_bundle(home / "made" / version, LABELS, version=version)
        bundle = add_known_answers(bundle, Servable.load(bundle, device="cpu").ask)
        change(bundle)
        republish(home, bundle, **fields)

    return spoil


def other_weights(bundle: ModelBundle) -> None:
    other = make_bundle(bundle.directory / "weights", LABELS, version="v-other", seed=1)
    other.path("model.onnx").replace(bundle.path("model.onnx"))
    for path in other.directory.iterdir():
        path.unlink()
    other.directory.rmdir()


def nan_for_one_word(bundle: ModelBundle) -> None:
    model = onnx.load(bundle.path("model.onnx"))
    vocabulary = json.loads(bundle.path("tokenizer.json").read_text())["model"]["vocab"]
    change_weight(model, "table", lambda table: table.__setitem__(vocabulary["parcel"], np.nan))
    onnx.save(model, bundle.path("model.onnx"))


def edit_tokenizer(change: Callable[[dict[str, Any]], None]) -> Callable[[ModelBundle], None]:
    def edit(bundle: ModelBundle) -> None:
        path = bundle.path("tokenizer.json")
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit


def turn_vocabulary_round(tokenizer: dict[str, Any]) -> None:
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: len(words) - 1 - number for word, number in words.items()}


def move_vocabulary_up(tokenizer: dict[str, Any]) -> None:
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: 1000 + number for word, number in words.items()}


def grow_every_e(tokenizer: dict[str, Any]) -> None:
    """Six rules that each make 64 letters of one: ``e`` becomes 69 billion, and Rust aborts when it has no memory left."""
    rule = {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 64}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [rule] * 6}


# graphs


def change_weight(model: onnx.ModelProto, name: str, change: Callable[[Any], None]) -> None:
    weight = next(item for item in model.graph.initializer if item.name == name)
    array = numpy_helper.to_array(weight).copy()
    change(array)
    weight.CopyFrom(numpy_helper.from_array(array, name))


def with_nan(model: onnx.ModelProto) -> None:
    change_weight(model, "weight", lambda weight: weight.__setitem__((0, 0), np.nan))


def with_other_names(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "tokens"
    model.graph.node[0].input[1] = "tokens"


def with_one_more_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["n", "l"]))


def with_inputs_without_end(model: onnx.ModelProto) -> None:
    for number in range(300):
        name = f"{number}" + "ü" * 1000
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "l"]))


def without_embedding(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def of_fixed_length(model: onnx.ModelProto) -> None:
    for item in model.graph.input:
        item.type.tensor_type.shape.dim[1].dim_value = 16


def head_with_nan() -> LinearHead:
    head = favouring(LABELS, "beta")
    head.weight[0, 0] = float("nan")
    return head


def of_opset_99(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def of_ir_99(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def with_a_foreign_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node.append(helper.make_node("Surprise", ["logits"], ["surprise"], domain="com.example"))


def add_to_bias(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], constants: dict[str, Any], result: str
) -> None:
    """Put nodes before the last one, whose result is added to the bias."""
    last = model.graph.node.pop()
    last.input[2] = "changed bias"
    model.graph.node.extend([*nodes, helper.make_node("Add", ["bias", result], ["changed bias"]), last])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )


def zeros_of(*shape: int) -> GraphEdit:
    """A graph of a few bytes that makes that many zeros whenever it is called."""

    def edit(model: onnx.ModelProto) -> None:
        nodes = [
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        ]
        add_to_bias(model, nodes, {"shape": np.array(shape, dtype=np.int64)}, "zero")

    return edit


def loop_of(rounds: int) -> GraphEdit:
    """A graph that computes the sine of zero again and again."""

    def edit(model: onnx.ModelProto) -> None:
        info = helper.make_tensor_value_info
        body = helper.make_graph(
            [helper.make_node("Identity", ["go on"], ["goes on"]), helper.make_node("Sin", ["x"], ["sine"])],
            "body",
            [
                info("round", TensorProto.INT64, []),
                info("go on", TensorProto.BOOL, []),
                info("x", TensorProto.FLOAT, []),
            ],
            [info("goes on", TensorProto.BOOL, []), info("sine", TensorProto.FLOAT, [])],
        )
        node = helper.make_node("Loop", ["rounds", "true", "nothing"], ["looped"], body=body)
        add_to_bias(
            model, [node], {"rounds": np.int64(rounds), "true": np.bool_(True), "nothing": np.float32(0)}, "looped"
        )

    return edit


def nan_for_long_texts(model: onnx.ModelProto) -> None:
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["length"], start=1),
        helper.make_node("Greater", ["length", "many"], ["is long"]),
        helper.make_node("Where", ["is long", "nan", "zero"], ["spoilt"]),
    ]
    constants = {"many": np.array([100], dtype=np.int64), "nan": np.float32("nan"), "zero": np.float32(0)}
    add_to_bias(model, nodes, constants, "spoilt")


def weights_at(location: str) -> GraphEdit:
    """A graph whose weights are in a file of the machine that loads it."""

    def edit(model: onnx.ModelProto) -> None:
        weight = next(item for item in model.graph.initializer if item.name == "weight")
        size = len(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
            weight.external_data.add(key=key, value=value)

    return edit


def external(home: Path, version: str) -> None:
    """External data that is really there, beside the bundle's folder in the service's cache."""
    (home / "cache" / "service").mkdir(parents=True, exist_ok=True)
    (home / "cache" / "service" / "weights.bin").write_bytes(bytes(4096))
    edit, folder = weights_at("../weights.bin"), home / "made" / version
    bundle = make_bundle(folder, LABELS, version=version)
    model = onnx.load(bundle.path("model.onnx"))
    edit(model)
    bundle.path("model.onnx").write_bytes(model.SerializeToString())
    republish(home, bundle)


def external_absolute(home: Path, version: str) -> None:
    bundle = make_bundle(home / "made" / version, LABELS, version=version)
    model = onnx.load(bundle.path("model.onnx"))
    weights_at(os.devnull)(model)
    bundle.path("model.onnx").write_bytes(model.SerializeToString())
    republish(home, bundle)


KINDS: dict[str, tuple[Spoil, str]] = {
    "a flipped byte": (stored_file("model.onnx", flip), "sha256"),
    "a truncated file": (stored_file("model.onnx", truncate), "bytes, the manifest says"),
    "a file of 50 GiB": (stored_file("model.onnx", lengthen), "bytes, the manifest says"),
    "an emptied file": (stored_file("tokenizer.json", empty), "has 0 bytes"),
    "a missing model": (stored_file("model.onnx", Path.unlink), "missing"),
    "a missing tokenizer": (stored_file("tokenizer.json", Path.unlink), "missing"),
    "a link to what never ends": (stored_file("model.onnx", link_to_endless), "bytes, the manifest says"),
    "a link to another file": (stored_file("model.onnx", link_to_other), "sha256"),
    "an empty manifest": (stored_manifest(lambda _: ""), "manifest.json"),
    "a newer schema": (
        stored_manifest(lambda text: text.replace('"schema_version": 1', '"schema_version": 2')),
        "schema",
    ),
    "another version's manifest": (stored_manifest(lambda text: text.replace("v-bad", "v-not")), "is that of"),
    "a million labels": (stored_manifest(a_million_labels), "bytes, at most 8388608 are allowed"),
    "ten terabytes": (stored_manifest(of_ten_terabytes), "does not fit in memory"),
    "a file outside": (stored_manifest(another_file("../../x.json")), "not allowed as a file name"),
    "an absolute path": (stored_manifest(another_file("/etc/hosts")), "not allowed as a file name"),
    "a path with a NUL": (stored_manifest(another_file("x\0.json")), "not allowed as a file name"),
    "weights that are not numbers": (made(edit=with_nan), "not finite"),
    "not a number for long texts": (made(edit=nan_for_long_texts), "not finite on 1 x 128 tokens"),
    "not a number for one word": (after_export(nan_for_one_word), "not finite are its answer to"),
    "other input names": (made(edit=with_other_names), "the graph takes"),
    "one more input": (made(edit=with_one_more_input), "the graph takes"),
    "inputs without end": (made(edit=with_inputs_without_end), "and 294 more"),
    "no embedding": (made(edit=without_embedding), "the graph gives"),
    "one length only": (made(edit=of_fixed_length), "does not answer"),
    "another task": (made(task="image_classification"), "image_classification"),
    "another model's": (made(model="other"), "'other'"),
    "a label too many": (with_fields(labels=[*LABELS, "delta"]), "logits has shape"),
    "a label too few": (with_fields(labels=LABELS[:2]), "logits has shape"),
    "a head of other labels": (made(head=favouring(["x", "y"], "y")), "head.safetensors holds"),
    "a head that is not numbers": (made(head=head_with_nan()), "not finite"),
    "no head": (with_content("head.safetensors", b"rubbish"), "cannot be read"),
    "another embedding size": (with_fields(embedding_size=16), "embedding has shape"),
    "exchanged labels": (after_export(labels=[LABELS[1], LABELS[0], LABELS[2]]), "the labels are exchanged"),
    "a label of another name": (after_export(labels=[*LABELS[:2], "delta"]), "known answers are for other labels"),
    "other weights": (after_export(other_weights), "not the known ones"),
    "a tokenizer that counts otherwise": (after_export(edit_tokenizer(turn_vocabulary_round)), "not the known ones"),
    "a tokenizer of more words": (after_export(edit_tokenizer(move_vocabulary_up)), "does not answer"),
    "a tokenizer that aborts": (after_export(edit_tokenizer(grow_every_e)), "it crashes the process that loads it"),
    "no graph": (with_content("model.onnx", b"rubbish"), "does not load"),
    "a graph of no bytes": (with_content("model.onnx", b""), "does not load"),
    "no tokenizer": (with_content("tokenizer.json", b"{}"), "does not load"),
    "a future opset": (made(edit=of_opset_99), "Opset 99"),
    "a future format": (made(edit=of_ir_99), "IR version: 99"),
    "a foreign operator": (made(edit=with_a_foreign_operator), "not a registered function/op"),
    "weights beside the bundle": (external, "External data path"),
    "weights at an absolute path": (external_absolute, "Absolute path not allowed"),
    "terabytes at run time": (made(edit=zeros_of(2**20, 2**20)), "it may take 384 MiB of memory"),
    "a few bytes that become many": (made(edit=zeros_of(2**30)), "it may take 384 MiB of memory"),
    "more than there are numbers": (made(edit=zeros_of(2**62, 2**62)), "overflow"),
    "a graph that never ends": (made(edit=loop_of(2**62)), "it hangs"),
    "a slow graph": (made(edit=loop_of(40_000)), "too slow"),
}
"""Each kind by name: how it is made, and a part of the reason."""
