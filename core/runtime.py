"""A bundle loaded on ONNX Runtime: the only thing that turns inputs into answers, in the service and at the gate alike."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from core.bundle import GRAPH_FILES, HEAD, MODEL, TOKENIZER, Manifest, ModelBundle, Precision
from core.errors import BadSettings, UnservableBundle
from core.events import Inputs
from core.head import LinearHead
from core.known_answers import difference
from core.masking import Masker
from core.sessions import INPUTS, Opened, open_session
from core.tasks import Task, get_task
from core.tasks.base import Output

Array = NDArray[np.float32]
_OUTPUTS: Final = ("logits", "embedding")
_EMBEDDING: Final = ("embedding",)
_tokenizers: dict[tuple[str, int], Tokenizer] = {}  # one, by digest and longest text
_PLACE: Final = re.compile(r"/onnxruntime_src/\S+:\d+ [^(\n]*\([^)\n]*\)( const)? ")
_ALONE: Final = 64
_SHOWN: Final = 8
_PROBE: Final = (
    "ratchet",
    "A somewhat longer sentence, to see that the model takes more than one length of text. " * 3,
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model takes it."""

    ids: NDArray[np.int64]
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What two versions must have in common to be served by one session."""

    model_sha256: str
    tokenizer_sha256: str
    max_tokens: int
    embedding_size: int
    threads: int
    device: str

    @classmethod
    def of(cls, manifest: Manifest, *, threads: int, device: str) -> "EngineKey":
        """The key of a version that is to run like that."""
        return cls(
            model_sha256=manifest.files[MODEL].sha256,
            tokenizer_sha256=manifest.files[TOKENIZER].sha256,
            max_tokens=manifest.max_tokens,
            embedding_size=manifest.embedding_size,
            threads=threads,
            device=device,
        )


class Engine:
    """A graph with its tokenizer on ONNX Runtime: texts in, arrays out. Thread-safe; several versions may share one."""

    def __init__(self, tokenizer: Tokenizer, opened: Opened) -> None:
        self._tokenizer = tokenizer
        #: the session
        self.opened = opened
        self.pad = _pad_of(tokenizer)
        self._alone: dict[str | tuple[str, str], Array] = {}

    @property
    def provider(self) -> str:
        """Where it really runs."""
        return self.opened.provider

    @classmethod
    def load(
        cls,
        model: Path,
        tokenizer: Path,
        *,
        max_tokens: int,
        threads: int = 1,
        device: str = "auto",
        gpu_memory_bytes: int = 0,
        tokenizer_sha256: str = "",
    ) -> Self:
        """Load the two files. Raises UnservableBundle with the first line of what ONNX Runtime or tokenizers say.

        Args:
            model: the graph.
            tokenizer: its ``tokenizer.json``.
            max_tokens: where texts are cut.
            threads: CPU threads that one call uses.
            device: as for :meth:`Servable.load`.
            gpu_memory_bytes: as for :meth:`Servable.load`.
            tokenizer_sha256: digest of ``tokenizer``; where the last one loaded was the same, it is shared.
        """
        try:
            words = shared_tokenizer(tokenizer, tokenizer_sha256, max_tokens)
            opened = open_session(
                model, threads=threads, device=device, gpu_memory_bytes=gpu_memory_bytes, pad=_pad_of(words)
            )
        except Exception as error:  # onnxruntime and tokenizers raise bare Exceptions of their own kinds
            raise UnservableBundle(_first_line(error)) from error
        return cls(words, opened)

    def tokenize(self, texts: Sequence[str | tuple[str, str]]) -> list[Encoded]:
        """Token ids, cut to ``max_tokens``."""
        encodings = self._tokenizer.encode_batch_fast(texts)
        return [Encoded(np.asarray(item.ids, dtype=np.int64), bool(item.overflowing)) for item in encodings]

    def run(self, batch: Sequence[Encoded], outputs: Sequence[str]) -> list[Array]:
        """The named outputs of one padded batch."""
        width = max(len(item.ids) for item in batch)
        ids = np.full((len(batch), width), self.pad, dtype=np.int64)
        mask = np.zeros((len(batch), width), dtype=np.int64)
        for row, item in enumerate(batch):
            ids[row, : len(item.ids)] = item.ids
            mask[row, : len(item.ids)] = 1
        return self.opened.runs.run(ids, mask, outputs)

    def embed_alone(self, text: str | tuple[str, str]) -> Array:
        """The embedding of shape (1, size) of one of a few fixed texts, by itself; computed once."""
        found = self._alone.get(text)
        if found is None:
            (found,) = self.run(self.tokenize([text]), _EMBEDDING)
            if len(self._alone) >= _ALONE:
                self._alone.clear()
            self._alone[text] = found
        return found

    def run_all(self, encoded: Sequence[Encoded], outputs: Sequence[str], *, batch_size: int = 32) -> list[Array]:
        """The named outputs of at least one text, batched by length, in the order given."""
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
        parts = [
            self.run([encoded[row] for row in order[start : start + batch_size]], outputs)
            for start in range(0, len(order), batch_size)
        ]
        back = np.argsort(order)
        return [np.concatenate(column)[back] for column in zip(*parts, strict=True)]


class Servable:
    """One model version, ready to answer. ``run`` and ``predict`` may be called from several threads at once."""

    def __init__(self, bundle: ModelBundle, engine: Engine, key: EngineKey, head: LinearHead | None) -> None:
        self.manifest: Manifest = bundle.manifest
        self.task: Task = get_task(bundle.manifest.task)
        #: may be another version's, too
        self.engine = engine
        self._masker = Masker.of(bundle.manifest.masking)
        self._key = key
        self._head = head

    @classmethod
    def load(
        cls,
        bundle: ModelBundle,
        *,
        threads: int = 1,
        device: str = "auto",
        gpu_memory_bytes: int = 0,
        sharing: Sequence["Servable"] = (),
        known_answers: bool = True,
    ) -> "Servable":
        """Load a bundle whose digests were verified, and try it on a few texts.

        Args:
            bundle: the version to load; it needs the files that :func:`files_to_load` names.
            threads: CPU threads that one call of the model uses.
            device: ``cpu``, ``cuda``, or ``auto`` for the GPU where there is one.
            gpu_memory_bytes: what it may allocate on a GPU; 0: no limit.
            sharing: servables at hand; one with the same graph and tokenizer lends its session, which takes no time.
            known_answers: False where a trial has just compared them on this machine.

        Raises:
            UnservableBundle: it does not load, or does not answer as its manifest says.
        """
        manifest = bundle.manifest
        key = EngineKey.of(manifest, threads=threads, device=device)
        lender = _lender(key, sharing)
        try:
            head = _load_head(bundle)
            engine = lender.engine if lender else _load_engine(bundle, key, gpu_memory_bytes)
            servable = cls(bundle, engine, key, head)
        except (BadSettings, UnservableBundle) as error:
            raise UnservableBundle(f"{manifest.version} does not load: {error}") from error
        if lender is None or head is None:
            servable.check(known_answers=known_answers)
        else:
            servable.check_known_answers()
        return servable

    @property
    def version(self) -> str:
        """The version's name."""
        return self.manifest.version

    @property
    def provider(self) -> str:
        """Where it really runs: ONNX Runtime falls back to the CPU without a word."""
        return self.engine.provider

    @property
    def precision(self) -> str:
        """The numbers that its graph calculates with."""
        return str(self.manifest.artefact.precision if self.manifest.artefact else Precision.FP32)

    @property
    def head(self) -> LinearHead | None:
        """The linear head on the embedding, where it is apart from the graph."""
        return self._head

    def shares_session_with(self, other: "Servable") -> bool:
        """True if both run on the very same session."""
        return self.engine is other.engine

    def lends_to(self, key: EngineKey) -> bool:
        """True if its session would serve a version of that key as well as a new one."""
        return self._key == key

    def tokenize(self, inputs: Sequence[Inputs]) -> list[Encoded]:
        """Token ids, cut to the manifest's ``max_tokens``."""
        return self.engine.tokenize([self.text_of(item) for item in inputs])

    def text_of(self, inputs: Inputs) -> str | tuple[str, str]:
        """What its tokenizer gets: masked as the texts were that it was trained on, whoever asks."""
        return self.task.text_of(self._masker.mask_inputs(inputs))

    def run(self, batch: Sequence[Encoded]) -> tuple[Array, Array]:
        """Logits of shape (texts, labels) and embeddings of shape (texts, embedding_size) of one padded batch."""
        if self._head is None:
            logits, embedding = self.engine.run(batch, _OUTPUTS)
        else:
            (embedding,) = self.engine.run(batch, _EMBEDDING)
            logits = self._head.logits(embedding)
        return logits, embedding

    def infer(self, inputs: Sequence[Inputs], *, batch_size: int = 32) -> tuple[Array, Array]:
        """Logits and embeddings of any number of inputs, batched by length, in the order given."""
        if not inputs:
            return np.empty((0, len(self.manifest.labels)), np.float32), np.empty(
                (0, self._key.embedding_size), np.float32
            )
        encoded = self.tokenize(inputs)
        if self._head is None:
            logits, embeddings = self.engine.run_all(encoded, _OUTPUTS, batch_size=batch_size)
        else:
            (embeddings,) = self.engine.run_all(encoded, _EMBEDDING, batch_size=batch_size)
            logits = self._head.logits(embeddings)
        return logits, embeddings

    def predict(self, inputs: Sequence[Inputs]) -> list[Output]:
        """Answers in the order given."""
        logits, _ = self.infer(inputs)
        return self.task.decode(logits, self.manifest.labels)

    def check(self, *, known_answers: bool = True) -> None:
        """Run it on a few texts. Raises UnservableBundle unless names, shapes and values are as they must be."""
        version = self.version
        names = sorted(self.engine.opened.inputs)
        if names != sorted(INPUTS):
            raise UnservableBundle(f"{version}: the graph takes {_listed(names)}, it must take {sorted(INPUTS)}")
        needed = _OUTPUTS if self._head is None else _EMBEDDING
        if not set(needed) <= set(self.engine.opened.outputs):
            given = _listed(self.engine.opened.outputs)
            raise UnservableBundle(f"{version}: the graph gives {given}, it must give {list(needed)}")
        try:
            logits, embedding = self.run(
                self.tokenize([dict.fromkeys(self.task.input_fields, text) for text in _PROBE])
            )
        except Exception as error:  # whatever the graph does wrong, ONNX Runtime raises its own kind
            raise UnservableBundle(f"{version} does not answer: {_first_line(error)}") from error
        _check_shape(version, "logits", logits, (len(_PROBE), len(self.manifest.labels)))
        _check_shape(version, "embedding", embedding, (len(_PROBE), self.manifest.embedding_size))
        if known_answers:
            self.check_known_answers()

    def check_known_answers(self) -> None:
        """Compare what it says to the fixed texts with what its exporter saw. Raises UnservableBundle."""
        version = self.version
        try:
            fault = difference(self.manifest.probes, self.manifest.labels, self.ask)
        except Exception as error:
            raise UnservableBundle(f"{version} does not answer a known text: {_first_line(error)}") from error
        if fault:
            raise UnservableBundle(f"{version}: {fault}")

    def remember_known_texts(self) -> None:
        """Compute what the graph makes of the known texts, which a version that shares the session is compared by."""
        if self._head is not None:
            for probe in self.manifest.probes:
                self._embed_known(probe.text)

    def ask(self, text: str) -> Array:
        """Logits of shape (labels,) of one text in every field of the task, by itself."""
        if self._head is None:
            logits, _ = self.run(self.tokenize([dict.fromkeys(self.task.input_fields, text)]))
        else:  # the graph's part is the same for every version that shares it
            logits = self._head.logits(self._embed_known(text))
        row: Array = logits[0]
        return row

    def _embed_known(self, text: str) -> Array:
        return self.engine.embed_alone(self.text_of(dict.fromkeys(self.task.input_fields, text)))


def shared_tokenizer(path: Path, sha256: str, max_tokens: int) -> Tokenizer:
    """A tokenizer, shared with the last one that was loaded if it is the same.

    Reading one takes 40 ms and holds the interpreter's lock all the while: every request waits. Most versions have their
    parent's.
    """
    tokenizer = _tokenizers.get((sha256, max_tokens))
    if tokenizer is None:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=max_tokens)
        if sha256:
            _tokenizers.clear()
            _tokenizers[sha256, max_tokens] = tokenizer
    return tokenizer


def _pad_of(tokenizer: Tokenizer) -> int:
    return tokenizer.token_to_id("[PAD]") or 0


def files_to_load(
    manifest: Manifest, *, threads: int = 1, device: str = "auto", sharing: Sequence[Servable] = ()
) -> tuple[str, ...]:
    """The files that :meth:`Servable.load` will read: without the graph and tokenizer where one at hand lends them."""
    if _lender(EngineKey.of(manifest, threads=threads, device=device), sharing) is None:
        return manifest.serving_files
    return tuple(name for name in manifest.serving_files if name not in GRAPH_FILES)


def _lender(key: EngineKey, sharing: Sequence[Servable]) -> Servable | None:
    return next((servable for servable in sharing if servable.lends_to(key)), None)


def _load_engine(bundle: ModelBundle, key: EngineKey, gpu_memory_bytes: int) -> Engine:
    return Engine.load(
        bundle.path(MODEL),
        bundle.path(TOKENIZER),
        max_tokens=key.max_tokens,
        threads=key.threads,
        device=key.device,
        gpu_memory_bytes=gpu_memory_bytes,
        tokenizer_sha256=key.tokenizer_sha256,
    )


def _load_head(bundle: ModelBundle) -> LinearHead | None:
    manifest = bundle.manifest
    if HEAD not in manifest.files:
        return None
    return LinearHead.load(bundle.path(HEAD), labels=len(manifest.labels), size=manifest.embedding_size)


def _check_shape(version: str, name: str, array: Any, shape: tuple[int, int]) -> None:
    if array.shape != shape:
        raise UnservableBundle(f"{version}: {name} has shape {array.shape}, the manifest means {shape}")
    if not np.isfinite(array).all():
        raise UnservableBundle(f"{version}: {name} has values that are not finite")


def _listed(names: Sequence[str]) -> str:
    """Names for a message: a graph may have any number of them, of any length."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{[name[:100] for name in names[:_SHOWN]]}{more}"


def _first_line(error: BaseException) -> str:
    """What the error says, without the places in ONNX Runtime's own source that it names."""
    lines = _PLACE.sub("", str(error)).splitlines()
    return lines[0][:300] if lines else type(error).__name__
