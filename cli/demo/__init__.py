"""The demo data that travels with Ratchet."""
