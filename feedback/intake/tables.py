"""CSV and its like: the delimiter is found out, quoted texts may go over several lines.

A cell that a spreadsheet would run as a formula is written with a quote mark before it, and our own exports are read
back without it. <https://owasp.org/www-community/attacks/CSV_Injection>
"""

import csv
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from feedback.intake.rows import BadSeedFile, RawRow, Source

EXPORTED_COLUMNS: Final = ("origin", "split", "trust", "sources")
"""The last columns of our own exports, by which they are known."""
_DELIMITERS: Final = ",;\t|"
_LOOKED_AT: Final = 50
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED: Final = re.compile(r"'+[=+\-@\t\r]")


def escape_cell(text: str) -> str:
    """The text as a spreadsheet takes it for a text; ``unescape_cell`` gives it back."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_cell(cell: str) -> str:
    """What ``escape_cell`` was given."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def read_table(name: str, document: bytes, *, delimiter: str | None = None) -> Source:
    """A table whose first row names its columns; rows with too many or too few cells are noted as faults.

    Args:
        name: of the file, for errors.
        document: UTF-8.
        delimiter: between cells; None: whichever of comma, semicolon, tab and bar makes rows of one length.

    Raises:
        BadSeedFile: not UTF-8, or without a head of two or more columns, each with a name of its own.
    """
    try:
        text = document.decode()
    except UnicodeDecodeError as error:
        line = document.count(b"\n", 0, error.start) + 1
        raise BadSeedFile(f"{name}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    delimiter = delimiter or _sniff(text)
    source = Source(format={",": "CSV", "\t": "TSV"}.get(delimiter, f"CSV with {delimiter!r}"))
    records = _records(text, delimiter)
    try:
        _, head = next(records)
    except (csv.Error, StopIteration) as error:
        raise BadSeedFile(f"{name}, line 1: no head that names the columns") from error
    columns = [cell.strip() for cell in head]
    if len(columns) < 2 or len(set(columns)) < len(columns) or not all(columns):
        raise BadSeedFile(
            f"{name}, line 1: the columns are {', '.join(map(repr, columns))}; "
            "the first line must name two or more columns, each with another name"
        )
    ours = tuple(columns[-len(EXPORTED_COLUMNS) :]) == EXPORTED_COLUMNS
    began = 1
    try:
        for began, cells in records:
            if len(cells) != len(columns):
                source.faults.append(f"line {began}: {len(cells)} cells, but the head names {len(columns)} columns")
                continue
            values = map(unescape_cell, cells) if ours else cells
            source.rows.append(RawRow(where=f"line {began}", fields=dict(zip(columns, values, strict=True))))
    except csv.Error as error:
        source.faults.append(
            f"behind line {began}: {error}; a quote mark is open or out of place, nothing more was read"
        )
    return source


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every record that is not blank, with the line that it begins on. Raises csv.Error."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    began = 1
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield began, cells
        began = reader.line_num + 1


def _sniff(text: str) -> str:
    """The delimiter by which most rows are as long as the head, and the head is longest."""
    return max(_DELIMITERS, key=lambda delimiter: _fit(text, delimiter))


def _fit(text: str, delimiter: str) -> tuple[float, int]:
    lengths: list[int] = []
    with suppress(csv.Error):  # judged by what came before
        lengths.extend(len(cells) for _, cells in islice(_records(text, delimiter), _LOOKED_AT))
    if not lengths or lengths[0] < 2:
        return (0.0, 0)
    return (sum(length == lengths[0] for length in lengths) / len(lengths), lengths[0])
