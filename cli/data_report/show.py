"""The report in a terminal."""

from typing import Final

from rich.console import Console
from rich.table import Table as RichTable

from cli.data_report.record import Report
from cli.data_report.sections import Section, Table, sections

_ROWS: Final = 40


def print_report(report: Report, console: Console) -> None:
    """Tables with their notes; of a long one the first rows."""
    version = report.version or "none"
    console.print(f"model {report.model}, live version {version}, {report.examples:,} examples, {report.at}")
    for section in sections(report):
        _print(section, console)


def _print(section: Section, console: Console) -> None:
    console.print(f"\n{section.title}", style="bold")
    for note in section.notes:
        console.print(_plain(note))
    for table in section.tables:
        console.print(_made(table))
        if len(table.rows) > _ROWS:
            console.print(f"and {len(table.rows) - _ROWS} more; --json and --html have all")


def _made(table: Table) -> RichTable:
    made = RichTable()
    for name in table.columns:
        made.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for place, row in enumerate(table.rows[:_ROWS]):
        made.add_row(*map(_plain, row), style="yellow" if place in table.marked else None)
    return made


def _plain(text: str) -> str:
    """Without control characters: what users wrote must not move the cursor or colour the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
