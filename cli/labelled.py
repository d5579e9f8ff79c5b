"""Labelled JSON Lines for playing and scoring."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import BadRecord, RatchetError
from core.events import Inputs
from core.tasks import Task


class BadFile(RatchetError):
    """The file cannot be used."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row: a task's inputs and what the answer should be."""

    inputs: Inputs
    target: Any


def read_labelled(path: Path, task: Task, *, limit: int | None = None) -> list[Labelled]:
    """The rows of a file. Raises BadFile with the first faulty line, or where there is none at all."""
    rows: list[Labelled] = []
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                rows.append(_row(line, task, f"{path}, line {number}"))
                if limit is not None and len(rows) == limit:
                    break
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is not UTF-8: {error}") from error
    if not rows:
        raise BadFile(f"{path} has no rows")
    return rows


def _row(line: str, task: Task, where: str) -> Labelled:
    try:
        document = json.loads(line)
        fields = {name: document[name] for name in task.input_fields}
        inputs = task.parse_inputs(fields, max_chars=1_000_000)
        return Labelled(inputs=inputs, target=task.parse_target(document[task.target_field]))
    except KeyError as error:
        raise BadFile(f"{where}: the field {error} is missing") from error
    except (ValueError, TypeError, RecursionError, BadRecord) as error:
        raise BadFile(f"{where}: {error}") from error
