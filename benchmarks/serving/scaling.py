"""How to divide a machine: throughput and p99 by cores, worker processes and lanes, beside raw ONNX Runtime's.

    python -m benchmarks.serving.scaling [--data FOLDER] [--cores 1 2 4 8] [--rounds 1] [--precision int8]

Each server is bound to the first cores, the load generators to the others (where there are none, they share: said in the
table). Requests are single texts of about 22 tokens in a closed loop of 32 connections for each core.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.compare import common_arguments, prepare, say
from benchmarks.serving.load import Load, run_load
from benchmarks.serving.processes import ROOT, Running, end_on_signals
from benchmarks.serving.subjects import RATCHET, Workshop, peers_python
from benchmarks.serving.texts import write_bodies

_CONNECTIONS: Final = 32
_GENERATORS: Final = 4
_WORKERS: Final = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, kw_only=True)
class Division:
    """One way to use some cores."""

    cores: int
    workers: int

    @property
    def lanes(self) -> int:
        """Of each worker: together one for each core."""
        return self.cores // self.workers


def divisions(cores: int) -> list[Division]:
    """All ways to give every worker as many lanes as the others and every core one."""
    return [Division(cores=cores, workers=workers) for workers in _WORKERS if cores % workers == 0]


class Scaling:
    """The measurement."""

    def __init__(self, workshop: Workshop, texts: Sequence[str], *, seconds: float) -> None:
        self._workshop = workshop
        self._seconds = seconds
        self._bodies = workshop.cache / "bodies" / "scaling.jsonl"
        self._texts = workshop.cache / "bodies" / "scaling.json"
        write_bodies(self._bodies, [RATCHET.body(text) for text in texts])
        self._texts.write_text(json.dumps(list(texts)), encoding="utf-8")

    def limit(self, cores: int) -> float:
        """Texts a second of raw ONNX Runtime with one caller a core."""
        command = [
            str(peers_python(self._workshop.cache)),
            "-m",
            "benchmarks.serving.peers.raw_onnx",
            str(self._texts),
            "2",
        ]
        bundle = self._workshop.bundles.bundle(self._workshop.precision).directory
        more = {"BENCH_BUNDLE": str(bundle), "PYTHONPATH": str(ROOT), "BENCH_CALLERS": str(cores)}
        with _bound_to(range(cores)):
            done = subprocess.run(command, env={**os.environ, **more}, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return float(json.loads(done.stdout)["arriving"])

    def measure(self, division: Division) -> dict[str, Any]:
        """Requests a second, p99 in ms, and CPU ms a request."""
        settings = {"workers": str(division.workers), "lanes": str(division.lanes)}
        with _bound_to(range(division.cores)):
            serving = self._workshop.ratchet(**settings)
            running = serving.__enter__()
        try:
            return self._load(running, division)
        finally:
            serving.__exit__(None, None, None)

    def _load(self, running: Running, division: Division) -> dict[str, Any]:
        others = sorted(os.sched_getaffinity(0) - set(range(division.cores))) or list(range(division.cores))
        count = min(_GENERATORS, len(others), division.cores)
        loads = [
            Load(
                port=running.port, path=RATCHET.path, bodies=str(self._bodies), seconds=self._seconds, warmup_s=1.0,
                connections=_CONNECTIONS * division.cores // count, first=number * 997, seed=number,
            )
            for number in range(count)
        ]  # fmt: skip
        before = running.cpu_s()
        with _bound_to(others), ThreadPoolExecutor(count) as pool:
            found = list(pool.map(run_load, loads))
        return {
            "throughput": sum(item["throughput"] for item in found),
            "p99": max(item["latency_ms"]["p99"] for item in found),
            "cpu_ms": 1e3 * (running.cpu_s() - before) / max(1, sum(item["requests"] for item in found)),
            "bad": sum(item["requests"] for item in found) - sum(item["statuses"].get("200", 0) for item in found),
        }


@contextmanager
def _bound_to(cores: Sequence[int]) -> Iterator[None]:
    """Programs started in the block run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    """Measure and print a table."""
    parser: argparse.ArgumentParser = common_arguments(__doc__)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--precision", default="int8")
    chosen = parser.parse_args()
    end_on_signals()
    cache: Path = chosen.cache
    bundles, texts = prepare(cache, chosen.data, count=10_000)
    workshop = Workshop(cache=cache, bundles=bundles, precision=chosen.precision)
    scaling = Scaling(workshop, texts, seconds=chosen.seconds)
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(chosen.rounds):
        for cores in [count for count in chosen.cores if count <= len(os.sched_getaffinity(0))]:
            limit = scaling.limit(cores)
            say(f"{cores} cores: raw ONNX Runtime {limit:.0f} texts/s")
            for division in divisions(cores):
                found = scaling.measure(division)
                name = f"| {cores} | {division.workers} | {division.lanes} |"
                rows.setdefault(name, []).append({**found, "share": found["throughput"] / limit})
                say(f"  {name} {rows[name][-1]}")
    say("| cores | workers | lanes each | req/s | of raw ONNX Runtime | p99 ms | CPU ms a request |")
    say("|---" * 7 + "|")
    for name, of in rows.items():
        middle = {key: statistics.median(row[key] for row in of) for key in ("throughput", "share", "p99", "cpu_ms")}
        say(
            f"{name} {middle['throughput']:.0f} | {middle['share']:.2f} | {middle['p99']:.1f} | {middle['cpu_ms']:.2f} |"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
