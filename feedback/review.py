"""Fills and orders the review queue: which predictions wait for a human answer, drawn by lot or chosen by a strategy.

Everything costs little per prediction: what comes in is thinned by what the service said already (the answer's own
probabilities), and only what stays is embedded, a few at a time, beside the batches.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.events import Prediction, now
from core.examples import ExampleStore, StoreTransaction
from core.examples.review import Placed, Pooled, Waiting, lot_of
from core.examples.review_report import estimate_accuracy
from core.selection import Candidates, get_strategy
from core.selection.margin import margin
from core.settings import Settings
from feedback import metrics
from feedback.live import LiveModel

_OF_A_BATCH: Final = 16
"""Of one batch so many may enter the chosen part: at a thousand a second the pool is renewed within a minute."""
_EMBEDDED: Final = 96
"""At most so many are embedded in one sweep, a few seconds apart: about two hundred milliseconds of one core."""
_ASKED_FOR: Final = 500
"""The chosen ones that get a place in the order; as many as one request may ask for."""
_AT_ONCE: Final = 50
"""Chosen together; the next fifty then know of them. About what people answer before the head is refitted."""
_NO_SEED: Final = np.zeros(1, dtype=np.uint64)
_REORDER_S: Final = 10.0
_SMALLEST: Final = 1e-6  # of a rate: one in a million predictions is drawn


class ReviewQueue:
    """The feedback program's part of the review queue."""

    def __init__(self, settings: Settings, live: LiveModel) -> None:
        """Raises BadSettings for an unknown strategy."""
        self._settings = settings
        self._live = live
        self._strategy = get_strategy(settings.review_selection)
        self._most_drawn = max(1, round(settings.review_pool * settings.review_random_share))
        self._known: dict[str, NDArray[np.float64]] = {}
        self._ordered_by: str | None = None
        self._changed = True
        self._next_order = 0.0

    def admit(self, store: StoreTransaction, predictions: Sequence[Prediction]) -> None:
        """Let some of a batch's predictions into the queue, within the batch's transaction.

        Each is drawn by its own lot, whatever it says. Of the others the least certain enter, and a few by lot.
        """
        if not predictions or not self._settings.review_pool:
            return
        rate = min(store.review.rate(), self._settings.review_random_share)
        rows = [self._waiting(event) for event in predictions]
        drawn = [Waiting(**{**vars(row), "probability": rate}) for row in rows if row.lot < rate]
        # One that the service drew for an audit is never chosen: its answer would tell of hard texts, not of all.
        audits = {event.prediction_id for event in predictions if event.audit_probability is not None}
        free = (row for row in rows if row.lot >= rate and row.prediction_id not in audits)
        rest = sorted(free, key=lambda row: (-row.doubt, row.lot))
        few = _OF_A_BATCH // 4
        sure = sorted(rest[_OF_A_BATCH - few :], key=lambda row: row.lot)
        store.review.add([*drawn, *rest[: _OF_A_BATCH - few], *sure[:few]])
        self._changed = True
        if drawn:
            self._thin(store, rate)

    def _thin(self, store: StoreTransaction, rate: float) -> None:
        """Halve the rate until the drawn part fits: whoever stays has a lot below the new one, too."""
        while store.review.counts()[0] > self._most_drawn and rate > _SMALLEST:
            rate = store.review.set_rate(rate / 2)

    def _waiting(self, event: Prediction) -> Waiting:
        return Waiting(
            prediction_id=event.prediction_id,
            lot=lot_of(event.prediction_id),
            probability=None,
            doubt=1.0 - event.confidence,
            at=event.at,
        )

    def sweep(self, store: ExampleStore) -> None:
        """Tidy up, embed what came, and order anew where something changed; called every few seconds."""
        settings = self._settings
        with store.transaction() as transaction:
            room = max(0, settings.review_pool - self._most_drawn)
            transaction.review.trim(chosen=room, before=now() - timedelta(days=settings.review_days))
            rate, (drawn, _) = transaction.review.rate(), transaction.review.counts()
            if drawn * 4 < self._most_drawn and rate < settings.review_random_share:
                transaction.review.set_rate(min(settings.review_random_share, rate * 2))
        self._report(store)
        version = self._live.version
        is_new = version != self._ordered_by
        if version is None or not (is_new or (self._changed and time.monotonic() >= self._next_order)):
            return
        self._changed = self._order(store, is_new=is_new)
        self._ordered_by, self._next_order = version, time.monotonic() + _REORDER_S

    @staticmethod
    def _report(store: ExampleStore) -> None:
        at = now()
        with store.review() as review:
            counts, accuracy = review.counts(since=at), estimate_accuracy(review, at=at)
        metrics.REVIEW_WAITING.labels(part="drawn").set(counts.drawn)
        metrics.REVIEW_WAITING.labels(part="chosen").set(counts.chosen)
        metrics.ACCURACY_ANSWERS.set(accuracy["answers"])
        if accuracy["answers"]:
            for bound in ("share", "low", "high"):
                metrics.ACCURACY.labels(bound=bound).set(accuracy[bound])

    def _order(self, store: ExampleStore, *, is_new: bool) -> bool:
        """Let the strategy choose among the pool. True where some were left to embed next time."""
        graph = self._live.graph or ""
        with store.review() as review:
            pool = review.pool(graph=graph)
        if is_new:
            self._known.clear()
        self._look(pool)
        # One that is known without a stored embedding: the transaction failed that was to store it.
        fresh = self._embed([row for row in pool if row.prediction_id not in self._known or row.embedding is None])
        vectors = {row.prediction_id: row.embedding for row in pool if row.embedding is not None} | fresh
        seen = [row for row in pool if row.prediction_id in self._known and row.prediction_id in vectors]
        placed = self._place([row for row in seen if not row.answered], [row for row in seen if row.answered], vectors)
        with store.transaction() as transaction:
            transaction.review.set_embeddings(graph, fresh)
            transaction.review.place(placed)
        ids = {row.prediction_id for row in pool}
        self._known = {name: said for name, said in self._known.items() if name in ids}
        return len(seen) < len(pool)

    def _look(self, pool: Sequence[Pooled]) -> None:
        """What the live head makes of the embeddings that are there."""
        rows = [row for row in pool if row.embedding is not None and row.prediction_id not in self._known]
        if rows:
            said = self._live.probabilities_of(np.array([row.embedding for row in rows]))
            if said is not None:
                self._known |= {row.prediction_id: line for row, line in zip(rows, said, strict=True)}

    def _embed(self, unknown: Sequence[Pooled]) -> dict[str, NDArray[np.float32]]:
        """Embed some by the live graph, the most doubtful first; shape (size,) by prediction id."""
        rows = sorted(unknown, key=lambda row: (row.answered, -row.doubt))[:_EMBEDDED]
        if not rows:
            return {}
        probabilities, embeddings = self._live.infer([row.prediction.inputs for row in rows])
        self._known |= {row.prediction_id: said for row, said in zip(rows, probabilities, strict=True)}
        return {row.prediction_id: vector for row, vector in zip(rows, embeddings, strict=True)}

    def _place(
        self, free: Sequence[Pooled], answered: Sequence[Pooled], vectors: Mapping[str, NDArray[np.float32]]
    ) -> list[Placed]:
        """The order of those that wait; what was answered of late counts as labelled, whether it was learned yet or not."""
        chosen: list[int] = []
        scores: dict[int, float] = {}
        while len(chosen) < min(len(free), _ASKED_FOR):
            left = [row for row in range(len(free)) if row not in scores]
            candidates = self._candidates(
                [free[row] for row in left], [*answered, *(free[row] for row in chosen)], vectors
            )
            selection = self._strategy(candidates, _AT_ONCE)
            scores |= {left[row]: score for row, score in zip(selection.rows, selection.scores.tolist(), strict=True)}
            chosen += [left[row] for row in selection.rows]
        place = {row: number for number, row in enumerate(chosen[:_ASKED_FOR])}
        by = self._settings.review_selection, self._live.version
        return [
            Placed(
                prediction_id=item.prediction_id,
                place=place.get(row),
                doubt=float(margin(self._known[item.prediction_id][None], seeds=_NO_SEED)[0]),
                score=scores.get(row),
                reason=f"{by[0]} {scores[row]:.3f} by {by[1]}" if row in scores else "",
            )
            for row, item in enumerate(free)
        ]

    def _candidates(
        self, free: Sequence[Pooled], labelled: Sequence[Pooled], vectors: Mapping[str, NDArray[np.float32]]
    ) -> Candidates:
        embeddings = np.array([vectors[row.prediction_id] for row in free])
        near = np.array([vectors[row.prediction_id] for row in labelled], dtype=np.float32)
        return Candidates(
            probabilities=np.array([self._known[row.prediction_id] for row in free]),
            embeddings=embeddings,
            seeds=np.array([int(lot_of(row.prediction_id) * 2**48) for row in free], dtype=np.uint64),
            labelled=near.reshape(len(labelled), embeddings.shape[1]),
            labelled_targets=np.array([self._known[row.prediction_id].argmax() for row in labelled], dtype=np.int64),
            labelled_count=self._live.trained_on,
        )
