"""Near-duplicates: which texts are nearly the same, and what each of them may then be used for."""

from feedback.near.duplicates import NearDuplicates

__all__ = ["NearDuplicates"]
