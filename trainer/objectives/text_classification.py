"""Cross-entropy over labels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from core.events import Example
from trainer.classifier import Classifier, pad_batch
from trainer.objectives.base import Batch, Row


class TextClassificationObjective:
    """Each example counts by its weight."""

    task = "text_classification"

    def row(self, example: Example, token_ids: Sequence[int], labels: Sequence[str]) -> Row:
        """Token ids, the label's number and the example's weight."""
        return {"input_ids": list(token_ids), "label": labels.index(str(example.target)), "weight": example.weight}

    def collate(self, rows: Sequence[Row], *, pad: int) -> Batch:
        """``input_ids`` and ``attention_mask`` (texts, tokens), ``labels`` and ``weights`` (texts,)."""
        ids, mask = pad_batch([row["input_ids"] for row in rows], pad=pad)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.tensor([row["label"] for row in rows]),
            "weights": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
        }

    def loss(self, model: Classifier, batch: Batch) -> Tensor:
        """The weighted mean."""
        logits, _ = model(batch["input_ids"], batch["attention_mask"])
        losses = functional.cross_entropy(logits, batch["labels"], reduction="none")
        weights = batch["weights"]
        return (losses * weights).sum() / weights.sum().clamp(min=1e-6)
