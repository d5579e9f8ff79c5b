"""Parquet files, where the package ``pyarrow`` happens to be installed."""

import importlib
import json
from pathlib import Path
from typing import Any

from feedback.intake.folders import names_of
from feedback.intake.rows import BadSeedFile, RawRow, Source


def read_parquet(path: Path) -> Source:
    """The rows, counted from 1, and the names of classes that the datasets library left in the file.

    Raises:
        BadSeedFile: ``pyarrow`` is not installed, or cannot read it.
    """
    try:
        arrow: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadSeedFile(
            f"{path} is Parquet, which needs the package pyarrow: install it, or save the data as JSON Lines or CSV"
        ) from error
    try:
        table = arrow.read_table(path)
        rows = [RawRow(where=f"row {number}", fields=row) for number, row in enumerate(table.to_pylist(), start=1)]
        about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise BadSeedFile(f"{path} cannot be read: {error}") from error
    return Source(format="Parquet", rows=rows, names=names_of(about.get("info", {}).get("features")))
