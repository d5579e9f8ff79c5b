"""JSON Lines, and JSON arrays of objects, each row with the line that it begins on."""

import json
from collections.abc import Iterator
from typing import Any, Final

from feedback.intake.rows import BadSeedFile, RawRow, Source

_SPACE: Final = " \t\r\n"


def read_json_lines(document: bytes) -> Source:
    """One object a line; blank lines count for nothing. Faulty lines are noted and the others go on."""
    source = Source(format="JSON Lines")
    for number, line in enumerate(document.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            source.faults.append(f"line {number}: {error}")
            continue
        _add(source, number, row)
    return source


def read_json_array(name: str, document: bytes) -> Source:
    """An array of objects. What is behind a place that is no JSON cannot be read and is one fault.

    Raises:
        BadSeedFile: it is not UTF-8.
    """
    source = Source(format="JSON array")
    try:
        for number, row in _items(document.decode()):
            _add(source, number, row)
    except UnicodeDecodeError as error:
        raise BadSeedFile(f"{name} is not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        source.faults.append(f"line {error.lineno}: {error.msg} (column {error.colno}); nothing behind it was read")
    except RecursionError as error:
        source.faults.append(f"line 1: {error}")
    return source


def _items(text: str) -> Iterator[tuple[int, Any]]:
    """The items, each with the number of its line, counted from 1. Raises JSONDecodeError."""
    decoder = json.JSONDecoder()
    at = _next(text, text.index("[") + 1)
    counted, line = 0, 1
    if text[at : at + 1] == "]":
        return
    while True:
        line += text.count("\n", counted, at)
        counted = at
        item, at = decoder.raw_decode(text, at)
        yield line, item
        at = _next(text, at)
        mark = text[at : at + 1]
        if mark == "]":
            if text[at + 1 :].strip():
                raise json.JSONDecodeError("there is something behind the end of the array", text, at + 1)
            return
        if mark != ",":
            raise json.JSONDecodeError("expected ',' or ']'", text, at)
        at = _next(text, at + 1)


def _next(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _add(source: Source, number: int, row: Any) -> None:
    if isinstance(row, dict):
        source.rows.append(RawRow(where=f"line {number}", fields=row))
    else:
        source.faults.append(f"line {number}: not a JSON object")
