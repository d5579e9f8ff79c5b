"""Ratchet beside its peers: the same bundle and texts, interleaved rounds, closed and open loop, ratios with their spread.

    python -m benchmarks.serving [--data FOLDER] [--rounds 5] [--seconds 5] [--precision int8 fp32] [--only NAME ...] [--quick]

All servers of a precision are started once; who is not measured is stopped (SIGSTOP), so that the others have the machine
for themselves. One round measures each server at every concurrency, in turn: what changes on the machine from round to round
changes for all, and drops out of the ratios, which are taken round by round.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.bundle import PRECISIONS, Bundles, make_bundles
from benchmarks.serving.load import Load, run_load
from benchmarks.serving.processes import ROOT, Running, end_on_signals
from benchmarks.serving.report import write_report
from benchmarks.serving.subjects import RATCHET, SUBJECTS, Subject, Workshop, peers_python
from benchmarks.serving.texts import labelled, typical, write_bodies

CONCURRENCIES: Final = (1, 8, 32, 128)
SHARES: Final = (0.5, 0.7, 0.9)
MANY: Final = 256
_OPEN_CONNECTIONS: Final = 256


@dataclass(kw_only=True)
class Plan:
    """What is measured, and for how long."""

    rounds: int
    seconds: float
    warmup_s: float
    precisions: list[str]
    subjects: list[Subject]
    open_loop: bool = True


@dataclass(kw_only=True)
class Found:
    """Every figure of one precision: by server and measurement, a summary a round."""

    rounds: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    limit: list[dict[str, float]] = field(default_factory=list)
    saturation: dict[str, float] = field(default_factory=dict)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, subject: str, measurement: str, summary: dict[str, Any]) -> None:
        """Keep one summary."""
        self.rounds.setdefault(subject, {}).setdefault(measurement, []).append(summary)

    def column(self, subject: str, measurement: str, *path: str) -> list[float]:
        """One figure of every round."""
        values = []
        for summary in self.rounds.get(subject, {}).get(measurement, []):
            value: Any = summary
            for key in path:
                value = value[key]
            values.append(float(value))
        return values


class Comparison:
    """The servers of one precision, measured in rounds."""

    def __init__(self, workshop: Workshop, plan: Plan, texts: list[str]) -> None:
        self._workshop = workshop
        self._plan = plan
        self._texts = texts
        self._folder = workshop.cache / "bodies"
        self._seed = 0
        self.found = Found()

    def run(self) -> Found:
        """Measure it all."""
        plan = self._plan
        raw_texts = self._folder / "texts.json"
        for subject in plan.subjects:
            write_bodies(self._bodies(subject), [subject.body(text) for text in self._texts])
        raw_texts.write_text(json.dumps(self._texts), encoding="utf-8")
        whole = range(0, len(self._texts) - MANY + 1, MANY)
        many = [{"inputs": [RATCHET.body(text) for text in self._texts[start : start + MANY]]} for start in whole]
        write_bodies(self._folder / "many.jsonl", many)
        with ExitStack() as servers:
            running = {}
            for subject in plan.subjects:
                running[subject.name] = servers.enter_context(self._workshop.serving(subject))
                running[subject.name].pause()
            for number in range(plan.rounds):
                self.found.limit.append(self._workshop.raw_onnx(raw_texts, plan.seconds))
                say(f"  round {number + 1}: raw ONNX Runtime {self.found.limit[-1]['arriving']:.0f} texts/s")
                # each round in another order, so that nobody always follows the same neighbour
                shift = number % len(plan.subjects)
                for subject in plan.subjects[shift:] + plan.subjects[:shift]:
                    with awake(running[subject.name]):
                        self._measure(subject, running[subject.name])
        return self.found

    def _measure(self, subject: Subject, running: Running) -> None:
        found, name = self.found, subject.name
        for connections in CONCURRENCIES:
            before = running.cpu_s()
            summary = self._load(subject, running, connections=connections)
            used = running.cpu_s() - before
            found.add(name, f"c{connections}", summary)
            if connections == max(CONCURRENCIES):
                found.cpu_ms.setdefault(name, []).append(used / max(1, summary["requests"]) * 1e3)
        saturation = found.saturation.setdefault(
            name, max(found.column(name, f"c{connections}", "throughput")[0] for connections in CONCURRENCIES)
        )
        shares = SHARES if self._plan.open_loop else ()
        for share in shares:
            rate = max(1.0, share * saturation)
            found.add(name, f"o{share:.0%}", self._load(subject, running, connections=_OPEN_CONNECTIONS, rate=rate))
        if subject is RATCHET:
            self._measure_many(running)
        last = found.rounds[name][f"c{max(CONCURRENCIES)}"][-1]
        say(f"    {name}: {last['throughput']:.0f} req/s at {max(CONCURRENCIES)}, statuses {last['statuses']}")

    def _measure_many(self, running: Running) -> None:
        for connections in (1, 2):
            load = Load(
                port=running.port, path=RATCHET.path, bodies=str(self._folder / "many.jsonl"), connections=connections,
                seconds=self._plan.seconds, warmup_s=self._plan.warmup_s,
            )  # fmt: skip
            self.found.add(RATCHET.name, f"many{connections}", run_load(load))

    def _load(
        self, subject: Subject, running: Running, *, connections: int, rate: float | None = None
    ) -> dict[str, Any]:
        self._seed += 1
        return run_load(
            Load(
                port=running.port, path=subject.path, bodies=str(self._bodies(subject)), connections=connections,
                seconds=self._plan.seconds, warmup_s=self._plan.warmup_s, rate=rate, seed=self._seed,
                first=self._seed * 997 % len(self._texts),
            )
        )  # fmt: skip

    def _bodies(self, subject: Subject) -> Path:
        return self._folder / f"{subject.name}.jsonl"


@contextmanager
def awake(running: Running) -> Iterator[None]:
    """Let a stopped server work inside the block."""
    running.resume()
    try:
        yield
    finally:
        running.pause()


def say(line: str) -> None:
    """Tell how it goes."""
    print(line, flush=True)


def machine() -> dict[str, str]:
    """Where it was measured."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def describe(plan: Plan, results: dict[str, Found], bundles: Bundles, texts: list[str]) -> dict[str, Any]:
    """What was done, and what the load generator took of a core at its busiest."""
    summaries = [
        row for found in results.values() for of in found.rounds.values() for rows in of.values() for row in rows
    ]
    lengths = [len(encoding.ids) for encoding in bundles.tokenizer().encode_batch_fast(texts[:2000])]
    return {
        "rounds": plan.rounds, "seconds": plan.seconds, "texts": len(texts),
        "tokens a text": round(statistics.fmean(lengths), 1),
        "load generator, share of a core": max(summary["cpu_share"] for summary in summaries),
    }  # fmt: skip


def prepare(cache: Path, data: Path | None, *, count: int) -> tuple[Bundles, list[str]]:
    """The bundles, and distinct texts to send; texts of the test set where there is data."""
    bundles = make_bundles(cache, data)
    sources = [text for split in ("train", "test") for text, _ in labelled(data, split)]
    return bundles, typical(sources, bundles.tokenizer(), count=count)


def common_arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every program of the benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="folder for bundles, peers, homes and logs")
    parser.add_argument("--data", type=Path, help="folder with train.jsonl and test.jsonl; none: the demo data")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser


def options() -> argparse.Namespace:
    """The command line."""
    parser = common_arguments(__doc__)
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["int8", "fp32"])
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="servers")
    parser.add_argument("--closed-only", action="store_true", help="leave the open loop out")
    parser.add_argument("--quick", action="store_true", help="two rounds of two seconds: to see that it works")
    parser.add_argument(
        "--out", type=Path, help="folder for serving.md and serving.svg (docs/benchmarks for the record)"
    )
    return parser.parse_args()


def main() -> None:
    """Run it, and write the report."""
    chosen = options()
    end_on_signals()
    if chosen.quick:
        chosen.rounds, chosen.seconds = 2, 2.0
    cache: Path = chosen.cache
    peers_python(cache)
    say("preparing the bundles and texts")
    bundles, texts = prepare(cache, chosen.data, count=20_000)
    plan = Plan(
        rounds=chosen.rounds, seconds=chosen.seconds, warmup_s=1.0, precisions=chosen.precision,
        subjects=[subject for subject in SUBJECTS if subject.name in chosen.only], open_loop=not chosen.closed_only,
    )  # fmt: skip
    results: dict[str, Found] = {}
    for precision in plan.precisions:
        say(f"{precision}: starting {', '.join(subject.name for subject in plan.subjects)}")
        results[precision] = Comparison(Workshop(cache=cache, bundles=bundles, precision=precision), plan, texts).run()
    facts = {**machine(), **describe(plan, results, bundles, texts)}
    page = write_report(results, facts, chosen.out or cache / "report")
    say(page.read_text(encoding="utf-8"))
    if chosen.json:
        document = {name: vars(found) for name, found in results.items()}
        chosen.json.write_text(json.dumps({"facts": facts, "found": document}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
