"""Measurements, kept with the commands that made them; the results are in LOG.md."""
