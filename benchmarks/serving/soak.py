"""A soak: steady load, a swap every 20 seconds, feedback all the while; no error, and flat memory.

python -m benchmarks.serving.soak [--minutes 15] [--every 20] [--share 0.5] [--feedback 10] [--data FOLDER]
"""

import time
from typing import Any

from benchmarks.serving.bundle import VARIANTS
from benchmarks.serving.compare import common_arguments, prepare, say
from benchmarks.serving.load import Load, started
from benchmarks.serving.overload import watched
from benchmarks.serving.processes import end_on_signals
from benchmarks.serving.stats import slope
from benchmarks.serving.subjects import RATCHET, Workshop
from benchmarks.serving.swap import fresh_versions, report, saturation, swap_on
from benchmarks.serving.texts import write_bodies, write_feedback
from core.registry import Registry


def table(found: dict[str, Any]) -> str:
    """The figures that have a target."""
    rows = [
        ("predictions that failed", found["failed_predictions"], "0"),
        ("feedback that failed", found["failed_feedback"], "0"),
        ("internal errors", found["internal_errors"], "0"),
        ("records dropped", found["records_dropped"], "0"),
        ("swaps done", f"{found['swapped']:.0f} of {found['swaps']}", "all"),
        ("memory, MiB a minute", found["memory"]["mib_a_minute"], "flat"),
        ("memory, MiB a swap", found["memory"]["mib_a_swap"], "0.1"),
    ]
    lines = [f"| {what} | {value} | {limit} |" for what, value, limit in rows]
    return "\n".join(["| what | measured | at most |", "| --- | --- | --- |", *lines])


def memory(samples: list[tuple[float, float]], every_s: float) -> dict[str, Any]:
    """The slope of the memory; the first fifth is left out, in which caches fill."""
    kept = samples[len(samples) // 5 :]
    found = slope([at for at, _ in kept], [mib for _, mib in kept])
    return {
        "mib_a_minute": round(found.per_step * 60, 4), "standard_error": round(found.error * 60, 4),
        "mib_a_swap": round(found.per_step * every_s, 4), "from_mib": round(kept[0][1], 1), "to_mib": round(kept[-1][1], 1),
        "most_mib": round(max(mib for _, mib in kept), 1),
    }  # fmt: skip


def main() -> None:
    """Run it."""
    parser = common_arguments(__doc__)
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds from swap to swap")
    parser.add_argument("--share", type=float, default=0.5, help="of saturation")
    parser.add_argument("--feedback", type=float, default=10.0, help="corrections a second")
    parser.add_argument(
        "--head-only", action="store_true", help="versions that share a graph and differ in their heads"
    )
    chosen = parser.parse_args()
    end_on_signals()
    bundles, texts = prepare(chosen.cache, chosen.data, count=20_000)
    workshop = Workshop(cache=chosen.cache, bundles=bundles, precision=chosen.precision)
    folder = chosen.cache.resolve() / "soak"
    bodies = write_bodies(folder / "bodies.jsonl", [RATCHET.body(text) for text in texts])
    said = write_feedback(folder / "feedback.jsonl", chosen.data)
    made = [bundles.bundle(chosen.precision, variant, head_only=chosen.head_only) for variant in range(VARIANTS)]
    count = max(3, round(chosen.minutes * 60 / chosen.every))
    seconds = count * chosen.every
    with workshop.ratchet(variants=VARIANTS, head_only=chosen.head_only, name="soak") as running:
        registry = Registry((workshop.home("soak") / "registry").as_uri(), "default")
        rate = max(1.0, chosen.share * saturation(running, bodies, seconds=5.0))
        before = running.metric("ratchet_swaps_total", result="swapped")
        say(f"{seconds:.0f} s at {rate:.0f} req/s and {chosen.feedback:g} corrections a second, {count} swaps")
        asking = Load(
            port=running.port, path=RATCHET.path, bodies=str(bodies), connections=256, rate=rate, seconds=seconds
        )
        telling = Load(
            port=running.port,
            path="/v1/feedback",
            bodies=str(said),
            connections=16,
            rate=chosen.feedback,
            seconds=seconds,
        )
        with started(asking) as predictions, started(telling) as feedback, watched(running, every_s=1.0) as samples:
            versions = fresh_versions(registry, made, folder, head_only=chosen.head_only)
            swap_on(registry, running, versions, count=count, every_s=chosen.every, judged_s=chosen.every / 2)
            predicted, told = predictions.result(), feedback.result()
        time.sleep(1.0)
        found = {
            "rate": round(rate, 1), "seconds": seconds, "predictions": predicted, "feedback": told,
            "failed_predictions": predicted["requests"] - predicted["good"] + predicted["not_sent"],
            "failed_feedback": told["requests"] - told["good"] + told["not_sent"],
            "internal_errors": running.metric("ratchet_internal_errors_total"),
            "records_dropped": running.metric("ratchet_predictions_dropped_total"),
            "swaps": count, "swapped": running.metric("ratchet_swaps_total", result="swapped") - before,
            "memory": memory(samples, chosen.every),
        }  # fmt: skip
    report(found, table, chosen.json)


if __name__ == "__main__":
    main()
