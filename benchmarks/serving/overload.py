"""Overload and faults: ten times what the service can do for a minute, then clients that misbehave.

    python -m benchmarks.serving.overload [--times 10] [--seconds 60] [--data FOLDER]

The load is an open loop over a bounded number of connections, more than the service's queue takes. A request for which no
connection is free is dropped by the generator and counted: a service that answers slowly is offered less than was meant,
and the report says how much. So the time of an answer counts from its sending here, not from the schedule.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.serving.compare import common_arguments, prepare
from benchmarks.serving.load import Load, run_load, started
from benchmarks.serving.processes import ROOT, Running, end_on_signals
from benchmarks.serving.stats import quantile
from benchmarks.serving.subjects import RATCHET, Workshop
from benchmarks.serving.swap import report, saturation
from benchmarks.serving.texts import write_bodies

WINDOW_S: Final = 0.5
_STEADY: Final = 1.5  # a window's p99 may be so many times the steady one and count as recovered
_REFUSALS: Final = frozenset({429, 503})


@contextmanager
def watched(running: Running, every_s: float = 0.5) -> Iterator[list[tuple[float, float]]]:
    """Sample (monotonic time, MiB) of the service's memory while the block runs."""
    samples: list[tuple[float, float]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            samples.append((time.monotonic(), running.rss_mib()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def recovery(records: Path, begin: float, *, steady_p99: float) -> float:
    """Seconds after ``begin`` (monotonic) to the end of the last half second whose p99 is not steady again."""
    with np.load(records) as columns:
        since = columns["intended"] - begin
        bad = columns["status"] != 200
        latency = np.where(bad, np.inf, columns["done"] - columns["intended"])
    last = 0.0
    for start in np.arange(0.0, float(since.max(initial=0.0)), WINDOW_S):
        inside = latency[(since >= start) & (since < start + WINDOW_S)]
        if len(inside) and quantile(inside, 0.99) > _STEADY * steady_p99:
            last = float(start) + WINDOW_S
    return last


def windows_p99(records: Path) -> float:
    """The worst half second's p99 of a run: a p99 of a few hundred answers is noisy, so a window is compared with windows."""
    with np.load(records) as columns:
        since = columns["intended"] - columns["intended"].min()
        latency = columns["done"] - columns["intended"]
    starts = np.arange(WINDOW_S, float(since.max()) - WINDOW_S, WINDOW_S)
    parts = [latency[(since >= start) & (since < start + WINDOW_S)] for start in starts]
    return max((quantile(part, 0.99) for part in parts if len(part)), default=float("nan"))


def flood(running: Running, bodies: Path, folder: Path, top: float, chosen: argparse.Namespace) -> dict[str, Any]:
    """Steady load, the flood, and steady load again."""
    base: dict[str, Any] = {"port": running.port, "path": RATCHET.path, "bodies": str(bodies)}
    calm: dict[str, Any] = {**base, "connections": 256, "rate": max(1.0, 0.5 * top), "warmup_s": 0.5}
    before = folder / "before.npz"
    steady = run_load(Load(**calm, seconds=chosen.steady, records=str(before)))
    rss = running.rss_mib()
    records = folder / "flood.npz"
    with watched(running) as samples:
        flooded = run_load(
            Load(
                **base, connections=chosen.connections, rate=chosen.times * top, drop=True, seconds=chosen.seconds,
                warmup_s=0.0, records=str(records), timeout_s=30.0,
            )
        )  # fmt: skip
        # The generator has waited for the last answer: from here on the service has nothing left to do.
    end = time.monotonic()
    after_path = folder / "after.npz"
    after = run_load(Load(**{**calm, "warmup_s": 0.0}, seconds=chosen.steady, records=str(after_path)))
    with np.load(records) as columns:
        took, status = columns["done"] - columns["sent"], columns["status"]
    late = int(((took > chosen.deadline) & ~np.isin(status, list(_REFUSALS))).sum())
    return {
        "saturation": round(top, 1), "asked_for": round(chosen.times * top, 1),
        "sent_a_second": round(len(status) / chosen.seconds, 1), "good_a_second": flooded["throughput"],
        "statuses": {str(code): int(count) for code, count in zip(*np.unique(status, return_counts=True), strict=True)},
        "errors": flooded["errors"], "dropped_by_the_generator": flooded["dropped"],
        "answers_after_the_deadline": late, "service_ms": flooded["service_ms"],
        "refused_p99_ms": round(quantile(took[np.isin(status, list(_REFUSALS))], 0.99) * 1e3, 1),
        "rss_mib": {
            "before": round(rss, 1), "most": round(max((at for _, at in samples), default=rss), 1),
            "after": round(running.rss_mib(), 1),
        },
        "recovery_s": recovery(after_path, end, steady_p99=windows_p99(before)),
        "steady_ms": steady["latency_ms"], "after_ms": after["latency_ms"],
        "generator_cpu_share": flooded["cpu_share"],
    }  # fmt: skip


def misbehaviour(running: Running, bodies: Path, top: float, chosen: argparse.Namespace) -> dict[str, Any]:
    """Well-behaved requests at half of saturation, alone and beside clients that misbehave."""
    load = Load(
        port=running.port, path=RATCHET.path, bodies=str(bodies), connections=256, rate=max(1.0, 0.5 * top),
        seconds=chosen.fault_seconds,
    )  # fmt: skip
    alone = run_load(load)
    rss = running.rss_mib()
    command = [sys.executable, "-m", "benchmarks.serving.faults", str(running.port), str(chosen.fault_seconds + 1.0)]
    with started(load) as loading, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as faults:
        try:
            beside = loading.result()
            seen = json.loads(faults.communicate(timeout=60)[0])
        finally:
            faults.kill()
    return {
        "alone_ms": alone["latency_ms"], "beside_ms": beside["latency_ms"],
        "failed_beside": beside["requests"] - beside["good"] + beside["not_sent"], "errors_beside": beside["errors"],
        "clients": seen, "rss_mib": {"before": round(rss, 1), "after": round(running.rss_mib(), 1)},
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The figures that have a target."""
    flooded, faults = found["overload"], found["faults"]
    others = {code: count for code, count in flooded["statuses"].items() if code not in ("200", "429", "503")}
    rows = [
        ("answers other than 200, 429, 503", others or 0, "0"),
        ("answers after the deadline", flooded["answers_after_the_deadline"], "0"),
        ("sent a second, of saturation", round(flooded["sent_a_second"] / flooded["saturation"], 1), ""),
        ("good a second under overload, of saturation", round(flooded["good_a_second"] / flooded["saturation"], 2), ""),
        (
            "memory at most, MiB above before",
            round(flooded["rss_mib"]["most"] - flooded["rss_mib"]["before"], 1),
            "bounded",
        ),
        ("recovery, s", flooded["recovery_s"], "2"),
        ("well-behaved requests that failed beside faults", faults["failed_beside"], "0"),
        ("their p99 beside faults, of alone", round(faults["beside_ms"]["p99"] / faults["alone_ms"]["p99"], 2), ""),
    ]
    lines = [f"| {what} | {value} | {limit} |" for what, value, limit in rows]
    return "\n".join(["| what | measured | at most |", "| --- | --- | --- |", *lines])


def main() -> None:
    """Run it."""
    parser = common_arguments(__doc__)
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--times", type=float, default=10.0, help="of saturation")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--connections", type=int, default=2000, help="of overload; more than queue_limit")
    parser.add_argument("--deadline", type=float, default=10.5, help="request_timeout_s and a little")
    parser.add_argument("--steady", type=float, default=10.0, help="seconds of steady load before and after")
    parser.add_argument("--fault-seconds", type=float, default=20.0)
    parser.add_argument("--saturation-seconds", type=float, default=5.0)
    chosen = parser.parse_args()
    end_on_signals()
    bundles, texts = prepare(chosen.cache, chosen.data, count=20_000)
    workshop = Workshop(cache=chosen.cache, bundles=bundles, precision=chosen.precision)
    folder = chosen.cache.resolve() / "overload"
    bodies = write_bodies(folder / "bodies.jsonl", [RATCHET.body(text) for text in texts])
    with workshop.ratchet(name="overload") as running:
        top = saturation(running, bodies, seconds=chosen.saturation_seconds)
        found = {
            "overload": flood(running, bodies, folder, top, chosen),
            "faults": misbehaviour(running, bodies, top, chosen),
            "internal_errors": running.metric("ratchet_internal_errors_total"),
        }
    report(found, table, chosen.json)


if __name__ == "__main__":
    main()
