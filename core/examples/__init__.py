"""The example store: what the feedback program wrote down, on SQLite or PostgreSQL."""

from core.examples.batch import ExampleBatch
from core.examples.identity import example_id, normalise, split_of
from core.examples.leases import Lease, LeaseKeeper
from core.examples.near import NearRows, NearText, Rank
from core.examples.parked import ParkedRecord
from core.examples.store import ExampleStore, PendingFeedback, StoreTransaction
from core.examples.transaction import Rejection, Stored

__all__ = [
    "ExampleBatch",
    "ExampleStore",
    "Lease",
    "LeaseKeeper",
    "NearRows",
    "NearText",
    "ParkedRecord",
    "PendingFeedback",
    "Rank",
    "Rejection",
    "StoreTransaction",
    "Stored",
    "example_id",
    "normalise",
    "split_of",
]
