"""Seed data checked as a whole: each row read as feedback is read, faults and doubles counted, the sizes of the splits."""

import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import BadRecord, InvalidInput
from core.events import Inputs, Split
from core.examples import split_of
from core.examples.identity import ALWAYS_TRAINED
from core.masking import Masker
from core.settings import Settings
from core.tasks import get_task
from feedback.cleaning import Cleaner
from feedback.intake.columns import Columns, find_columns, number_of
from feedback.intake.folders import SPLIT_NAMES
from feedback.intake.reading import read_source
from feedback.intake.report import SHOWN, Validation
from feedback.intake.rows import BadSeedFile, RawRow, SeedOptions, Source
from feedback.reading import InputsReader


@dataclass(frozen=True, kw_only=True)
class Row:
    """One text with its label, as it is stored."""

    identity: str
    inputs: Inputs
    target: str
    #: the split that the data say, None: it is drawn
    split: Split | None = None

    def split_among(self, seen: int, settings: Settings) -> Split:
        """The split that it gets behind so many examples of its label: a label's first ones train."""
        if self.split is not None:
            return self.split
        if seen < ALWAYS_TRAINED:
            return Split.TRAIN
        return split_of(self.identity, holdout=settings.holdout_share, validation=settings.validation_share)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Seed data that were read, and what was found."""

    #: the same for the same content and options
    digest: str
    #: each text once
    rows: list[Row]
    found: Validation

    def whole(self) -> list[Row]:
        """The rows. Raises BadSeedFile where they must not be stored."""
        if self.found.problem is not None:
            raise BadSeedFile(self.found.problem)
        return self.rows


def check_seed(path: Path, settings: Settings, key: bytes | None, options: SeedOptions | None = None) -> Checked:
    """Read and check a file or folder; nothing is stored.

    Args:
        path: JSON Lines, a JSON array, CSV, Label Studio's export, or a folder of such files.
        settings: task, cleaning, masking and shares of the splits.
        key: of the HMACs that name examples; None: any, the splits are then those of another store.
        options: what a person says of the data.

    Raises:
        BadSeedFile: it cannot be read, or text and label cannot be told; faults of lines are in the report.
    """
    options = options or SeedOptions()
    source, digest = read_source(path, options)
    found = Validation(source=str(path), format=source.format, unlabelled=source.unlabelled)
    found.ties, found.first_ties = len(source.ties), source.ties[:SHOWN]
    rows: list[Row] = []
    faults = list(source.faults)
    if source.rows:
        columns = _columns(path, source, options)
        found.columns = columns.how
        rows = _read_rows(source, _RowReader(settings, key or secrets.token_bytes(32), columns, options), faults, found)
    found.rows = len(rows) + len(faults)
    found.faults, found.first_faults = len(faults), faults[:SHOWN]
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.identity, row)
    chosen = list(first.values())
    same = sum(first[row.identity].target == row.target for row in rows)
    found.taken, found.duplicates, found.conflicts = len(chosen), same - len(chosen), len(rows) - same
    found.labels = dict(Counter(row.target for row in chosen).most_common())
    found.splits = _split_sizes(chosen, settings)
    found.longest_text_chars = max((len(str(text)) for row in chosen for text in row.inputs.values()), default=0)
    found.notes = _notes(source, found, key, options)
    found.problem = _problem(found, options)
    return Checked(digest=digest, rows=chosen, found=found)


def _columns(path: Path, source: Source, options: SeedOptions) -> Columns:
    """The columns; where they cannot be told, what could not be read may be why."""
    try:
        return find_columns(str(path), source, options)
    except BadSeedFile as error:
        if not source.faults:
            raise
        unread = f"{len(source.faults)} lines could not be read, the first: {source.faults[0]}"
        raise BadSeedFile(f"{error} ({unread})") from error


def _read_rows(source: Source, reader: "_RowReader", faults: list[str], found: Validation) -> list[Row]:
    rows: list[Row] = []
    for raw in source.rows:
        try:
            rows.append(reader.read(raw))
        except InvalidInput as error:
            found.empty_texts += reader.is_empty(raw)
            faults.append(f"{raw.where}: {error}")
        except (ValueError, RecursionError, BadRecord) as error:
            faults.append(f"{raw.where}: {error}")
    faults.sort(key=_place)
    return rows


def _place(fault: str) -> tuple[str, int]:
    """File and line, so that what could not be read stands among what cannot be used, in the order of the lines."""
    head, _, _ = fault.partition(":")
    file, _, number = head.rpartition(" ")
    return file.replace("behind ", ""), int(number) if number.isdigit() else 0


def _split_sizes(rows: Iterable[Row], settings: Settings) -> dict[str, int]:
    seen: Counter[str] = Counter()
    sizes: Counter[str] = Counter(dict.fromkeys((Split.TRAIN, Split.VALIDATION, Split.HOLDOUT), 0))
    for row in rows:
        sizes[row.split_among(seen[row.target], settings)] += 1
        seen[row.target] += 1
    return {str(split): count for split, count in sizes.items()}


def _notes(source: Source, found: Validation, key: bytes | None, options: SeedOptions) -> list[str]:
    notes = []
    named = sorted({str(row.split) for row in source.rows if row.split not in (None, Split.TRAIN)})
    if named and not options.keep_splits:
        notes.append(
            f"files of {' and '.join(named)} are split by hash like the others; --keep-splits keeps their splits"
        )
    if found.labels and all(label.isdigit() for label in found.labels):
        notes.append("the labels are numbers without names; --label-column may name a column with words")
    if key is None:
        notes.append("the home has no key yet, so the sizes of the splits are a sample")
    return notes


def _problem(found: Validation, options: SeedOptions) -> str | None:
    if found.faults and not (options.skip_faults and found.taken):
        shown = "\n".join(f"  - {fault}" for fault in found.first_faults)
        more = f"\n  … and {found.faults - SHOWN} more" if found.faults > SHOWN else ""
        return f"{found.source}: {found.faults} of {found.rows} lines cannot be used:\n{shown}{more}"
    if not found.labels:
        return f"{found.source} has no labelled rows"
    if len(found.labels) < 2:
        return f"{found.source} has only {len(found.labels)} label; a classifier needs two or more"
    return None


class _RowReader:
    """Reads rows as feedback is read: cleaned, masked, checked."""

    def __init__(self, settings: Settings, key: bytes, columns: Columns, options: SeedOptions) -> None:
        self._task = get_task(settings.task)
        self._masker = Masker.of(settings.masking_policy)
        self._inputs = InputsReader(settings, key)
        self._cleaner = Cleaner.of(settings)
        self._columns = columns
        self._keep_splits = options.keep_splits

    def read(self, raw: RawRow) -> Row:
        """One row. Raises ValueError, RecursionError or BadRecord for what is none."""
        columns = self._columns
        for column in (columns.text, columns.label):
            if column not in raw.fields:
                raise ValueError(f"the field {column!r} is missing")
        inputs, identity = self._inputs.read(self._fields(raw))
        target = self._task.parse_target(self._masker.mask_document(self._label(raw.fields[columns.label])))
        return Row(identity=identity, inputs=inputs, target=target, split=self._split(raw))

    def is_empty(self, raw: RawRow) -> bool:
        """True for a row whose text holds nothing, or nothing that the cleaning leaves."""
        text = raw.fields.get(self._columns.text)
        if text is None or not isinstance(text, str):
            return text is None
        try:
            return not text.strip() or not self._cleaner.clean({"text": text})["text"]
        except InvalidInput:
            return False

    def _fields(self, raw: RawRow) -> Inputs:
        """The task's fields: of several, the first is the text that was looked for, the others have their own names."""
        first, *others = self._task.input_fields
        return {first: raw.fields[self._columns.text]} | {
            name: raw.fields[name] for name in others if name in raw.fields
        }

    def _label(self, value: Any) -> Any:
        columns = self._columns
        number = number_of(value) if columns.numbers else None
        if number is None:
            return value
        if not columns.names:
            return str(value)
        if not 0 <= number < len(columns.names):
            raise ValueError(f"the label is {number}, but the data set names {len(columns.names)} labels, from 0")
        return columns.names[number]

    def _split(self, raw: RawRow) -> Split | None:
        if not self._keep_splits:
            return None
        said = raw.fields.get("split")
        return SPLIT_NAMES.get(said.strip().lower(), raw.split) if isinstance(said, str) else raw.split
