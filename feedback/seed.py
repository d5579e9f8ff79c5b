"""The first examples: a user's labelled texts, checked as a whole, then stored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.events import Example, Origin, now
from core.examples import ExampleBatch, ExampleStore, Rank, StoreTransaction
from core.settings import Settings
from feedback.intake import BadSeedFile, Checked, Row, check_seed
from feedback.near import NearDuplicates

_CHUNK: Final = 500


@dataclass(frozen=True, kw_only=True)
class SeedReport:
    """What an import did."""

    rows: int
    stored: int
    duplicates: int
    #: the same text with another label: the first one holds
    conflicts: int
    labels: int


def import_seed(
    store: ExampleStore, path: Path, settings: Settings, key: bytes, progress: Callable[[int, int], None]
) -> SeedReport:
    """Check and store a file or folder whose columns need no word of a person. As ``store_seed``."""
    return store_seed(store, check_seed(path, settings, key), settings, key, progress)


def store_seed(
    store: ExampleStore, checked: Checked, settings: Settings, key: bytes, progress: Callable[[int, int], None]
) -> SeedReport:
    """Store the examples of checked data; data that were imported before are only read.

    Args:
        store: where to.
        checked: what was read, with the same settings and key.
        settings: task and shares of the splits.
        key: of the HMACs that name examples.
        progress: told the rows stored and the rows in all.

    Raises:
        BadSeedFile: the data have faulty lines (all of them are counted, the first ten named) or fewer than two labels;
            nothing is stored.
    """
    chosen, found = checked.whole(), checked.found
    mark = f"seed:{checked.digest[:14]}"
    stored = 0
    near = NearDuplicates(key, model=settings.model, copies=settings.near_copies)
    # One transaction: killed in the middle, nothing of the file is there, and the next start stores all of it.
    with store.transaction() as transaction:
        fresh = [] if transaction.is_marked(mark) else chosen
        for start in range(0, len(fresh), _CHUNK):
            stored += _store(transaction, fresh[start : start + _CHUNK], settings, near)
            progress(min(start + _CHUNK, len(fresh)), len(fresh))
        transaction.mark_seeded(found.labels)
        transaction.mark(mark)
    return SeedReport(
        rows=found.rows,
        stored=stored,
        duplicates=found.duplicates,
        conflicts=found.conflicts,
        labels=len(found.labels),
    )


def _store(transaction: StoreTransaction, rows: Sequence[Row], settings: Settings, near: NearDuplicates) -> int:
    batch = ExampleBatch(transaction, example_ids=[row.identity for row in rows], targets=[])
    at = now()
    for row in rows:
        if batch.example(row.identity):
            continue
        split = row.split_among(batch.counts.get(row.target, 0), settings)
        example = Example(
            model=settings.model,
            example_id=row.identity,
            seq=0,
            task=settings.task,
            inputs=row.inputs,
            target=row.target,
            origin=Origin.SEED,
            split=split,
            selection_score=1.0,
            selection_reason="seed",
            sources=["seed"],
        )
        batch.put_example(example, target_at=at, target_by="seed")
        batch.draw(row.identity, Rank.SEED, split)
    near.place(transaction, batch)
    batch.flush()
    return len(batch.draws)


__all__ = ["BadSeedFile", "SeedReport", "import_seed", "store_seed"]
