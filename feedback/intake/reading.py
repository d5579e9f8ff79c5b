"""From a file or a folder to rows: the form is known by the name's ending and by how the content begins."""

import codecs
import hashlib
from pathlib import Path
from typing import Final

from feedback.intake.folders import class_names, data_files
from feedback.intake.json_files import read_json_array, read_json_lines
from feedback.intake.label_studio import is_task, read_tasks
from feedback.intake.parquet import read_parquet
from feedback.intake.rows import BadSeedFile, SeedOptions, Source
from feedback.intake.tables import read_table

_LINES: Final = (".jsonl", ".ndjson")
_TABLES: Final = {".csv": None, ".tsv": "\t", ".tab": "\t"}


def read_source(path: Path, options: SeedOptions) -> tuple[Source, str]:
    """What a file or folder holds, and a digest (hex) of its content and of the options.

    Raises:
        BadSeedFile: it cannot be read at all; faults of single lines are in the source.
    """
    if not path.is_dir():
        document = _content(path)
        digest = hashlib.sha256(document)
        if options != SeedOptions():
            digest.update(repr(options).encode())
        return _read(path, document, options), digest.hexdigest()
    digest = hashlib.sha256(repr(options).encode())
    names = class_names(path)
    whole: Source | None = None
    for file, split in data_files(path):
        document = _content(file)
        name = str(file.relative_to(path))
        digest.update(name.encode() + b"\0" + hashlib.sha256(document).digest())
        part = _read(file, document, options)
        whole = whole or Source(format=f"folder of {part.format}")
        whole.add(part, file=name, split=split)
    if whole is None:
        raise BadSeedFile(f"{path} has no data files")
    whole.names = {**whole.names, **names}
    return whole, digest.hexdigest()


def _content(path: Path) -> bytes:
    try:
        document = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise BadSeedFile(f"{path} cannot be read: {error.strerror}") from error
    if not document.strip():
        raise BadSeedFile(f"{path} is empty")
    return document


def _read(path: Path, document: bytes, options: SeedOptions) -> Source:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(path)
    if suffix in _TABLES:
        return read_table(str(path), document, delimiter=_TABLES[suffix])
    is_array = suffix not in _LINES and document.lstrip()[:1] == b"["
    source = read_json_array(str(path), document) if is_array else read_json_lines(document)
    if any(is_task(row.fields) for row in source.rows[:1]):
        return read_tasks(str(path), source, question=options.label_column)
    return source
