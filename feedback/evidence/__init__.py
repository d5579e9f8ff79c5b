"""Evidence on who is right, user or model: one published method a file, weighed together by :func:`claim_scores`."""

from feedback.evidence.combined import THRESHOLD, Claims, claim_scores

__all__ = ["THRESHOLD", "Claims", "claim_scores"]
