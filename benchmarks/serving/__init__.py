"""The serving benchmark: Ratchet beside its peers, its swaps, its batcher, and what overload and time do to it."""
