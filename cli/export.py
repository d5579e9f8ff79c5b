"""``ratchet export``: the example store as JSON Lines, CSV or Label Studio's JSON; it is only read."""

import csv
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from core.errors import RatchetError
from core.events import Example, Origin, Split
from core.examples import ExampleStore
from core.settings import Settings, entry
from core.tasks import Task, get_task
from feedback.intake.tables import EXPORTED_COLUMNS, escape_cell
from feedback.near.rules import REJECTED

_PAGE: Final = 5_000


class NothingStored(RatchetError):
    """There is no example store to export from."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which examples are exported; empty: all."""

    splits: Collection[Split] = ()
    origins: Collection[Origin] = ()

    def holds(self, example: Example) -> bool:
        """True for what is exported."""
        in_split = not self.splits or example.split in self.splits
        return in_split and (not self.origins or example.origin in self.origins)


def export(settings: Settings, format_name: str, wanted: Wanted, out: Path | None) -> int:
    """Write the examples in the order in which they came to be as they are; returns how many.

    Args:
        settings: which store, model and task.
        format_name: ``jsonl``, ``csv`` or ``label-studio``.
        wanted: which of them.
        out: where to; None: standard output.

    Raises:
        BadSettings: no such format, or the file cannot be written.
        NothingStored: there is no store yet.
    """
    write = entry(FORMATS, format_name, "format")
    if not settings.examples_url and not (settings.home / "examples.db").exists():
        raise NothingStored(f"{settings.home} has no example store; --home says where else to look")
    count = 0

    def counted(examples: Iterable[Example]) -> Iterator[Example]:
        nonlocal count
        for example in examples:
            count += 1
            yield example

    with (
        closing(ExampleStore(settings.example_store_url, settings.model)) as store,
        # csv ends its lines itself, and a byte order mark would stand before the first column's name
        out.open("w", encoding="utf-8", newline="") if out else nullcontext(sys.stdout) as file,
    ):
        write(counted(_examples(store, wanted)), get_task(settings.task), file)
    return count


def _examples(store: ExampleStore, wanted: Wanted) -> Iterator[Example]:
    """Page by page, each once: one that changes meanwhile goes to the end, and is told there if it was not told before."""
    after, seen = 0, set[str]()
    while (newest := store.new_examples(after=after).newest_seq) > after:
        through = min(after + _PAGE, newest)
        for example in store.examples(after=after, through=through):
            is_wrong = example.split_reason == REJECTED  # another store would believe its label
            if wanted.holds(example) and not is_wrong and example.example_id not in seen:
                seen.add(example.example_id)
                yield example
        after = through


def _row(example: Example, task: Task) -> dict[str, Any]:
    about = {"origin": example.origin, "split": example.split, "trust": example.trust, "sources": example.sources}
    inputs = {name: example.inputs[name] for name in task.input_fields if name in example.inputs}
    return {**inputs, task.target_field: example.target, **about}


def write_json_lines(examples: Iterable[Example], task: Task, file: TextIO) -> None:
    """One object a line."""
    for example in examples:
        file.write(json.dumps(_row(example, task), ensure_ascii=False) + "\n")


def write_csv(examples: Iterable[Example], task: Task, file: TextIO) -> None:
    """A head, then a row each; sources as JSON, and no cell that a spreadsheet would run (see ``escape_cell``)."""
    columns = [*task.input_fields, task.target_field, *EXPORTED_COLUMNS]
    table = csv.DictWriter(file, columns, restval="")
    table.writeheader()
    for example in examples:
        row = _row(example, task) | {"sources": json.dumps(example.sources)}
        table.writerow({name: escape_cell(str(value)) for name, value in row.items()})


def write_label_studio(examples: Iterable[Example], task: Task, file: TextIO) -> None:
    """Tasks with one annotation, for a labelling interface whose text and choices are named as the task's fields are."""
    file.write("[")
    for place, example in enumerate(examples):
        row = _row(example, task)
        result = {
            "type": "choices",
            "from_name": task.target_field,
            "to_name": task.input_fields[0],
            "value": {"choices": [row.pop(task.target_field)]},
        }
        annotation = {"was_cancelled": False, "result": [result]}
        document = {"data": row, "annotations": [annotation]}
        file.write((",\n" if place else "\n") + json.dumps(document, ensure_ascii=False))
    file.write("\n]\n")


Writer = Callable[[Iterable[Example], Task, TextIO], None]

FORMATS: Final[dict[str, Writer]] = {
    "jsonl": write_json_lines,
    "csv": write_csv,
    "label-studio": write_label_studio,
}
