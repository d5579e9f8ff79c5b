"""What Prometheus sees of the service.

Counters and histograms live in files that the workers share, so they go on when BentoML starts a worker anew. Gauges
are read at the moment they are asked for: the files know no removal, and a dead worker's gauge would stay for good.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client import generate_latest as _generate
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter("ratchet_requests_total", "HTTP requests by route and status", ["route", "status"])
REQUEST_SECONDS = Histogram("ratchet_request_seconds", "Time to answer, by route", ["route"], buckets=_SECONDS)
BATCH_SIZE = Histogram("ratchet_batch_size", "Texts in one call of the model", buckets=_SIZES)
COALESCED = Counter("ratchet_coalesced_total", "Texts answered together with an equal one that was in flight")
BATCH_SECONDS = Histogram("ratchet_batch_seconds", "Time of one call of the model", buckets=_SECONDS)
SWAPS = Counter("ratchet_swaps_total", "Attempts to serve another version", ["result"])
SWAP_SECONDS = Histogram("ratchet_swap_seconds", "Time of a swap by phase", ["phase"], buckets=_SECONDS)
FEEDBACK_RECEIVED = Counter("ratchet_feedback_received_total", "Feedback made durable, by kind", ["kind"])
MASKED = Counter("ratchet_masked_values_total", "Personal data and keys masked in what came in, by kind", ["kind"])
STREAM_LINES = Counter("ratchet_stream_lines_total", "Lines of /v1/predict/stream", ["result"])
PREDICTIONS_DROPPED = Counter(
    "ratchet_predictions_dropped_total", "Prediction records lost: the queue to the log was full"
)
NOT_DURABLE = Counter("ratchet_not_durable_total", "Records refused because the outbox could not keep them")
OUTBOX_REFUSED = Counter(
    "ratchet_outbox_refused_total", "Records that the log refuses for good, set aside in the outbox"
)
REFUSED_BUNDLES = Counter("ratchet_refused_bundles_total", "Versions that could not be served")
TRIALS_UNAVAILABLE = Counter(
    "ratchet_trials_unavailable_total",
    "Trials that could not be held; they are held again, and the version is not served",
)
REGISTRY_ERRORS = Counter("ratchet_registry_errors_total", "Looks at the registry that failed")
LOG_ERRORS = Counter("ratchet_log_errors_total", "Appends to the event log that failed")
INTERNAL_ERRORS = Counter("ratchet_internal_errors_total", "Failures that nobody foresaw; each is in the log")

GAUGES: Final = {
    "ratchet_live_version_info": "1 for the version that answers",
    "ratchet_provider_info": "1 for where the model runs, as ONNX Runtime reports it, and its precision",
    "ratchet_promotion_age_seconds": "Seconds since the answering version was promoted",
    "ratchet_queue_depth": "Texts that wait for a lane",
    "ratchet_prediction_records_pending": "Prediction records that wait for the log",
    "ratchet_outbox_records": "Feedback and commands that wait for the log",
    "ratchet_outbox_age_seconds": "Age of the oldest of them",
}


@dataclass(frozen=True)
class Reading:
    """A gauge's present value."""

    name: str
    value: float
    labels: dict[str, str]


@cache
def _children(route: str, status: str) -> tuple[Counter, Histogram]:
    """A request's metrics; to look them up costs more than to count."""
    return REQUESTS.labels(route=route, status=status), REQUEST_SECONDS.labels(route=route)


def observe_request(route: str, status: int, seconds: float) -> None:
    """Count a request that ended. Routes and statuses are few, and so are the pairs that are kept."""
    requests, times = _children(route, str(status))
    requests.inc()
    times.observe(seconds)


class _Gauges(Collector):
    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = list(readings)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family for each reading."""
        for reading in self._readings:
            family = GaugeMetricFamily(reading.name, GAUGES[reading.name], labels=list(reading.labels))
            family.add_metric(list(reading.labels.values()), reading.value)
            yield family


def render(read: Callable[[], Iterable[Reading]]) -> tuple[bytes, str]:
    """The page of all metrics and its content type."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # BentoML sets it for its workers
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        ProcessCollector(registry=registry)
    else:
        registry.register(REGISTRY)
    registry.register(_Gauges(read()))
    return _generate(registry), CONTENT_TYPE_LATEST
