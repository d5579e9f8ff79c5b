"""A bundle loaded on ONNX Runtime: the only thing that turns inputs into answers, in the service and at the gate alike."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from core.bundle import MODEL, TOKENIZER, Manifest, ModelBundle
from core.errors import BadSettings, UnservableBundle
from core.events import Inputs
from core.known_answers import difference
from core.tasks import Task, get_task
from core.tasks.base import Output

Array = NDArray[np.float32]
_INPUTS: Final = {"input_ids", "attention_mask"}
_OUTPUTS: Final = ("logits", "embedding")
_tokenizers: dict[tuple[str, int], Tokenizer] = {}  # one, by digest and longest text
_PLACE: Final = re.compile(r"/onnxruntime_src/\S+:\d+ [^(\n]*\([^)\n]*\)( const)? ")
_PROBE: Final = (
    "ratchet",
    "A somewhat longer sentence, to see that the model takes more than one length of text. " * 3,
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model takes it."""

    ids: NDArray[np.int64]
    truncated: bool


class Servable:
    """One model version, ready to answer. ``run`` and ``predict`` may be called from several threads at once."""

    def __init__(self, bundle: ModelBundle, tokenizer: Tokenizer, session: onnxruntime.InferenceSession) -> None:
        self.manifest: Manifest = bundle.manifest
        self.task: Task = get_task(bundle.manifest.task)
        self._tokenizer = tokenizer
        self._session = session
        self._pad = tokenizer.token_to_id("[PAD]") or 0

    @classmethod
    def load(
        cls, bundle: ModelBundle, *, threads: int = 1, device: str = "auto", known_answers: bool = True
    ) -> "Servable":
        """Load a bundle whose digests were verified, and try it on a few texts.

        Args:
            bundle: the version to load.
            threads: CPU threads that one call of the model uses.
            device: ``cpu``, ``cuda``, or ``auto`` for the GPU where there is one.
            known_answers: False where a trial has just compared them on this machine.

        Raises:
            UnservableBundle: it does not load, or does not answer as its manifest says.
        """
        version = bundle.manifest.version
        try:
            tokenizer = _tokenizer_of(bundle)
            session = onnxruntime.InferenceSession(
                str(bundle.path(MODEL)), sess_options=_options(threads), providers=_providers(device)
            )
        except Exception as error:  # onnxruntime and tokenizers raise bare Exceptions of their own kinds
            raise UnservableBundle(f"{version} does not load: {_first_line(error)}") from error
        try:
            servable = cls(bundle, tokenizer, session)
        except BadSettings as error:
            raise UnservableBundle(f"{version} does not load: {error}") from error
        servable.check(known_answers=known_answers)
        return servable

    @property
    def version(self) -> str:
        """The version's name."""
        return self.manifest.version

    @property
    def provider(self) -> str:
        """Where it really runs: ONNX Runtime falls back to the CPU without a word."""
        return str(self._session.get_providers()[0])

    def tokenize(self, inputs: Sequence[Inputs]) -> list[Encoded]:
        """Token ids, cut to the manifest's ``max_tokens``."""
        texts = [self.task.text_of(item) for item in inputs]
        encodings = self._tokenizer.encode_batch_fast(texts)
        return [Encoded(np.asarray(item.ids, dtype=np.int64), bool(item.overflowing)) for item in encodings]

    def run(self, batch: Sequence[Encoded]) -> tuple[Array, Array]:
        """Logits of shape (texts, labels) and embeddings of shape (texts, embedding_size) of one padded batch."""
        width = max(len(item.ids) for item in batch)
        ids = np.full((len(batch), width), self._pad, dtype=np.int64)
        mask = np.zeros((len(batch), width), dtype=np.int64)
        for row, item in enumerate(batch):
            ids[row, : len(item.ids)] = item.ids
            mask[row, : len(item.ids)] = 1
        logits, embedding = self._session.run(_OUTPUTS, {"input_ids": ids, "attention_mask": mask})
        return logits, embedding

    def infer(self, inputs: Sequence[Inputs], *, batch_size: int = 32) -> tuple[Array, Array]:
        """Logits and embeddings of any number of inputs, batched by length, in the order given."""
        encoded = self.tokenize(inputs)
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
        logits = np.empty((len(encoded), len(self.manifest.labels)), dtype=np.float32)
        embeddings = np.empty((len(encoded), self.manifest.embedding_size), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            logits[rows], embeddings[rows] = self.run([encoded[row] for row in rows])
        return logits, embeddings

    def predict(self, inputs: Sequence[Inputs]) -> list[Output]:
        """Answers in the order given."""
        logits, _ = self.infer(inputs)
        return self.task.decode(logits, self.manifest.labels)

    def check(self, *, known_answers: bool = True) -> None:
        """Run it on a few texts. Raises UnservableBundle unless names, shapes and values are as they must be."""
        version = self.version
        names = {item.name for item in self._session.get_inputs()}
        if names != _INPUTS:
            raise UnservableBundle(f"{version}: the graph takes {sorted(names)}, it must take {sorted(_INPUTS)}")
        outputs = [item.name for item in self._session.get_outputs()]
        if not set(_OUTPUTS) <= set(outputs):
            raise UnservableBundle(f"{version}: the graph gives {outputs}, it must give {list(_OUTPUTS)}")
        try:
            logits, embedding = self.run(
                self.tokenize([dict.fromkeys(self.task.input_fields, text) for text in _PROBE])
            )
        except Exception as error:  # whatever the graph does wrong, ONNX Runtime raises its own kind
            raise UnservableBundle(f"{version} does not answer: {_first_line(error)}") from error
        _check_shape(version, "logits", logits, (len(_PROBE), len(self.manifest.labels)))
        _check_shape(version, "embedding", embedding, (len(_PROBE), self.manifest.embedding_size))
        if not known_answers:
            return
        try:
            fault = difference(self.manifest.probes, self.manifest.labels, self.ask)
        except Exception as error:
            raise UnservableBundle(f"{version} does not answer a known text: {_first_line(error)}") from error
        if fault:
            raise UnservableBundle(f"{version}: {fault}")

    def ask(self, text: str) -> Array:
        """Logits of shape (labels,) of one text in every field of the task, by itself."""
        logits, _ = self.run(self.tokenize([dict.fromkeys(self.task.input_fields, text)]))
        row: Array = logits[0]
        return row


def _tokenizer_of(bundle: ModelBundle) -> Tokenizer:
    """The bundle's tokenizer, shared with the last one that was loaded if it is the same.

    Reading one takes 40 ms and holds the interpreter's lock all the while: every request waits. Most versions have their
    parent's.
    """
    entry = bundle.manifest.files[TOKENIZER].sha256, bundle.manifest.max_tokens
    tokenizer = _tokenizers.get(entry)
    if tokenizer is None:
        tokenizer = Tokenizer.from_file(str(bundle.path(TOKENIZER)))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=bundle.manifest.max_tokens)
        _tokenizers.clear()
        _tokenizers[entry] = tokenizer
    return tokenizer


def _check_shape(version: str, name: str, array: Any, shape: tuple[int, int]) -> None:
    if array.shape != shape:
        raise UnservableBundle(f"{version}: {name} has shape {array.shape}, the manifest means {shape}")
    if not np.isfinite(array).all():
        raise UnservableBundle(f"{version}: {name} has values that are not finite")


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread burns a core that another lane, the event loop or training could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(device: str) -> list[str]:
    """ONNX Runtime names CUDA as available wherever its wheel is; asked for without a GPU, it prints errors."""
    has_gpu = any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
    wanted = device == "cuda" or (device == "auto" and has_gpu)
    if wanted and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _first_line(error: BaseException) -> str:
    """What the error says, without the places in ONNX Runtime's own source that it names."""
    lines = _PLACE.sub("", str(error)).splitlines()
    return lines[0][:300] if lines else type(error).__name__
