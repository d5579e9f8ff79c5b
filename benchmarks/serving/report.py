"""The comparison as a Markdown page with its plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.serving.plot import Series, line_plots
from benchmarks.serving.stats import Spread, difference, ratio, spread
from benchmarks.serving.subjects import REQUIREMENTS, SUBJECTS

if TYPE_CHECKING:
    from benchmarks.serving.compare import Found

CLOSED: Final = ("c1", "c8", "c32", "c128")
OPEN: Final = ("o50%", "o70%", "o90%")
_BASE: Final = "uvicorn"
_RATCHET: Final = "ratchet"

_HOW: Final = """
## How it is measured

- One machine for servers and load, loopback only. The load generator (`benchmarks/serving/load.py`) is a process of its own;
  the share of a core that it took is above.
- Distinct texts, one a request. Every server has the same `model.onnx`, tokenizer and texts, two threads or processes of
  one ONNX Runtime thread each, and answers with the best five labels. The peers are set up as their own documentation
  advises (`benchmarks/serving/peers`).
- Ratchet does more a request than any of them: validation, authentication, a prediction id, the record to the log, metrics.
- Rounds are interleaved and rotate; whoever is not measured is stopped. Ratios are taken round by round: median [lowest,
  highest round], and a 95 % bootstrap interval of the median where it says so.
- Closed loop: each of N connections sends its next request when it has its answer. Open loop: Poisson arrivals at a share of
  the server's own saturation (its best closed-loop throughput in the first round); latency counts from the time at which a
  request was meant to be sent, so that a stall is felt by all who would have come meanwhile (no coordinated omission).
- Raw ONNX Runtime: two callers of one session, one thread each, batches of 16 in the order of arrival, tokenized
  beforehand, no HTTP; for many texts in one request: 256 at a time, sorted by length, tokenization included.

## How to reproduce it

```bash
make bench                                    # the demo data; a fresh table in .bench/report
make bench ARGS="--quick --only ratchet uvicorn"
make bench ARGS="--data FOLDER --out docs/benchmarks"   # a folder with train.jsonl and test.jsonl
```

Peers, in an environment of their own: PEERS.
"""


def write_report(results: "Mapping[str, Found]", facts: Mapping[str, Any], folder: Path) -> Path:
    """Write ``serving.md`` and ``serving.svg``; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = ", ".join(f"{name} {value}" for name, value in facts.items())
    page = f"# Serving: Ratchet and its peers\n\n{shown}.\n\n![throughput and latency](serving.svg)\n"
    for precision, found in results.items():
        page += f"\n## {precision}\n\n{_throughput(found)}\n{_latency(found)}\n{_targets(found)}"
    peers = ", ".join(line for line in REQUIREMENTS.read_text(encoding="utf-8").split("\n") if "==" in line)
    page += _HOW.replace("PEERS", peers)
    path = folder / "serving.md"
    path.write_text(page, encoding="utf-8")
    (folder / "serving.svg").write_text(line_plots(list(_plots(results))), encoding="utf-8")
    return path


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _present(found: "Found") -> list[tuple[str, str]]:
    return [(subject.name, subject.title) for subject in SUBJECTS if subject.name in found.rounds]


def _throughput(found: "Found") -> str:
    limit = [row["arriving"] for row in found.limit]
    rows = [["raw ONNX Runtime (the limit)", f"{spread(limit).median:.0f} texts/s", "", "", "", "", "1.00", ""]]
    for name, title in _present(found):
        cells = [f"{spread(found.column(name, at, 'throughput')).median:.0f}" for at in CLOSED]
        best = found.column(name, "c128", "throughput")
        of_base = ratio(best, found.column(_BASE, "c128", "throughput")) if _BASE in found.rounds else None
        cpu = f"{spread(found.cpu_ms[name]).median:.2f}"
        rows.append([title, *cells, _show(of_base), _show(ratio(best, limit)), cpu])
    head = (
        "server",
        "req/s at 1",
        "8",
        "32",
        "128",
        "of bare uvicorn at 128",
        "of raw ONNX Runtime at 128",
        "CPU ms a request",
    )
    return _table(head, rows)


def _latency(found: "Found") -> str:
    rows = []
    for name, title in _present(found):
        cells = []
        for at in (*CLOSED, *OPEN):
            if not found.column(name, at, "throughput"):
                cells.append("")
                continue
            p50, p99 = (spread(found.column(name, at, "latency_ms", share)).median for share in ("p50", "p99"))
            cells.append(f"{p50:.1f} / {p99:.1f}")
        rows.append([title, *cells, f"{_lost(found, name)}"])
    head = ("p50 / p99 in ms", "at 1", "8", "32", "128", "open 50 %", "70 %", "90 %", "failed")
    return _table(head, rows)


def _lost(found: "Found", name: str) -> int:
    """Requests that got no good answer, over all measurements."""
    summaries = [summary for rows in found.rounds[name].values() for summary in rows]
    return sum(summary["requests"] - summary["good"] + summary["not_sent"] for summary in summaries)


def targets(found: "Found") -> dict[str, Spread]:
    """The figures that the project has set itself, as far as what they compare with was measured."""
    shown: dict[str, Spread] = {}
    for at in ("c32", "c128"):
        ours = found.column(_RATCHET, at, "throughput")
        for name, _ in _present(found):
            if name != _RATCHET:
                shown[f"throughput at {at[1:]}, of {name}"] = ratio(ours, found.column(name, at, "throughput"))
    if _BASE in found.rounds:
        at_one = (found.column(name, "c1", "latency_ms", "p50") for name in (_RATCHET, _BASE))
        shown["p50 at 1, ms above uvicorn"] = difference(*at_one)
        tails = (found.column(name, "c32", "latency_ms", "p99") for name in (_RATCHET, _BASE))
        shown["p99 at 32, of uvicorn's"] = ratio(*tails)
    limit = [row["many"] for row in found.limit]
    for at in ("many1", "many2"):
        # Little's law: whole requests are too long to be counted in a window of seconds
        means = found.column(_RATCHET, at, "latency_ms", "mean")
        texts = [256 * int(at[4:]) / (mean / 1e3) for mean in means]
        if texts:
            shown[f"256 texts a request on {at[4:]} connection(s), of raw ONNX Runtime"] = ratio(texts, limit)
    return shown


def _targets(found: "Found") -> str:
    if _RATCHET not in found.rounds:
        return ""
    rows = [
        [
            name,
            f"{value.median:.2f}",
            f"{value.low:.2f} to {value.high:.2f}",
            "{:.2f} to {:.2f}".format(*value.interval),
        ]
        for name, value in targets(found).items()
    ]
    return _table(("Ratchet", "median of the rounds", "all rounds", "95 % of the median"), rows)


def _show(value: Spread | None) -> str:
    return "" if value is None else f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _plots(results: "Mapping[str, Found]") -> "list[tuple[str, str, list[Series]]]":
    plots = []
    for precision, found in results.items():
        for title, unit, path in (
            ("throughput", "requests a second", ("throughput",)), ("p99", "ms", ("latency_ms", "p99"))
        ):  # fmt: skip
            lines = [
                Series(
                    name=name,
                    points=[(at[1:], spread(found.column(name, at, *path))) for at in CLOSED],
                )
                for name, _ in _present(found)
            ]
            plots.append((f"{precision}: {title} by concurrency", unit, lines))
    return plots
