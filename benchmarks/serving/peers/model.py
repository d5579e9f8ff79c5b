"""The same model for every peer: tokenize, pad, run, softmax, best five. What a careful user would write in an afternoon."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(os.environ.get("BENCH_BUNDLE", "."))
DEVICE = os.environ.get("BENCH_DEVICE", "cpu")
PORT = int(os.environ.get("BENCH_PORT", "0"))


class Model:
    """A bundle's graph and tokenizer."""

    def __init__(self, folder: Path = FOLDER, *, threads: int = 1) -> None:
        """Load it; ``threads`` is ONNX Runtime's ``intra_op_num_threads``; several may spin, as is its default."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
        providers = ["CPUExecutionProvider"]
        if DEVICE == "cuda":
            onnxruntime.preload_dlls()
            providers = ["CUDAExecutionProvider"]
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), sess_options=options, providers=providers
        )
        self._labels = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["labels"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=128)
        self._pad = self._tokenizer.token_to_id("[PAD]") or 0

    def feed(self, texts: Sequence[str]) -> dict[str, Any]:
        """The graph's inputs for one padded batch."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        width = max(map(len, rows))
        ids = np.full((len(rows), width), self._pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def run(self, feed: dict[str, Any]) -> Any:
        """The logits of one batch."""
        return self._session.run(["logits"], feed)[0]

    def answer(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Label, score and the best five of each text."""
        logits = self.run(self.feed(texts))
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = shifted / shifted.sum(axis=1, keepdims=True)
        best = np.argsort(-shares, axis=1)[:, :5]
        scores = np.take_along_axis(shares, best, axis=1)
        answers = []
        for columns, row in zip(best.tolist(), scores.tolist(), strict=True):
            top = [
                {"label": self._labels[column], "score": round(score, 6)}
                for column, score in zip(columns, row, strict=True)
            ]
            answers.append({**top[0], "top": top})
        return answers
