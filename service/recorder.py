"""The way of prediction records to the log: never in the way of a prediction.

They wait in memory. A log out of reach costs nothing until the queue is full; then new records are dropped and counted:
a prediction that was not recorded can still be corrected by sending its inputs along.
"""

import threading
import time
from collections import deque
from typing import Final

from core.errors import BadRecord, LogUnavailable
from core.eventlog.base import EventLog, NewRecord, check_sizes
from core.events import INTERACTIONS, Prediction, encode
from core.logs import get_logger
from service.metrics import LOG_ERRORS, PREDICTIONS_DROPPED
from service.threads import Backoff, Loop

_BATCH: Final = 500
_LINGER_S: Final = 0.05  # a batch is one commit of the log; corrections come seconds later
_log = get_logger()


def is_audit(prediction_id: str, rate: float) -> bool:
    """Whether a prediction is drawn for an audit: by chance of ``rate``, but always the same for the same id."""
    # The last half of an id of ours is 32 random bits and more (RFC 9562); a hash of it would be no more random.
    return int(prediction_id[-8:], 16) < rate * 2**32


class Recorder:
    """A bounded queue and the thread that empties it."""

    def __init__(self, log: EventLog, *, limit: int) -> None:
        self._event_log = log
        self._limit = limit
        self._queue: deque[Prediction] = deque()
        self._batch: list[NewRecord] = []
        self._lock = threading.Lock()
        self._backoff = Backoff()
        self._failing = False
        self._loop = Loop("recorder", self._step)

    def start(self) -> None:
        """Begin to record."""
        self._loop.start()

    @property
    def pending(self) -> int:
        """How many records wait."""
        return len(self._queue) + len(self._batch)

    def put(self, predictions: list[Prediction]) -> None:
        """Queue records; those that find it full are dropped and counted. Never waits for the log."""
        with self._lock:
            room = max(0, self._limit - self.pending)
            self._queue.extend(predictions[:room])
        if len(predictions) > room:
            PREDICTIONS_DROPPED.inc(len(predictions) - room)
        self._loop.wake()

    def stop(self, timeout_s: float) -> int:
        """Record what waits, at most for ``timeout_s`` seconds; returns how many records were lost."""
        deadline = time.monotonic() + timeout_s
        if self._loop.stop(timeout_s):
            while self.pending and time.monotonic() < deadline:
                try:
                    self._append()
                except LogUnavailable:
                    time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
        lost = self.pending
        if lost:
            PREDICTIONS_DROPPED.inc(lost)
            _log.error("prediction records were lost: the log could not be reached before the end", count=lost)
        return lost

    def _step(self) -> float:
        if not self.pending:
            return 60.0
        self._loop.pause(_LINGER_S)
        try:
            self._append()
        except LogUnavailable as error:
            LOG_ERRORS.inc()
            if not self._failing:
                _log.warning("the log cannot be reached; prediction records wait", error=str(error))
            self._failing = True
            self._loop.pause(self._backoff.failed())
            return 0.0
        if self._failing:
            _log.info("the log is back")
        self._failing = False
        self._backoff.succeeded()
        return 0.0

    def _append(self) -> None:
        if not self._batch:
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            # by prediction id, so that a prediction and the feedback on it meet in one partition
            self._batch = [NewRecord(key=event.prediction_id, value=encode(event)) for event in taken]
        try:
            self._event_log.append(INTERACTIONS, self._batch)
        except BadRecord as error:  # nothing of the batch was taken
            fitting = [record for record in self._batch if _fits(record)]
            if len(fitting) == len(self._batch):
                raise
            PREDICTIONS_DROPPED.inc(len(self._batch) - len(fitting))
            _log.error("the log refuses prediction records for good", reason=str(error))
            self._batch = fitting
            return
        self._batch = []


def _fits(record: NewRecord) -> bool:
    try:
        check_sizes([record])
    except BadRecord:
        return False
    return True
