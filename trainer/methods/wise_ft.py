"""Replay, then the average of the trained encoder and the one it started from."""

from typing import Final

import torch

from trainer.classifier import Classifier
from trainer.methods.base import WithReplay

MIX: Final = 0.5


class WiseFT(WithReplay):
    """Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, arXiv 2109.01903."""

    name = "wise_ft"

    def consolidate(self, model: Classifier, parent: Classifier) -> None:
        """``w ← mix · w + (1 − mix) · w_parent`` over the encoder; the head is refitted afterwards."""
        with torch.no_grad():
            for weight, start in zip(model.encoder.parameters(), parent.encoder.parameters(), strict=True):
                weight.lerp_(start.to(weight.device), 1 - MIX)
