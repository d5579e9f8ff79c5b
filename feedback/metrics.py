"""The feedback program's Prometheus metrics."""

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("ratchet_events_consumed_total", "Events taken from the log by type.", ["type"])
OUTCOMES = Counter("ratchet_feedback_outcomes_total", "Feedback by what became of it and why.", ["status", "reason"])
DEAD_LETTERS = Counter("ratchet_dead_letters_total", "Records that could not be processed, by kind of fault.", ["kind"])
PARKED = Gauge("ratchet_parked_records", "Records of a newer Ratchet that wait until this program is upgraded.")
BATCH_SECONDS = Histogram("ratchet_consumer_batch_seconds", "Time that one batch of events takes.")
LOG_LAG = Gauge("ratchet_log_lag_records", "Records in the log that have not been consumed.", ["topic"])
JOIN_BACKLOG = Gauge("ratchet_join_backlog", "Feedback that waits for its prediction.")
JOIN_OLDEST = Gauge("ratchet_join_oldest_seconds", "Age of the oldest feedback that waits for its prediction.")
OUTBOX = Gauge("ratchet_feedback_outbox_records", "Events that wait to be appended to the log.")
EXAMPLES = Gauge("ratchet_examples", "Examples in the store.", ["origin", "split"])
PARTITIONS = Gauge("ratchet_consumer_partitions", "Partitions that this consumer holds.")
FAULTS = Counter("ratchet_consumer_faults_total", "Faults that made the consumer back off, by kind.", ["kind"])
LIVE_VERSION = Gauge("ratchet_consumer_live_version_info", "The version that new feedback is scored with.", ["version"])
REVIEW_WAITING = Gauge("ratchet_review_waiting", "Predictions that wait for a human answer.", ["part"])
ACCURACY = Gauge(
    "ratchet_accuracy_estimate",
    "Accuracy on the traffic of 30 days, estimated from answers to what was drawn by lot; the bounds are of 95 %.",
    ["bound"],
)
ACCURACY_ANSWERS = Gauge("ratchet_accuracy_answers", "Answers that the estimate of the accuracy rests on.")
