"""The bundles under test, made once: MiniLM-L6 with a fitted head, fp32 and int8, in versions that nobody can confuse."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

from benchmarks.serving.texts import TASK, labelled
from core.bundle import MODEL, TOKENIZER, Lane, ModelBundle, TrainingSet
from core.registry import Registry
from trainer.classifier import Classifier, save_base_tokenizer
from trainer.export import export_onnx
from trainer.finetune import limit_threads
from trainer.head import fit_head

PRECISIONS: Final = ("int8", "fp32")
VARIANTS: Final = 4
"""Three would do: with two, the service would only go back and forth between what it holds in memory."""
_MAX_TOKENS: Final = 128
_FORMAT: Final = "1"  # of what is cached; another number makes it anew


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """Where the bundles are."""

    directory: Path

    def bundle(self, precision: str, variant: int = 0) -> ModelBundle:
        """One of them, its digests verified."""
        return ModelBundle.open(self.directory / name_of(precision, variant))

    def tokenizer(self) -> Tokenizer:
        """Their tokenizer, as the service uses it."""
        tokenizer = Tokenizer.from_file(str(self.directory / TOKENIZER))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=_MAX_TOKENS)
        return tokenizer


def name_of(precision: str, variant: int) -> str:
    """The version's name."""
    return f"bench-{precision}-v{variant}"


def make_bundles(cache: Path, data: Path | None) -> Bundles:
    """Fit, export and quantise; what the cache holds already is taken from there.

    Variant ``n`` answers with the label ``n`` rows further on: its logits are those of variant 0, moved by ``n``. So an
    answer tells which version gave it, whatever noise int8 adds.
    """
    rows = labelled(data, "train")
    digest = hashlib.sha256(json.dumps([_FORMAT, rows]).encode()).hexdigest()[:12]
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
    weight, bias = fit_head(embeddings, [label for _, label in rows], labels, weights=[1.0] * len(rows))
    for variant in range(VARIANTS):
        model.set_head(np.roll(weight, variant, axis=0), np.roll(bias, variant))
        for precision in reversed(PRECISIONS):
            _write(directory, precision, variant, labels, model)


def _write(directory: Path, precision: str, variant: int, labels: list[str], model: Classifier) -> None:
    folder = directory / name_of(precision, variant)
    folder.mkdir()
    if precision == "fp32":
        export_onnx(model, folder / MODEL)
    else:
        fp32 = directory / name_of("fp32", variant) / MODEL
        quantize_dynamic(fp32, folder / MODEL, per_channel=True, weight_type=QuantType.QInt8)
    shutil.copy(directory / TOKENIZER, folder / TOKENIZER)
    ModelBundle.write(
        folder, version=name_of(precision, variant), model="default", task=TASK, labels=labels, lane=Lane.SEED,
        method="logistic_head", base_model="MiniLM-L6", max_tokens=_MAX_TOKENS, embedding_size=model.embedding_size,
        training_set=TrainingSet(count=0, new=0, replayed=0, digest=hashlib.sha256(b"").hexdigest(), through_seq=0),
        run_id="benchmark", seed=0,
    )  # fmt: skip


def fill_registry(home: Path, bundles: Bundles, precision: str, *, variants: int = 1) -> Registry:
    """A fresh registry below a service's home, with the first variant promoted."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    registry = Registry((home.resolve() / "registry").as_uri(), "default")
    for variant in range(variants):
        registry.publish(bundles.bundle(precision, variant))
    registry.promotions.promote_by_operator(name_of(precision, 0), reason="the benchmark begins", actor="benchmark")
    return registry
