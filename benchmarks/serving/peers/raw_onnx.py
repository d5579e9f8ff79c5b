"""Raw ONNX Runtime in a loop: the limit. Two callers of one session, one thread each, batches of 16, no HTTP.

    [BENCH_CALLERS=2] [BENCH_BATCH=16] python -m benchmarks.serving.peers.raw_onnx TEXTS.json SECONDS

Prints one JSON object with texts a second: ``arriving`` for batches as texts come, tokenized and padded beforehand;
``many`` for 256 texts at a time, sorted by length, tokenization included, as one large request would be answered.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

from benchmarks.serving.peers.model import Model

CALLERS, BATCH = int(os.environ.get("BENCH_CALLERS", "2")), int(os.environ.get("BENCH_BATCH", "16"))
MANY = 256


def together(call: Callable[[Iterator[list[str]]], int], batches: list[list[str]], seconds: float) -> float:
    """Texts a second of all callers."""
    counts = [0] * CALLERS
    started = time.perf_counter()
    end = started + seconds

    def work(caller: int) -> None:
        own = cycle(batches[caller::CALLERS])
        while time.perf_counter() < end:
            counts[caller] += call(own)

    threads = [threading.Thread(target=work, args=(caller,)) for caller in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def main(texts_file: str, seconds: str) -> None:
    """Measure both."""
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))[: 64 * BATCH]
    model = Model()
    batches = [texts[start : start + BATCH] for start in range(0, len(texts) - BATCH + 1, BATCH)]
    feeds = {batch[0]: model.feed(batch) for batch in batches}
    model.run(feeds[batches[0][0]])

    def arriving(own: Iterator[list[str]]) -> int:
        model.run(feeds[next(own)[0]])
        return BATCH

    def many(own: Iterator[list[str]]) -> int:
        request = sorted((text for batch in islice(own, MANY // BATCH) for text in batch), key=len)
        for start in range(0, MANY, BATCH):
            model.run(model.feed(request[start : start + BATCH]))
        return MANY

    together(arriving, batches, 0.5)
    found = {name: together(call, batches, float(seconds)) for name, call in (("arriving", arriving), ("many", many))}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
