"""Pseudo-labels: confident answers that nobody has judged are learned a little, where stored examples speak for them.

Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks", ICML 2013 workshop.
A model that learns from its own answers confirms its errors (Arazo et al., arXiv 1908.02983), hence: off by default, a low
weight, all nearest neighbours among examples that people labelled must agree, a cap for each label and for the share of the
whole, and no pseudo-label ever judges.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.errors import BadRecord
from core.events import Example, Inputs, Origin, Prediction, Split, now
from core.examples import ExampleBatch, ExampleStore, Rank
from core.settings import Settings
from feedback.live import LiveModel
from feedback.near import NearDuplicates
from feedback.reading import InputsReader

_LOOKED_AT: Final = 100
"""Predictions of one turn."""
_COMPARED: Final = 2_000
"""Labelled examples that neighbours are looked for among; they are embedded once for each graph."""


class PseudoLabeller:
    """Makes examples of confident predictions."""

    def __init__(self, settings: Settings, live: LiveModel, key: bytes) -> None:
        """Raises BadSettings for what cannot read inputs."""
        self._settings = settings
        self._live = live
        self._reader = InputsReader(settings, key)
        self._near = NearDuplicates(key, model=settings.model, copies=settings.near_copies)
        self._seen: datetime | None = None
        self._neighbours = _Neighbours(live)

    def turn(self, store: ExampleStore) -> int:
        """Look at the predictions since the last turn; returns how many became examples."""
        settings = self._settings
        if not settings.pseudo_labels or self._live.graph is None:
            return 0
        found = store.confident(at_least=settings.pseudo_min_confidence, after=self._seen, limit=_LOOKED_AT)
        if not found:
            return 0
        self._seen = found[-1].at
        read = self._read(found)
        labels = self._labels(store, list(read.values()))
        chosen = {name: (inputs, label) for (name, inputs), label in zip(read.items(), labels, strict=True) if label}
        return self._store(store, chosen) if chosen else 0

    def _read(self, predictions: Sequence[Prediction]) -> dict[str, Inputs]:
        read = {}
        for prediction in predictions:
            try:
                inputs, name = self._reader.read(prediction.inputs)
            except BadRecord:
                continue
            read[name] = inputs
        return read

    def _labels(self, store: ExampleStore, inputs: Sequence[Inputs]) -> list[str | None]:
        """For each the label that the live model is sure of now and that all its nearest neighbours have; else None."""
        probabilities, embeddings = self._live.infer(inputs)
        agreed = self._neighbours.agreed(store, embeddings, count=self._settings.pseudo_neighbours)
        best = [self._live.labels[column] for column in probabilities.argmax(axis=1)]
        sure = probabilities.max(axis=1) >= self._settings.pseudo_min_confidence
        return [label if ok and label == other else None for label, ok, other in zip(best, sure, agreed, strict=True)]

    def _store(self, store: ExampleStore, chosen: dict[str, tuple[Inputs, str]]) -> int:
        settings = self._settings
        with store.transaction() as transaction:
            batch = ExampleBatch(transaction, example_ids=chosen, targets=[])
            made: Counter[str] = Counter(transaction.label_counts(Origin.PSEUDO_LABEL))
            left = int(settings.pseudo_share * batch.counts.total()) - made.total()
            at = now()
            for name, (inputs, label) in chosen.items():
                # What was rejected or labelled by a person needs no guess.
                known = batch.example(name) is not None or any(item.example_id == name for item in batch.rejections())
                if known or left <= 0 or made[label] >= settings.pseudo_per_label:
                    continue
                made[label] += 1
                left -= 1
                batch.put_example(self._example(name, inputs, label), target_at=at, target_by="pseudo")
                batch.draw(name, Rank.PSEUDO_LABEL, Split.TRAIN)
            self._near.place(transaction, batch)
            batch.flush()
        return len(batch.draws)

    def _example(self, name: str, inputs: Inputs, label: str) -> Example:
        return Example(
            model=self._settings.model,
            example_id=name,
            seq=0,
            task=self._settings.task,
            inputs=inputs,
            target=label,
            origin=Origin.PSEUDO_LABEL,
            split=Split.TRAIN,
            selected=False,
            weight=self._settings.pseudo_weight,
            trust=0.0,
            selection_reason=f"{self._live.version} is sure, and its nearest neighbours agree",
        )


class _Neighbours:
    """Labelled examples as the live graph sees them."""

    def __init__(self, live: LiveModel) -> None:
        self._live = live
        self._graph: str | None = None
        self._embeddings: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._labels: list[str] = []

    def agreed(self, store: ExampleStore, embeddings: NDArray[np.float32], *, count: int) -> list[str | None]:
        """For each row the label of all its nearest examples by cosine; None where they differ or are too few."""
        if self._graph != self._live.graph:
            examples = store.labelled(limit=_COMPARED)
            if len(examples) < count:
                return [None] * len(embeddings)
            _, self._embeddings = self._live.infer([example.inputs for example in examples])
            self._labels = [str(example.target) for example in examples]
            self._graph = self._live.graph
        nearest = np.argpartition(-(embeddings @ self._embeddings.T), count - 1, axis=1)[:, :count]
        labels = [{self._labels[place] for place in row} for row in nearest.tolist()]
        return [found.pop() if len(found) == 1 else None for found in labels]
