"""The report as one page that needs nothing else: no script, nothing from elsewhere, light and dark, also on a phone."""

from html import escape
from typing import Final

from cli.data_report.record import Report
from cli.data_report.sections import Section, Table, sections

_STYLE: Final = """
:root {
  --ground: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5c6778; --line: #dfe3ea; --warn: #8a5a00; --bar: #dbe5ff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #11151c; --card: #1a202b; --ink: #e8ecf3; --soft: #9aa6b8; --line: #2c3442; --warn: #f0c36d; --bar: #24365f;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 24px 16px 64px; display: grid; gap: 16px; }
main > * { min-width: 0; }
h1 { margin: 0; font-size: 24px; letter-spacing: -0.02em; }
h2 { margin: 0 0 8px; font-size: 16px; }
p { margin: 0 0 8px; color: var(--soft); overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; }
.wide { overflow-x: auto; max-height: 70vh; margin-top: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--soft); white-space: nowrap;
  position: sticky; top: 0; background: var(--card); }
th, td { padding: 6px 12px 6px 0; border-top: 1px solid var(--line); vertical-align: top; }
td { min-width: 6ch; overflow-wrap: anywhere; }
td:first-child, .long { min-width: 16ch; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.bar { background: linear-gradient(var(--bar), var(--bar)) no-repeat; padding-left: 6px; }
.marked td { color: var(--warn); }
"""
_LONG: Final = 40
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render_page(report: Report) -> str:
    """A whole HTML document. Texts, labels and reasons come from anybody: each is escaped where it is put in."""
    version = report.version or "none"
    about = f"Model {report.model}, live version {version}, {report.examples:,} examples, {report.at}"
    parts = "\n".join(_section(section) for section in sections(report))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Ratchet: data report</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<header><h1>Data report</h1><p>{escape(about)}</p></header>
{parts}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in section.notes)
    return f"<section><h2>{escape(section.title)}</h2>{notes}{''.join(map(_table, section.tables))}</section>"


def _table(table: Table) -> str:
    numbers = [name.startswith("#") for name in table.columns]
    heads = "".join(
        f"<th{_class('number' if number else '')}>{escape(name.removeprefix('#'))}</th>"
        for name, number in zip(table.columns, numbers, strict=True)
    )
    rows = "".join(_row(table, place, numbers) for place in range(len(table.rows)))
    # a region that scrolls must be reachable by keyboard
    return f'<div class="wide" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(table: Table, place: int, numbers: list[bool]) -> str:
    cells = []
    for column, (cell, number) in enumerate(zip(table.rows[place], numbers, strict=True)):
        kind, style = "number" if number else "long" if len(cell) > _LONG else "", ""
        if column == 0 and table.bars:
            kind, style = "bar", f' style="background-size: {table.bars[place]:.1%} 100%"'
        cells.append(f"<td{_class(kind)}{style}><bdi>{escape(cell)}</bdi></td>")
    return f"<tr{_class('marked' if place in table.marked else '')}>{''.join(cells)}</tr>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
