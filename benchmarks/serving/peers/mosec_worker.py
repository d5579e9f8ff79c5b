"""mosec: its HTTP and batching are Rust; two worker processes of one thread each, or one of two threads (BENCH_WORKERS=1)."""

import os
from typing import Any

from mosec import Server, Worker

from benchmarks.serving.peers.model import Model

WORKERS = int(os.environ.get("BENCH_WORKERS", "2"))


class Classifier(Worker):  # type: ignore[misc]
    """A text classifier."""

    def __init__(self) -> None:
        self._model = Model(threads=2 // WORKERS)
        self._model.answer(["warm up"])

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers of a batch."""
        return self._model.answer([item["text"] for item in data])


if __name__ == "__main__":
    server = Server()
    # 1 ms is the shortest wait that it takes; 10 ms is its default
    server.append_worker(Classifier, num=WORKERS, max_batch_size=16, max_wait_time=1, timeout=30)
    server.run()
