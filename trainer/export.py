"""From the trained network to the artefact that is judged and served, and the proof that both give the same answers."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from core.runtime import Engine
from trainer.classifier import Classifier, pad_batch

_OPSET: Final = 17
_EQUAL: Final = 1e-5


class _Explicit(nn.Module):
    """The network with positions, segments and the attention's mask calculated from its inputs and nothing else.

    Left to transformers, they come from the inputs' shapes by some 150 small nodes. On a GPU ONNX Runtime keeps those on the
    CPU, and a graph that goes back and forth between the two cannot be captured as a CUDA graph.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """As the network's own."""
        none = input_ids * 0
        bias = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        encoder: Any = self.model.encoder
        found = encoder(
            input_ids=input_ids, attention_mask=bias, token_type_ids=none, position_ids=(none + 1).cumsum(dim=1) - 1
        )
        return self.model.classify(found.last_hidden_state, attention_mask)


def export_onnx(model: Classifier, path: Path) -> None:
    """Write the graph: ``input_ids``, ``attention_mask`` → ``logits``, ``embedding``, any number and length of texts.

    The tracing exporter is used on purpose: it takes 2 s against 3-18, and its graph runs a fifth faster (docs/decisions).
    """
    model.eval()  # the exporter would leave a wrapper in training mode, and parity would fail on dropout
    encoder: Any = model.encoder
    attention = encoder.config._attn_implementation
    ids, mask = pad_batch([[1, 2, 3, 1], [1, 2]], pad=0)  # any ids that every vocabulary has
    try:
        # Written out, attention is 568 nodes instead of 721, without the guards for texts that are nothing but padding.
        encoder.set_attn_implementation("eager")
        explicit = _Explicit(model)
        _trace(explicit if _is_same(explicit, model, (ids, mask)) else model, (ids, mask), path)
    finally:
        encoder.set_attn_implementation(attention)


def _is_same(explicit: _Explicit, model: Classifier, example: tuple[Tensor, Tensor]) -> bool:
    """Whether it says what the network says: not every encoder takes those inputs, or counts positions from 0."""
    try:
        with torch.inference_mode():
            pairs = zip(explicit(*example), model(*example), strict=True)
            return all(torch.allclose(one, other, atol=_EQUAL) for one, other in pairs)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False


def _trace(model: nn.Module, example: tuple[Tensor, Tensor], path: Path) -> None:
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # deprecation and tracing notes on constants that are constant here
        torch.onnx.export(
            model,
            example,
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits", "embedding"],
            dynamic_axes={
                "input_ids": {0: "texts", 1: "tokens"},
                "attention_mask": {0: "texts", 1: "tokens"},
                "logits": {0: "texts"},
                "embedding": {0: "texts"},
            },
            opset_version=_OPSET,
            dynamo=False,
        )


def parity(model: Classifier, engine: Engine, texts: Sequence[str | tuple[str, str]]) -> float:
    """The largest absolute difference between the logits of torch and of the exported graph on some texts."""
    encoded = engine.tokenize(texts)
    ids, mask = pad_batch([item.ids.tolist() for item in encoded], pad=engine.pad)
    model.eval()
    with torch.inference_mode():
        expected, _ = model(ids, mask)
    (found,) = engine.run(encoded, ["logits"])
    return float(np.abs(expected.numpy() - found).max())
