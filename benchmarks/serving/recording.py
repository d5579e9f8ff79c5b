"""What recording and feedback cost a prediction: three services at the same load, in turn.

    python -m benchmarks.serving.recording [--rounds 5] [--seconds 10] [--share 0.7] [--feedback 20] [--data FOLDER]

Recording cannot be turned off. ``RATCHET_RECORD_QUEUE=1`` comes nearest: nearly every record finds the queue full and is
dropped before it is encoded and written; the share that was dropped is reported. So: (a) a queue of one, (b) the default, which
writes every prediction to the SQLite log, (c) the default with corrections coming in, each of which is synced to disk before
it is answered. All at the same rate, an open loop below saturation: at saturation, any work at all costs throughput.
"""

from typing import Any, Final

from benchmarks.serving.compare import awake, common_arguments, prepare, say
from benchmarks.serving.load import Load, run_load, started
from benchmarks.serving.processes import Running, end_on_signals
from benchmarks.serving.stats import difference, spread
from benchmarks.serving.subjects import RATCHET, Workshop
from benchmarks.serving.swap import report, saturation
from benchmarks.serving.texts import write_bodies, write_feedback

ARMS: Final = ("dropped", "recorded", "with_feedback")


def table(found: dict[str, Any]) -> str:
    """The differences."""
    lines = ["| cost at p99, ms | median of the rounds | lowest, highest |", "| --- | --- | --- |"]
    for name in ("recording", "feedback", "both"):
        value = found[f"cost_of_{name}_ms"]
        lines.append(f"| {name} | {value['median']:.2f} | {value['low']:.2f}, {value['high']:.2f} |")
    return "\n".join(lines)


def measure(
    servers: dict[str, Running], load: dict[str, Any], telling: dict[str, Any], *, rounds: int
) -> dict[str, Any]:
    """p99 of every arm in every round."""
    p99: dict[str, list[float]] = {arm: [] for arm in ARMS}
    p50: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(rounds):
        for arm in ARMS[number % 3 :] + ARMS[: number % 3]:
            running = servers["dropped" if arm == "dropped" else "recorded"]
            asking = Load(**load, port=running.port, seed=number)
            with awake(running):
                if arm == "with_feedback":
                    with started(Load(**telling, port=running.port, seed=number)) as feedback:
                        summary = run_load(asking)
                        told = feedback.result()
                    if told["good"] != told["requests"]:
                        raise RuntimeError(f"feedback failed: {told['statuses']}, {told['errors']}")
                else:
                    summary = run_load(asking)
            p99[arm].append(summary["latency_ms"]["p99"])
            p50[arm].append(summary["latency_ms"]["p50"])
    return {
        "p99_ms": {arm: spread(values).document() for arm, values in p99.items()},
        "p50_ms": {arm: spread(values).document() for arm, values in p50.items()},
        "cost_of_recording_ms": difference(p99["recorded"], p99["dropped"]).document(),
        "cost_of_feedback_ms": difference(p99["with_feedback"], p99["recorded"]).document(),
        "cost_of_both_ms": difference(p99["with_feedback"], p99["dropped"]).document(),
    }


def main() -> None:
    """Run it."""
    parser = common_arguments(__doc__)
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--share", type=float, default=0.7, help="of saturation")
    parser.add_argument("--feedback", type=float, default=20.0, help="corrections a second")
    chosen = parser.parse_args()
    end_on_signals()
    bundles, texts = prepare(chosen.cache, chosen.data, count=20_000)
    workshop = Workshop(cache=chosen.cache, bundles=bundles, precision=chosen.precision)
    folder = chosen.cache.resolve() / "recording"
    bodies = write_bodies(folder / "bodies.jsonl", [RATCHET.body(text) for text in texts])
    said = write_feedback(folder / "feedback.jsonl", chosen.data)
    with (
        workshop.ratchet(name="dropped", record_queue="1") as dropped,
        workshop.ratchet(name="recorded") as recorded,
    ):
        dropped.pause()
        rate = max(1.0, chosen.share * saturation(recorded, bodies, seconds=5.0))
        recorded.pause()
        say(f"{chosen.rounds} rounds at {rate:.0f} req/s")
        load = {
            "path": RATCHET.path,
            "bodies": str(bodies),
            "connections": 256,
            "rate": rate,
            "seconds": chosen.seconds,
        }
        telling = {**load, "path": "/v1/feedback", "bodies": str(said), "connections": 16, "rate": chosen.feedback}
        found = measure({"dropped": dropped, "recorded": recorded}, load, telling, rounds=chosen.rounds)
        dropped.resume()
        asked = dropped.metric("ratchet_requests_total", route="predict", status="200")
        found["share_dropped"] = round(dropped.metric("ratchet_predictions_dropped_total") / max(1.0, asked), 3)
    report({"rate": round(rate, 1), **found}, table, chosen.json)


if __name__ == "__main__":
    main()
