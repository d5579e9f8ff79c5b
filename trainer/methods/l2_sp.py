"""Replay, and a pull of the encoder towards the weights of the version it started from."""

from typing import Final

import torch
from torch import Tensor

from trainer.classifier import Classifier
from trainer.methods.base import WithReplay

ALPHA: Final = 0.01


class L2SP(WithReplay):
    """Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning", ICML 2018, arXiv 1802.01483."""

    name = "l2_sp"

    def penalty(self, model: Classifier, parent: Classifier) -> Tensor | None:
        """``alpha / 2 · Σ (w − w_parent)²`` over the encoder."""
        pairs = zip(model.encoder.parameters(), parent.encoder.parameters(), strict=True)
        squares = [(weight - start.detach()).pow(2).sum() for weight, start in pairs]
        return ALPHA / 2 * torch.stack(squares).sum()
