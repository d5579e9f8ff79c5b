"""Skewed lengths: the service's batcher against counting, in process, on the real model.

    python -m benchmarks.serving.batching [--seconds 10] [--rounds 5] [--clients 64] [--precision int8] [--data FOLDER]

Nine texts of ten have 8 to 16 tokens, one has 120 to 128. Counting takes up to 16 texts, first come first served, and
pads them to the longest; both have the same lanes, the same servable and the same clients, each of which asks for one text at
a time. Rounds alternate, the ratio is taken round by round.
"""

import asyncio
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from benchmarks.serving.bundle import make_bundles
from benchmarks.serving.compare import common_arguments, say
from benchmarks.serving.stats import latency_summary, ratio, spread
from benchmarks.serving.swap import report
from benchmarks.serving.texts import labelled, skewed, typical
from core.runtime import Servable
from core.settings import Settings
from service.batcher import Batcher

BATCH: Final = 16
Ask = Callable[[str], Awaitable[object]]
_Waiting = tuple[str, "asyncio.Future[object]", asyncio.AbstractEventLoop]


class Counting:
    """What most servers do: a queue, lanes, and at most so many texts a batch, in the order in which they came."""

    def __init__(self, servable: Servable, *, lanes: int) -> None:
        self._servable = servable
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lanes = [threading.Thread(target=self._work, daemon=True) for _ in range(lanes)]
        for lane in self._lanes:
            lane.start()

    async def ask(self, text: str) -> object:
        """The answer to one text."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._waiting.put((text, future, loop))
        return await future

    def stop(self) -> None:
        """End the lanes."""
        for _ in self._lanes:
            self._waiting.put(None)
        for lane in self._lanes:
            lane.join(10)

    def _work(self) -> None:
        servable = self._servable
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < BATCH:
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    self._waiting.put(None)
                    break
                batch.append(item)
            logits, _ = servable.run(servable.tokenize([{"text": text} for text, _, _ in batch]))
            answers = servable.task.decode(logits, servable.manifest.labels)
            batch[0][2].call_soon_threadsafe(_resolve, [future for _, future, _ in batch], answers)


def _resolve(futures: "Sequence[asyncio.Future[object]]", answers: Sequence[object]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if not future.done():
            future.set_result(answer)


async def drive(
    ask: Ask, texts: Sequence[str], *, clients: int, seconds: float, first: int
) -> tuple[float, list[float]]:
    """Texts a second, and latencies, of clients in a closed loop."""
    latencies: list[float] = []
    begin = time.perf_counter()
    end = begin + seconds
    following = iter(range(first, 2**40))

    async def client() -> None:
        while (now := time.perf_counter()) < end:
            await ask(texts[next(following) % len(texts)])
            latencies.append(time.perf_counter() - now)

    await asyncio.gather(*(client() for _ in range(clients)))
    return len(latencies) / (time.perf_counter() - begin), latencies


def measure(
    servable: Servable, texts: Sequence[str], *, clients: int, seconds: float, rounds: int, lanes: int
) -> dict[str, Any]:
    """Both, in turn."""
    settings = Settings.model_construct()
    batcher = Batcher(
        lambda: servable, lanes=lanes, queue_limit=settings.queue_limit, batch_tokens=settings.batch_tokens
    )
    batcher.start()
    counting = Counting(servable, lanes=lanes)

    async def ask(text: str) -> object:
        return await batcher.predict([{"text": text}], timeout_s=60.0)

    throughput: dict[str, list[float]] = {"batcher": [], "counting": []}
    latencies: dict[str, list[float]] = {"batcher": [], "counting": []}
    try:
        for number in range(rounds + 1):  # the first warms up
            for name, way in (("batcher", ask), ("counting", counting.ask)):
                rate, took = asyncio.run(
                    drive(way, texts, clients=clients, seconds=seconds if number else 1.0, first=number * 7919)
                )
                if number:
                    throughput[name].append(rate)
                    latencies[name] += took
    finally:
        batcher.stop(10)
        counting.stop()
    return {
        "ratio": ratio(throughput["batcher"], throughput["counting"]).document(),
        **{
            name: {"texts_a_second": round(spread(rates).median, 1), "latency_ms": latency_summary(latencies[name])}
            for name, rates in throughput.items()
        },
    }


def table(found: dict[str, Any]) -> str:
    """The ratios."""
    lines = [
        "| texts | batcher, texts/s | counting, texts/s | ratio (median, lowest, highest round) |",
        "| --- | --- | --- | --- |",
    ]
    for name in ("skewed", "typical"):
        part = found[name]
        shown = "{median:.2f} [{low:.2f}, {high:.2f}]".format(**part["ratio"])
        rates = " | ".join(str(part[way]["texts_a_second"]) for way in ("batcher", "counting"))
        lines.append(f"| {name} | {rates} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = common_arguments(__doc__)
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    bundles = make_bundles(chosen.cache, chosen.data)
    sources = [text for split in ("train", "test") for text, _ in labelled(chosen.data, split)]
    servable = Servable.load(bundles.bundle(chosen.precision))
    lanes = os.cpu_count() or 1
    found: dict[str, Any] = {"precision": chosen.precision, "lanes": lanes, "clients": chosen.clients}
    for name, make in (("skewed", skewed), ("typical", typical)):
        say(f"{name}: {chosen.rounds} rounds")
        texts = make(sources, bundles.tokenizer(), count=4000)
        found[name] = measure(
            servable, texts, clients=chosen.clients, seconds=chosen.seconds, rounds=chosen.rounds, lanes=lanes
        )
    report(found, table, chosen.json)


if __name__ == "__main__":
    main()
