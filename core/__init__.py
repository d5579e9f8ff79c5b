"""What two or more of Ratchet's programs share. Never imports torch, transformers or bentoml."""
