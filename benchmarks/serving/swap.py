"""Swaps under load: nobody may fail, no answer may be mixed, and nobody should notice.

    python -m benchmarks.serving.swap [--swaps 100] [--every 8] [--judged 4] [--share 0.7] [--slope-swaps 200] [--head-only]
        [--data FOLDER]

The service runs at a share of its saturation (open loop, Poisson). Versions are published and, as long after as a quick gate
takes, promoted, each of a graph that the service has not seen, so that each is tried and loaded. Latency over the swap
counts from the publication, when the trial begins. Each answer's scores are compared with what the named version gives
offline. Then rollbacks, and many swaps under little load for the slope of the memory.
"""

import argparse
import http.client
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.bundle import VARIANTS, base_of, name_of, publish_anew
from benchmarks.serving.compare import common_arguments, prepare, say
from benchmarks.serving.identity import Offline, learn
from benchmarks.serving.load import Load, run_load, started
from benchmarks.serving.processes import Running, end_on_signals
from benchmarks.serving.stats import latency_summary, quantile, slope
from benchmarks.serving.subjects import RATCHET, Workshop
from benchmarks.serving.texts import write_bodies
from core.bundle import ModelBundle
from core.registry import Registry

LEAD_S: Final = 10.0
SETTLE_S: Final = 1.0
FIRST: Final = 20
Times = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Swap:
    """One promotion: when its version was published, when it was written, and what was measured around it."""

    version: str
    published: float
    at: float
    rss_mib: float


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Every answer of a run, in the order in which they came."""

    intended: Times
    done: Times
    good: NDArray[np.bool_]
    version: list[str]

    @property
    def latency(self) -> Times:
        """Seconds from the intended time of sending."""
        return self.done - self.intended


def saturation(running: Running, bodies: Path, *, seconds: float) -> float:
    """Requests a second in a closed loop of 64 connections."""
    load = Load(port=running.port, path=RATCHET.path, bodies=str(bodies), connections=64, seconds=seconds, warmup_s=2.0)
    return float(run_load(load)["throughput"])


def fresh_versions(registry: Registry, made: Sequence[ModelBundle], folder: Path, *, head_only: bool) -> Iterator[str]:
    """Versions to promote, without end: each of a graph of its own, or of the same graph where only heads change."""
    for number in itertools.count(1):
        bundle = made[number % len(made)]
        yield bundle.manifest.version if head_only else publish_anew(registry, bundle, number, folder)


def swap_on(
    registry: Registry, running: Running, versions: Iterator[str], *, count: int, every_s: float, judged_s: float
) -> list[Swap]:
    """Promote one version after the other, each ``every_s`` seconds and ``judged_s`` after its publication."""
    swaps = []
    begin = time.monotonic()
    for number in range(1, count + 1):
        published = time.monotonic()
        with ThreadPoolExecutor(1, initializer=_as_nice_as_the_trainer) as publisher:
            version = publisher.submit(next, versions).result()
        time.sleep(max(0.0, begin + (number - 1) * every_s + judged_s - time.monotonic()))
        at = time.monotonic()
        registry.promotions.promote_by_operator(version, reason="a swap of the benchmark", actor="benchmark")
        time.sleep(max(0.0, begin + number * every_s - time.monotonic()))
        swaps.append(Swap(version=version, published=published, at=at, rss_mib=running.rss_mib()))
    return swaps


def _as_nice_as_the_trainer() -> None:
    if sys.platform == "linux":  # a thread has its own niceness there
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def read_answers(records: Path, answers: Path) -> Iterator[tuple[int, float, float, int, bytes]]:
    """What, intended, done, status and body of every answer."""
    with np.load(records) as columns:
        rows = zip(*(columns[name].tolist() for name in ("what", "intended", "done", "status")), strict=True)
        with answers.open("rb") as lines:
            for (what, intended, done, status), line in zip(rows, lines, strict=True):
                yield what, intended, done, status, line


def examine(records: Path, answers: Path, offline: Offline) -> tuple[Seen, dict[str, Any]]:
    """Read all answers and compare each with its version's offline output."""
    intended, done, good, versions = [], [], [], []
    wrong: list[str] = []
    failed = mixed = 0
    for what, meant, ended, status, line in read_answers(records, answers):
        document = json.loads(line) if status == 200 else {}
        failed += status != 200
        version = str(document.get("model_version", ""))
        known = {**document, "model_version": base_of(version)}
        if status == 200 and (fault := offline.judge(what, known)):
            mixed += 1
            wrong.append(fault)
        intended.append(meant)
        done.append(ended)
        good.append(status == 200)
        versions.append(version)
    seen = Seen(intended=np.array(intended), done=np.array(done), good=np.array(good), version=versions)
    counts = {"answers": len(done), "failed": failed, "mixed": mixed, "examples": wrong[:5]}
    return seen, {**counts, "tolerance": round(offline.tolerance, 4), "versions_apart_by": round(offline.separation, 4)}


def around(seen: Seen, swaps: Sequence[Swap]) -> dict[str, Any]:
    """Latency while versions change, beside latency while they do not."""
    version = np.array(seen.version)
    order = np.argsort(seen.done, kind="stable")
    swapping = np.zeros(len(version), dtype=bool)
    first: list[float] = []
    visible: list[float] = []
    for index, swap in enumerate(swaps):
        until = swaps[index + 1].at if index + 1 < len(swaps) else np.inf
        swapping |= (seen.intended >= swap.published) & (seen.intended <= swap.at)
        of_it = order[(version[order] == swap.version) & (seen.done[order] > swap.at) & (seen.done[order] < until)]
        if not len(of_it):
            continue
        seen_at = float(seen.done[of_it[0]])
        visible.append(seen_at - swap.at)
        first += seen.latency[of_it[:FIRST]].tolist()
        swapping |= (seen.intended >= swap.at) & (seen.intended <= seen_at + SETTLE_S)
    settled = seen.intended > seen.intended.min() + 2.0
    steady = seen.latency[seen.good & ~swapping & settled]
    changing = seen.latency[seen.good & swapping]
    p99 = quantile(steady, 0.99)
    return {
        "swaps": len(swaps), "seen": len(visible),
        "steady_ms": latency_summary(steady), "swapping_ms": latency_summary(changing), "first_20_ms": latency_summary(first),
        "p99_over_the_swap": round(quantile(changing, 0.99) / p99, 3),
        "p99_first_20": round(quantile(first, 0.99) / p99, 3),
        "p50_first_20": round(quantile(first, 0.5) / quantile(steady, 0.5), 3),
        "visible_s": {"p50": round(quantile(visible, 0.5), 3), "max": round(quantile(visible, 1.0), 3)},
    }  # fmt: skip


def phases(running: Running) -> dict[str, tuple[float, float]]:
    """Count and seconds, so far, of each phase of a swap, as the service measures them; ``fast`` are flips up to 10 ms."""
    name = "ratchet_swap_seconds"
    found = {
        phase: (running.metric(f"{name}_count", phase=phase), running.metric(f"{name}_sum", phase=phase))
        for phase in ("fetch", "trial", "load", "warmup", "flip")
    }
    return {**found, "fast": (running.metric(f"{name}_bucket", phase="flip", le="0.01"), 0.0)}


def between(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """What the service measured of the swaps in between; a phase that did not occur took no time."""
    means = {}
    for phase, (count, total) in after.items():
        done = count - before[phase][0]
        means[phase] = round((total - before[phase][1]) / done * 1e3, 3) if done else 0.0
    fast = after["fast"][0] - before["fast"][0]
    return {
        "mean_ms": {phase: mean for phase, mean in means.items() if phase != "fast"},
        "from_noticing_to_live_mean_ms": round(sum(means.values()), 3),
        "flips_over_10_ms": int(after["flip"][0] - before["flip"][0] - fast),
    }


def rollbacks(running: Running, registry: Registry, versions: Sequence[str], *, count: int) -> dict[str, Any]:
    """Seconds from the order to go back until the version before answers, by HTTP and by the registry alone."""
    found: dict[str, list[float]] = {"by_http_s": [], "by_registry_s": []}

    def by_http() -> None:
        status, body = running.ask("POST", "/v1/rollback", b'{"reason": "the benchmark goes back"}')
        if status != 200:
            raise RuntimeError(f"the rollback was answered {status}: {body[:200]!r}")

    def by_registry() -> None:
        registry.promotions.rollback(reason="the benchmark goes back", actor="benchmark", hold_until=None)

    for number in range(count):
        for name, order in (("by_http_s", by_http), ("by_registry_s", by_registry)):
            before, after = (versions[(2 * number + step) % len(versions)] for step in (0, 1))
            for version in (before, after):
                registry.promotions.promote_by_operator(version, reason="before going back", actor="benchmark")
                await_version(running, version)
            started_at = time.monotonic()
            order()
            await_version(running, before)
            found[name].append(time.monotonic() - started_at)
    return {
        name: {"p50": round(quantile(all_, 0.5), 3), "max": round(max(all_), 3)} for name, all_ in found.items() if all_
    }


def await_version(running: Running, version: str, timeout_s: float = 30.0) -> None:
    """Until an answer is that of a version."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            status, body = running.ask("POST", RATCHET.path, b'{"text": "is my card lost?"}')
            if status == 200 and json.loads(body)["model_version"] == version:
                return
        time.sleep(0.005)
    raise RuntimeError(f"{version} does not answer {timeout_s:g} s after its promotion")


def memory(swaps: Sequence[Swap]) -> dict[str, Any]:
    """Growth of the service's memory a swap; the first tenth is left out: caches fill and the log's file is opened."""
    kept = swaps[len(swaps) // 10 :]
    if len(kept) < 3:
        return {}
    found = slope(list(range(len(kept))), [swap.rss_mib for swap in kept])
    return {
        "swaps": found.points, "mib_a_swap": round(found.per_step, 4), "standard_error": round(found.error, 4),
        "from_mib": round(kept[0].rss_mib, 1), "to_mib": round(kept[-1].rss_mib, 1),
    }  # fmt: skip


def measure(workshop: Workshop, texts: list[str], chosen: argparse.Namespace) -> dict[str, Any]:
    """Everything; see the module."""
    folder = workshop.cache.resolve() / "swap"
    records, answers = folder / "records.npz", folder / "answers.jsonl"
    names = [name_of(workshop.precision, variant, head_only=chosen.head_only) for variant in range(VARIANTS)]
    made = [
        workshop.bundles.bundle(workshop.precision, variant, head_only=chosen.head_only) for variant in range(VARIANTS)
    ]
    say("asking every version offline")
    offline = learn(made, texts, count=chosen.texts)
    bodies = write_bodies(folder / "bodies.jsonl", [RATCHET.body(text) for text in offline.texts])
    with workshop.ratchet(variants=VARIANTS, head_only=chosen.head_only, name="swap") as running:
        registry = Registry((workshop.home("swap") / "registry").as_uri(), "default")
        top = saturation(running, bodies, seconds=chosen.saturation_seconds)
        rate = max(1.0, chosen.share * top)
        seconds = LEAD_S + chosen.swaps * chosen.every + 2.0
        say(f"saturation {top:.0f} req/s; {chosen.swaps} swaps at {rate:.0f} req/s take {seconds:.0f} s")
        load = Load(
            port=running.port, path=RATCHET.path, bodies=str(bodies), connections=256, rate=rate, seconds=seconds,
            records=str(records), answers=str(answers),
        )  # fmt: skip
        with started(load) as loading:
            time.sleep(LEAD_S)
            own_before = phases(running)
            versions = fresh_versions(registry, made, folder, head_only=chosen.head_only)
            swaps = swap_on(
                registry, running, versions, count=chosen.swaps, every_s=chosen.every, judged_s=chosen.judged
            )
            summary = loading.result()
        own = between(own_before, phases(running))
        say("rolling back")
        back = rollbacks(running, registry, names, count=chosen.rollbacks)
        say(f"{chosen.slope_swaps} swaps for the slope of the memory")
        many = slope_swaps(running, registry, versions, bodies, chosen)
    say("comparing every answer with its version's offline output")
    seen, correct = examine(records, answers, offline)
    return {
        "precision": workshop.precision, "head_only": chosen.head_only, "saturation": round(top, 1), "rate": round(rate, 1),
        "load": summary, "answers": correct, "latency": around(seen, swaps), "service": own, "rollback": back,
        "memory_under_load": memory(swaps), "memory": memory(many),
    }  # fmt: skip


def slope_swaps(
    running: Running, registry: Registry, versions: Iterator[str], bodies: Path, chosen: argparse.Namespace
) -> list[Swap]:
    """Many swaps under little load."""
    if not chosen.slope_swaps:
        return []
    load = Load(
        port=running.port, path=RATCHET.path, bodies=str(bodies), connections=4, rate=10.0,
        seconds=min(3500.0, chosen.slope_swaps * chosen.slope_every + 1.0),
    )  # fmt: skip
    with started(load):
        return swap_on(registry, running, versions, count=chosen.slope_swaps, every_s=chosen.slope_every, judged_s=0.0)


def table(found: dict[str, Any]) -> str:
    """The figures that have a target, a line each."""
    latency, answers, memory_of = found["latency"], found["answers"], found["memory"]
    rows: list[tuple[str, Any, str]] = [
        ("failed", answers["failed"] + found["load"]["not_sent"], "0"),
        ("mixed", answers["mixed"], "0"),
        ("swaps seen", f"{latency['seen']} of {latency['swaps']}", "all"),
        ("p99 over the swap, of the steady p99", latency["p99_over_the_swap"], "1.5"),
        ("p99 of the first 20 on a new version, of the steady p99", latency["p99_first_20"], "1.2"),
        ("flips over 10 ms", found["service"]["flips_over_10_ms"], "0"),
        (
            "from noticing to live, ms (mean)",
            found["service"]["from_noticing_to_live_mean_ms"],
            "50" if found["head_only"] else "",
        ),
        ("promotion until seen, s (max)", latency["visible_s"]["max"], "2"),
        ("rollback by HTTP, s (max)", found["rollback"].get("by_http_s", {}).get("max"), "1"),
        ("rollback by the registry, s (max)", found["rollback"].get("by_registry_s", {}).get("max"), "1"),
        ("memory, MiB a swap", memory_of.get("mib_a_swap"), "0.1"),
    ]
    lines = [f"| {what} | {value} | {limit} |" for what, value, limit in rows]
    return "\n".join(["| what | measured | at most |", "| --- | --- | --- |", *lines])


def report(found: dict[str, Any], show: Callable[[dict[str, Any]], str], path: Path | None) -> None:
    """Print JSON and table, and write the JSON where that is asked for."""
    say(json.dumps(found, indent=1))
    say(show(found))
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run it."""
    parser = common_arguments(__doc__)
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--every", type=float, default=8.0, help="seconds from swap to swap")
    parser.add_argument("--judged", type=float, default=4.0, help="of these, from publication to promotion")
    parser.add_argument("--share", type=float, default=0.7, help="of saturation")
    parser.add_argument("--saturation-seconds", type=float, default=5.0)
    parser.add_argument("--texts", type=int, default=500, help="distinct texts")
    parser.add_argument("--rollbacks", type=int, default=5)
    parser.add_argument("--slope-swaps", type=int, default=200, help="swaps under little load, for the memory")
    parser.add_argument("--slope-every", type=float, default=1.5)
    parser.add_argument(
        "--head-only", action="store_true", help="versions that share a graph and differ in their heads"
    )
    chosen = parser.parse_args()
    end_on_signals()
    bundles, texts = prepare(chosen.cache, chosen.data, count=3 * chosen.texts)
    found = measure(Workshop(cache=chosen.cache, bundles=bundles, precision=chosen.precision), texts, chosen)
    report(found, table, chosen.json)


if __name__ == "__main__":
    main()
