"""``ratchet data report``: what is in the example store, as tables and as a page."""
