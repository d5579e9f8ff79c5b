"""Tiny real model bundles: a toy ONNX graph over a word-level tokenizer, so that tests serve models and train none.

The words' vectors and the linear head are drawn from the seed, so different texts get different labels, and the same
ones every time.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from core.bundle import Lane, ModelBundle, TrainingSet
from core.events import new_id
from core.head import LinearHead

WORDS = (*(f"word{number}" for number in range(60)), "hello", "where", "is", "my", "parcel", "card", "lost")
GraphEdit = Callable[[onnx.ModelProto], None]


def make_bundle(
    directory: Path,
    labels: Sequence[str],
    *,
    version: str,
    favour: str | None = None,
    seed: int = 0,
    embedding_size: int = 8,
    edit: GraphEdit | None = None,
    head: LinearHead | None = None,
    graph_labels: int = 0,
    **fields: Any,
) -> ModelBundle:
    """Write a bundle that can be served.

    Args:
        directory: where; made if it is missing.
        labels: the labels, in the order of the logits.
        version: the version's name.
        favour: a label that it answers to everything; None: what the words say.
        seed: draws which words a label likes.
        embedding_size: width of the embedding.
        edit: a change to the graph before it is written.
        head: an external head; it and not the graph then gives the answers.
        graph_labels: how many labels the graph's own head knows; 0: as many as there are.
        fields: of the manifest, in place of the usual ones.
    """
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    favoured = None if favour is None else labels.index(favour)
    graph = _graph(len(vocabulary), graph_labels or len(labels), embedding_size, seed, favoured)
    if edit is not None:
        edit(graph)
    onnx.save(graph, str(directory / "model.onnx"))
    if head is not None:
        head.save(directory / "head.safetensors")
    manifest: dict[str, Any] = {
        "version": version,
        "model": "default",
        "task": "text_classification",
        "labels": list(labels),
        "lane": Lane.SEED,
        "method": "toy",
        "base_model": "toy",
        "max_tokens": 128,
        "embedding_size": embedding_size,
        "training_set": TrainingSet(count=0, new=0, replayed=0, digest=hashlib.sha256(b"").hexdigest(), through_seq=0),
        "run_id": new_id(),
        "seed": seed,
    }
    return ModelBundle.write(directory, **{**manifest, **fields})


def favouring(labels: Sequence[str], favour: str, *, size: int = 8) -> LinearHead:
    """A head that answers one label to everything."""
    bias = np.array([100.0 if label == favour else 0.0 for label in labels], dtype=np.float32)
    return LinearHead(np.zeros((len(labels), size), dtype=np.float32), bias)


def _graph(words: int, labels: int, size: int, seed: int, favoured: int | None) -> onnx.ModelProto:
    """``input_ids``, ``attention_mask`` → masked mean of word vectors → unit length → linear: as the real ones."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(words, size)).astype(np.float32)
    weight = (random.normal(size=(size, labels)) * 4).astype(np.float32)
    bias = np.zeros(labels, dtype=np.float32)
    if favoured is not None:
        bias[favoured] = 100.0
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["vectors"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["mask3"]),
        node("Mul", ["vectors", "mask3"], ["kept"]),
        node("ReduceSum", ["kept", "one"], ["summed"], keepdims=0),
        node("ReduceSum", ["mask3", "one"], ["count"], keepdims=0),
        node("Div", ["summed", "count"], ["mean"]),
        node("LpNormalization", ["mean"], ["embedding"], axis=1, p=2),
        node("Gemm", ["embedding", "weight", "bias"], ["logits"]),
    ]
    constants = {
        "table": table,
        "weight": weight,
        "bias": bias,
        "last": np.array([2], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "l"])
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", labels]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", size]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
