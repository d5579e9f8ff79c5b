"""The trainer's Prometheus metrics."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_MINUTES: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)

RUNS = Counter("ratchet_training_runs_total", "Training runs by lane and result.", ["lane", "result"])
RUN_SECONDS = Histogram("ratchet_training_run_seconds", "Duration of a training run.", buckets=_MINUTES)
STEP_SECONDS = Histogram(
    "ratchet_training_phase_seconds", "Duration of a phase of a training run.", ["phase"], buckets=(0.1, 0.5, *_MINUTES)
)
RUNNING = Gauge("ratchet_training_running", "1 while a training run is going on.")
NEW_EXAMPLES = Gauge("ratchet_new_examples", "Selected examples that the live model has not been trained on.")
VERDICTS = Counter("ratchet_gate_verdicts_total", "Verdicts of the gate by result.", ["result"])
GATE_ACCURACY = Gauge("ratchet_gate_holdout_accuracy", "Accuracy on the holdout at the last verdict.", ["role"])
GATE_HOLDOUT = Gauge("ratchet_gate_holdout_examples", "Examples in the holdout at the last verdict.")
GATE_FLIPS = Gauge("ratchet_gate_negative_flips", "Holdout texts that only the champion got right at the last verdict.")
GATE_LOW_POWER = Gauge("ratchet_gate_low_power", "1 if the last verdict had too few holdout texts for a test.")
GATE_LATENCY = Gauge("ratchet_gate_latency_ratio", "Latency of the challenger in the champion's at the last verdict.")
LEASE_HELD = Gauge("ratchet_training_lease_held", "1 while this trainer holds the lease of its lane.")
FAULTS = Counter("ratchet_trainer_faults_total", "Faults that made the trainer back off, by kind.", ["kind"])
PROVIDER = Gauge("ratchet_trainer_device_info", "Where training really runs.", ["device"])
