"""The bundles under test, made once: MiniLM-L6 with a fitted head, in each precision, in versions that nobody can confuse."""

import hashlib
import inspect
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from tokenizers import Tokenizer

import trainer.export
import trainer.forms
import trainer.head
from benchmarks.serving.texts import TASK, labelled
from core.bundle import HEAD, MANIFEST, MODEL, TOKENIZER, Artefact, Lane, ModelBundle, Precision, TrainingSet
from core.head import LinearHead
from core.known_answers import add_known_answers
from core.registry import Registry
from core.runtime import Servable
from trainer.classifier import Classifier, save_base_tokenizer
from trainer.export import export_onnx
from trainer.finetune import limit_threads
from trainer.forms import AS_EXPORTED, FP16, INT8
from trainer.head import fit_head

PRECISIONS: Final = ("int8", "fp32", "fp16")
FORMS: Final = {"int8": INT8[0], "fp32": AS_EXPORTED, "fp16": FP16}
VARIANTS: Final = 4
"""Three would do: with two, the service would only go back and forth between what it holds in memory."""
_MAX_TOKENS: Final = 128


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """Where the bundles are."""

    directory: Path

    def bundle(self, precision: str, variant: int = 0, *, head_only: bool = False) -> ModelBundle:
        """One of them, its digests verified; ``head_only``: with the graph of variant 0 and a head beside it."""
        return ModelBundle.open(self.directory / name_of(precision, variant, head_only=head_only))

    def tokenizer(self) -> Tokenizer:
        """Their tokenizer, as the service uses it."""
        tokenizer = Tokenizer.from_file(str(self.directory / TOKENIZER))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=_MAX_TOKENS)
        return tokenizer


def name_of(precision: str, variant: int, *, head_only: bool = False) -> str:
    """The version's name."""
    return f"bench-{precision}-{'h' if head_only else 'v'}{variant}"


def make_bundles(cache: Path, data: Path | None) -> Bundles:
    """Fit, export and quantise; what the cache holds already is taken from there.

    Variant ``n`` answers with the label ``n`` rows further on: its logits are those of variant 0, moved by ``n``. So an
    answer tells which version gave it, whatever noise int8 adds.
    """
    rows = labelled(data, "train")
    makers = [
        inspect.getsource(module) for module in (trainer.export, trainer.forms, trainer.head, sys.modules[__name__])
    ]
    digest = hashlib.sha256(json.dumps([*makers, rows]).encode()).hexdigest()[:12]
    directory = cache.resolve() / "bundles" / digest
    if not directory.is_dir():
        part = directory.with_name(f"{digest}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _make(part, rows)
        part.rename(directory)
    return Bundles(directory=directory)


def _make(directory: Path, rows: Sequence[tuple[str, str]]) -> None:
    limit_threads(0)
    save_base_tokenizer("", directory / TOKENIZER)
    tokenizer = Bundles(directory=directory).tokenizer()
    model = Classifier.from_base("", labels=1)
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast([text for text, _ in rows])]
    labels = sorted({label for _, label in rows})
    embeddings = model.embed(ids, pad=tokenizer.token_to_id("[PAD]") or 0)
    fitted = fit_head(embeddings, [label for _, label in rows], labels, weights=[1.0] * len(rows))
    for variant in range(VARIANTS):
        head = LinearHead(weight=np.roll(fitted.weight, variant, axis=0), bias=np.roll(fitted.bias, variant))
        model.set_head(head)
        graph = directory / f"exported-{variant}.onnx"
        export_onnx(model, graph)
        for precision in PRECISIONS:
            folder = _folder(directory, name_of(precision, variant))
            FORMS[precision].make(graph, folder / MODEL)
            _finish(folder, head, labels, precision)
            shared = directory / name_of(precision, 0) / MODEL
            folder = _folder(directory, name_of(precision, variant, head_only=True))
            os.link(shared, folder / MODEL)
            _finish(folder, head, labels, precision)
        graph.unlink()


def _folder(directory: Path, name: str) -> Path:
    folder = directory / name
    folder.mkdir()
    shutil.copy(directory / TOKENIZER, folder / TOKENIZER)
    return folder


def _finish(folder: Path, head: LinearHead, labels: list[str], precision: str) -> None:
    """Head, manifest and known answers, as the trainer writes them."""
    head.save(folder / HEAD)
    artefact = Artefact(
        precision=Precision(precision), variant=FORMS[precision].variant, reason="the benchmark asks for it",
        provider="CPUExecutionProvider", machine="any", texts=0,
    )  # fmt: skip
    bundle = ModelBundle.write(
        folder, version=folder.name, model="default", task=TASK, labels=labels, lane=Lane.SEED, seed=0, artefact=artefact,
        method="logistic_head", base_model="MiniLM-L6", max_tokens=_MAX_TOKENS, embedding_size=head.weight.shape[1],
        training_set=TrainingSet(count=0, new=0, replayed=0, digest=hashlib.sha256(b"").hexdigest(), through_seq=0),
        run_id="benchmark",
    )  # fmt: skip
    add_known_answers(bundle, Servable.load(bundle, device="cpu").ask)


def publish_anew(registry: Registry, bundle: ModelBundle, number: int, folder: Path) -> str:
    """Publish a version again under a name and a graph's digest of its own, as after a fine-tuning; returns the name.

    The same graph would be known to the service, and it would save the trial that every new one pays.
    """
    version = f"{bundle.manifest.version}-s{number}"
    directory = folder / version
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(bundle.directory, directory, ignore=shutil.ignore_patterns(MANIFEST))
    with (directory / MODEL).open("ab") as graph:  # appended protocol buffers are merged
        graph.write(onnx.ModelProto(metadata_props=[{"key": "swap", "value": str(number)}]).SerializeToString())
    fields = bundle.manifest.model_dump(exclude={"files", "version"})
    registry.publish(ModelBundle.write(directory, version=version, **fields))
    shutil.rmtree(directory)
    return version


def base_of(version: str) -> str:
    """The version that :func:`publish_anew` published again."""
    return version.rpartition("-s")[0] or version


def fill_registry(
    home: Path, bundles: Bundles, precision: str, *, variants: int = 1, head_only: bool = False
) -> Registry:
    """A fresh registry below a service's home, with the first variant promoted."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    registry = Registry((home.resolve() / "registry").as_uri(), "default")
    for variant in range(variants):
        registry.publish(bundles.bundle(precision, variant, head_only=head_only))
    first = name_of(precision, 0, head_only=head_only)
    registry.promotions.promote_by_operator(first, reason="the benchmark begins", actor="benchmark")
    return registry
