"""The first examples: a user's labelled JSON Lines, checked as a whole, then stored."""

import codecs
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.errors import BadRecord, RatchetError
from core.events import Example, Inputs, Origin, Split, now
from core.examples import ExampleBatch, ExampleStore, Rank, StoreTransaction, split_of
from core.examples.identity import ALWAYS_TRAINED
from core.masking import Masker
from core.settings import Settings
from core.tasks import get_task
from feedback.near import NearDuplicates
from feedback.reading import InputsReader

_CHUNK: Final = 500
_SHOWN: Final = 10


class BadSeedFile(RatchetError):
    """The seed file cannot be used."""


@dataclass(frozen=True, kw_only=True)
class SeedReport:
    """What an import did."""

    rows: int
    stored: int
    duplicates: int
    #: the same text with another label: the first one holds
    conflicts: int
    labels: int


@dataclass(frozen=True, kw_only=True)
class _Row:
    identity: str
    inputs: Inputs
    target: str


def import_seed(
    store: ExampleStore, path: Path, settings: Settings, key: bytes, progress: Callable[[int, int], None]
) -> SeedReport:
    """Store a file's examples; one that was imported before is only read.

    Args:
        store: where to.
        path: JSON Lines with the task's fields and target, e.g. ``{"text": …, "label": …}``.
        settings: task and shares of the splits.
        key: of the HMACs that name examples.
        progress: told the rows stored and the rows in all.

    Raises:
        BadSeedFile: it cannot be read or has faulty lines; all of them are counted, the first ten named, nothing is stored.
    """
    document = _read(path)
    rows = _parse(path, document, settings, key)
    first: dict[str, _Row] = {}
    for row in rows:
        first.setdefault(row.identity, row)
    mark = f"seed:{hashlib.sha256(document).hexdigest()[:14]}"
    same = sum(first[row.identity].target == row.target for row in rows)
    chosen = list(first.values())
    labels = Counter(row.target for row in chosen)
    if len(labels) < 2:
        raise BadSeedFile(f"{path} has only {len(labels)} label; a classifier needs two or more")
    stored = 0
    near = NearDuplicates(key, model=settings.model, copies=settings.near_copies)
    # One transaction: killed in the middle, nothing of the file is there, and the next start stores all of it.
    with store.transaction() as transaction:
        fresh = [] if transaction.is_marked(mark) else chosen
        for start in range(0, len(fresh), _CHUNK):
            stored += _store(transaction, fresh[start : start + _CHUNK], settings, near)
            progress(min(start + _CHUNK, len(fresh)), len(fresh))
        transaction.mark(mark)
    return SeedReport(
        rows=len(rows),
        stored=stored,
        duplicates=same - len(chosen),
        conflicts=len(rows) - same,
        labels=len(labels),
    )


def _store(transaction: StoreTransaction, rows: Sequence[_Row], settings: Settings, near: NearDuplicates) -> int:
    batch = ExampleBatch(transaction, example_ids=[row.identity for row in rows], targets=[])
    at = now()
    for row in rows:
        if batch.example(row.identity):
            continue
        split = split_of(row.identity, holdout=settings.holdout_share, validation=settings.validation_share)
        if batch.counts.get(row.target, 0) < ALWAYS_TRAINED:
            split = Split.TRAIN
        example = Example(
            model=settings.model,
            example_id=row.identity,
            seq=0,
            task=settings.task,
            inputs=row.inputs,
            target=row.target,
            origin=Origin.SEED,
            split=split,
            selection_score=1.0,
            selection_reason="seed",
            sources=["seed"],
        )
        batch.put_example(example, target_at=at, target_by="seed")
        batch.draw(row.identity, Rank.SEED, split)
    near.place(transaction, batch)
    batch.flush()
    return len(batch.draws)


def _read(path: Path) -> bytes:
    try:
        document = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise BadSeedFile(f"{path} cannot be read: {error.strerror}") from error
    if not document.strip():
        raise BadSeedFile(f"{path} is empty")
    return document


def _parse(path: Path, document: bytes, settings: Settings, key: bytes) -> list[_Row]:
    reader = _Reader(settings, key)
    rows: list[_Row] = []
    faults: list[str] = []
    for number, line in enumerate(document.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(reader.read(line))
        except (ValueError, RecursionError, BadRecord) as error:
            faults.append(f"line {number}: {error}")
    if faults:
        shown = "\n".join(f"  - {fault}" for fault in faults[:_SHOWN])
        more = f"\n  … and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise BadSeedFile(f"{path}: {len(faults)} of {len(faults) + len(rows)} lines cannot be used:\n{shown}{more}")
    return rows


class _Reader:
    """Reads lines as feedback is read: cleaned, masked, checked."""

    def __init__(self, settings: Settings, key: bytes) -> None:
        self._task = get_task(settings.task)
        self._masker = Masker.of(settings.masking_policy)
        self._inputs = InputsReader(settings, key)

    def read(self, line: bytes) -> _Row:
        """One line. Raises ValueError, RecursionError or BadRecord for what is none."""
        task = self._task
        row: Any = json.loads(line.decode())
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004  # a fault of the file, told like the others
        if task.target_field not in row:
            raise ValueError(f"the field {task.target_field!r} is missing")
        fields = {name: row[name] for name in task.input_fields if name in row}
        inputs, identity = self._inputs.read(fields)
        target = task.parse_target(self._masker.mask_document(row[task.target_field]))
        return _Row(identity=identity, inputs=inputs, target=target)
