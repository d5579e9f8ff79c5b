"""Labelled data of a user's own, in whatever form it comes: read, its columns found, checked as a whole."""

from feedback.intake.checking import Checked, Row, check_seed
from feedback.intake.report import Validation
from feedback.intake.rows import BadSeedFile, SeedOptions

__all__ = ["BadSeedFile", "Checked", "Row", "SeedOptions", "Validation", "check_seed"]
