"""What is said of each part of the report, in which order: the terminal and the page show the same."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cli.data_report.record import RARE, Count, Coverage, Report, Suspects

_WEAK: Final = 0.3
"""No people label worse than that."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells. Columns whose name begins with ``#`` hold numbers (the sign is not shown)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    #: a bar of this length, 0 to 1, behind each row's first cell; empty: no bars
    bars: tuple[float, ...] = ()
    #: rows that deserve attention
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the report."""

    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def sections(report: Report) -> tuple[Section, ...]:
    """The whole report in words and tables."""
    return (
        _labels(report),
        Section(title="Where examples come from", tables=_tables("origin", report.origins)),
        _trust(report),
        Section(
            title="Script",
            notes=(
                f"The script of most letters of a text, in {report.scripts.looked_at:,} texts; languages are not told apart.",
            ),
            tables=_tables("script", report.scripts.counts),
        ),
        _duplicates(report),
        _refused(report),
        _suspects(report.suspects),
        _coverage(report.coverage),
        _drift(report),
    )


def _tables(name: str, counts: Sequence[Count]) -> tuple[Table, ...]:
    """One table, or none where there is nothing to count."""
    if not counts:
        return ()
    total = sum(item.count for item in counts)
    rows = tuple((item.name, f"{item.count:,}", f"{item.count / total:.1%}") for item in counts)
    return (
        Table(columns=(name, "#examples" if name != "reason" else "#times", "#share"), rows=rows, bars=_bars(counts)),
    )


def _bars(counts: Sequence[Count]) -> tuple[float, ...]:
    most = max((item.count for item in counts), default=1)
    return tuple(item.count / most for item in counts)


def _labels(report: Report) -> Section:
    if not report.labels:
        return Section(title="Labels", notes=("There are no examples yet.",))
    most = report.labels[0].total
    rare = frozenset(place for place, row in enumerate(report.labels) if row.rare)
    note = f"{len(rare)} of {len(report.labels)} labels are rare: fewer than {RARE} of their examples train."
    rows = tuple(
        (row.label, *(f"{number:,}" for number in (row.total, row.train, row.validation, row.holdout, row.barred)),
         "rare" if row.rare else "")
        for row in report.labels
    )  # fmt: skip
    columns = ("label", "#examples", "#train", "#validation", "#holdout", "#barred", "")
    bars = tuple(row.total / most for row in report.labels)
    return Section(title="Labels", notes=(note,), tables=(Table(columns=columns, rows=rows, bars=bars, marked=rare),))


def _trust(report: Report) -> Section:
    note = (
        "trusted: the seed and trusted keys; earned: other sources that were believed; "
        "none: nobody said so, as with pseudo-labels and signals."
    )
    return Section(title="Trust", notes=(note,), tables=_tables("trust", report.trust))


def _duplicates(report: Report) -> Section:
    found = report.duplicates
    notes = (
        f"{found.exact:,} times feedback said what was known already.",
        f"{found.near_texts:,} examples are nearly the same as another one ({found.near_pairs:,} pairs).",
        "Examples that are kept but neither train nor judge, by reason:" if found.barred else "No example is barred.",
    )
    return Section(title="Duplicates", notes=notes, tables=_tables("reason", found.barred))


def _refused(report: Report) -> Section:
    found = report.refused
    notes = (
        f"{found.claims:,} claims were put into quarantine; {found.confirmed:,} of them are their example's label by now.",
        f"{found.unmatched:,} times the prediction that feedback was about never came.",
        "By reason, where numbers in it are written N:" if found.quarantined or found.rejected else "",
    )
    kinds = (("quarantined because", found.quarantined), ("rejected because", found.rejected))
    tables = tuple(
        Table(
            columns=(name, "#times"), rows=tuple((item.name, f"{item.count:,}") for item in counts), bars=_bars(counts)
        )
        for name, counts in kinds
        if counts
    )
    return Section(title="Quarantined and rejected", notes=_said(notes), tables=tables)


def _suspects(found: Suspects) -> Section:
    title = "Labels that may be wrong"
    passed_over = f"{found.passed_over:,} more are of labels with too few examples." if found.passed_over else ""
    if found.missing:
        return Section(title=title, notes=_said((f"Not known: {found.missing}.", passed_over)))
    share = found.suspects / found.examined
    notes = (
        f"{found.suspects:,} of {found.examined:,} examples that were examined ({share:.1%}): "
        "a head fitted on all others is surer of another label. The margin says by how much; look at the largest first.",
        "So many say more of the model than of the labels: it does not tell them apart yet." if share > _WEAK else "",
        passed_over,
    )
    rows = tuple((row.text, row.label, row.likely, f"{row.margin:.2f}", row.example_id) for row in found.most)
    columns = ("text", "label", "likely", "#margin", "example")
    return Section(title=title, notes=_said(notes), tables=(Table(columns=columns, rows=rows),) if rows else ())


def _coverage(found: Coverage) -> Section:
    notes = [
        _listed("The live model's labels without an example that trains", found.without_examples),
        _listed("Labels of examples that the live model does not know", found.not_known),
    ]
    if found.missing:
        return Section(title="Coverage", notes=_said((f"Not known: {found.missing}.", *notes)))
    notes.append(
        f"{found.far_share:.1%} of the newest {found.predictions:,} predictions are far from every labelled example "
        f"(cosine below {found.threshold:.2f}); {found.expected:.0%} would be usual. What is far, nothing labelled covers."
    )
    rows = tuple((far.text, f"{far.likeness:.2f}") for far in found.farthest)
    tables = (Table(columns=("farthest texts", "#cosine"), rows=rows),) if rows else ()
    return Section(title="Coverage", notes=_said(notes), tables=tables)


def _drift(report: Report) -> Section:
    notes = (
        "Distances of newer texts from the seed: total variation of labels, the largest gap of the length distributions, "
        "the distance of mean embeddings. Chance alone would exceed the figure beside it one time in twenty.",
        "Of predictions the label is the model's; corrections are where it was wrong, so their labels differ from all texts'.",
        "" if report.version else "Meaning is not compared: there is no live model to compare by.",
    )
    rows = tuple(
        (row.what, row.of, f"{row.seed:,} / {row.others:,}", _figure(row.distance), _figure(row.chance),
         "–" if row.p_value is None else f"{row.p_value:.3f}", row.meaning)
        for row in report.drift
    )  # fmt: skip
    columns = ("what", "seed against", "#texts", "#distance", "#by chance", "#p", "meaning")
    return Section(title="Drift against the seed", notes=_said(notes), tables=(Table(columns=columns, rows=rows),))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _listed(what: str, labels: Sequence[str], *, shown: int = 20) -> str:
    if not labels:
        return ""
    more = f" and {len(labels) - shown} more" if len(labels) > shown else ""
    return f"{what}: {', '.join(labels[:shown])}{more}."


def _said(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(note for note in notes if note)
