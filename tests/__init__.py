"""The tests of Ratchet."""
