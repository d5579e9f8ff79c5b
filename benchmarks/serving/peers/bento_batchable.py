"""Plain BentoML as its documentation does it: ``@bentoml.api(batchable=True)``, two workers of one thread each.

The documentation (guides "Adaptive batching" and "Workers") asks for a list in and a list out, a worker a core for work that
is bound by the CPU, and ``max_batch_size`` and ``max_latency_ms`` to suit the model.
"""

from typing import Any

import bentoml

from benchmarks.serving.peers.model import Model


@bentoml.service(workers=2, traffic={"timeout": 60, "max_concurrency": 4096})
class Classifier:
    """A text classifier."""

    def __init__(self) -> None:
        self._model = Model()
        self._model.answer(["warm up"])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)
    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        """Answers in the order given."""
        return self._model.answer(texts)
