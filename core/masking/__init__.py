"""Masking: personal data and keys in texts become placeholders before anything is written, and before a model sees them."""

from core.masking.masker import Masker
from core.masking.policy import Policy

__all__ = ["Masker", "Policy"]
