"""Near-duplicates in the store: new texts are linked to those near them, and all concerned get the split of the rules."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.events import Inputs, Origin, Split
from core.examples import ExampleBatch, ExampleStore, NearRows, NearText, Rank, StoreTransaction, normalise
from feedback.near.minhash import BANDS, Grams, MinHash, jaccard
from feedback.near.rules import judges, split_among

SIMILARITY: Final = 0.8
_SHARED: Final = 2
"""Bands that two texts must share to be compared."""
_CROWD: Final = 64
"""Texts that one key is kept of; more would make every further one like them slower to place."""
_LISTED: Final = 20
"""Keys of a text that must be kept, or it would be overlooked too easily: then it neither trains nor judges, nor is linked."""
_CHUNK: Final = 500


class NearDuplicates:
    """Places examples among those near them."""

    def __init__(self, key: bytes, *, model: str, copies: int) -> None:
        """Prepare the hashes.

        Args:
            key: the store's, of the HMACs that name examples.
            model: whose examples.
            copies: how many near copies with one target may train.
        """
        self._minhash = MinHash(key, model=model)
        self._copies = copies

    def place(self, store: StoreTransaction, batch: ExampleBatch) -> None:
        """Set the splits of what a batch draws, gives another target or rejects, and of all that this concerns."""
        touched = batch.draws.keys() | batch.retargeted | batch.rejected.keys()
        if not touched:
            return
        near = store.near
        known = near.texts(batch.draws)
        crowded = self._link(near, batch, [name for name in batch.draws if _needs_links(batch, name, known.get(name))])
        near.put(
            [
                NearText(
                    example_id=name,
                    rank=rank,
                    drawn=drawn,
                    crowded=name in crowded,
                    rejected=batch.rejected.get(name, False),
                )
                for name, (rank, drawn) in batch.draws.items()
            ]
        )
        near.mark_rejected({name: flag for name, flag in batch.rejected.items() if name not in batch.draws})
        self._settle(near, batch, touched)

    def catch_up(self, store: ExampleStore) -> int:
        """Place some of what an earlier version of Ratchet stored; returns how many, 0 when all are placed.

        What was held out stays held out.
        """
        with store.transaction() as transaction:
            ids = transaction.near.unplaced(limit=_CHUNK)
            if ids:
                batch = ExampleBatch(transaction, example_ids=ids, targets=[])
                for name, (example, *_) in batch.load(ids).items():
                    batch.draw(name, rank_of(example.origin, example.sources), example.split)
                self.place(transaction, batch)
                batch.flush()
        return len(ids)

    def _link(self, near: NearRows, batch: ExampleBatch, new: Sequence[str]) -> set[str]:
        """Store keys and pairs of new examples; returns those that are crowded."""
        if not new:
            return set()
        texts = {name: text_of(batch.load(new)[name][0].inputs) for name in new}
        grams = Grams.of(list(texts.values()))
        keys = self._minhash.bands(grams)
        stored = near.bands(np.unique(keys).tolist())
        names = list(dict.fromkeys([*new, *(name for _, name in stored)]))
        row_of = {name: row for row, name in enumerate(names)}
        bands = np.array([band for band, _ in stored], dtype=np.int64)
        holders = np.array([row_of[name] for _, name in stored], dtype=np.int64)
        listed = _listed(keys, bands)
        rows, columns = np.nonzero(listed)
        near.add_bands(zip(keys[rows, columns].tolist(), (new[row] for row in rows.tolist()), strict=True))
        bands = np.concatenate([bands, keys[listed]])
        holders = np.concatenate([holders, rows])
        pairs = _candidates(keys, bands, holders)
        sets = dict(zip(new, grams.sets(), strict=True))
        others = [names[row] for row in np.unique(pairs) if names[row] not in sets]
        if others:
            older = {name: text_of(inputs) for name, inputs in near.inputs(others).items()}
            sets.update(zip(older, Grams.of(list(older.values())).sets(), strict=True))
        crowded = {name for name, count in zip(new, listed.sum(axis=1), strict=True) if count < _LISTED}
        alone = {name for name in crowded if batch.draws[name][0] != Rank.AUDIT}
        near.add_pairs(
            (names[one], names[other])
            for one, other in pairs.tolist()
            if alone.isdisjoint((names[one], names[other]))
            and jaccard(sets[names[one]], sets[names[other]]) >= SIMILARITY
        )
        return crowded

    def _settle(self, near: NearRows, batch: ExampleBatch, touched: Collection[str]) -> None:
        """A text's neighbours decide whether it judges; whether its neighbours judge decides what it may be used for."""
        graph: dict[str, set[str]] = {}
        once = _grown(near, graph, touched)  # these may begin or cease to judge
        twice = _grown(near, graph, once)  # so these may get another split
        thrice = _grown(near, graph, twice)
        texts = {name: _present(text, batch) for name, text in near.texts(thrice).items()}
        around = {name: [texts[other] for other in graph[name]] for name in twice}
        judging = {name for name in once if judges(texts[name], around[name])}
        judging |= {name for name in thrice - once if texts[name].split == Split.HOLDOUT}
        found = {
            name: split_among(texts[name], around[name], judging=judging, copies=self._copies) for name in sorted(twice)
        }
        held = batch.load(
            name
            for name, (split, _) in found.items()
            if name in touched or split != texts[name].split or split == Split.BARRED
        )
        for name, (example, target_at, target_by) in held.items():
            split, reason = found[name]
            if (example.split, example.split_reason) != (split, reason):
                changed = example.model_copy(update={"split": split, "split_reason": reason})
                batch.put_example(changed, target_at=target_at, target_by=target_by)


def text_of(inputs: Inputs) -> str:
    """What of an example's inputs is compared: all its texts, without what :func:`normalise` takes out."""
    return "\n".join(value for value in normalise(inputs).values() if isinstance(value, str))


def rank_of(origin: Origin, sources: Collection[str]) -> Rank:
    """The rank of a stored example. A seed that somebody corrected is still one."""
    if origin in (Origin.AUDIT, Origin.PSEUDO_LABEL):
        return Rank.AUDIT if origin == Origin.AUDIT else Rank.PSEUDO_LABEL
    return Rank.SEED if origin == Origin.SEED or "seed" in sources else Rank.FEEDBACK


def _needs_links(batch: ExampleBatch, name: str, known: NearText | None) -> bool:
    """True for a new example, and for an audit that was one too many of its like before."""
    return known is None or (known.crowded and batch.draws[name][0] == Rank.AUDIT)


def _listed(keys: NDArray[np.int64], stored: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which keys of new texts are kept: of each key the first 64 texts, those that are stored included."""
    flat = keys.ravel()
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    before = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    present = np.sort(stored)
    before += np.searchsorted(present, ordered, side="right") - np.searchsorted(present, ordered)
    kept = np.empty(len(flat), dtype=np.bool_)
    kept[order] = before < _CROWD
    return kept.reshape(keys.shape)


def _candidates(keys: NDArray[np.int64], bands: NDArray[np.int64], holders: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of rows, shape (pairs, 2), that share at least two bands: one a row of ``keys``, each pair once.

    Args:
        keys: of the new texts, which are the first rows.
        bands: keys that are kept.
        holders: the row that has each of them.
    """
    order = np.argsort(bands, kind="stable")
    bands, holders = bands[order], holders[order]
    flat = keys.ravel()
    first = np.searchsorted(bands, flat)
    counts = np.searchsorted(bands, flat, side="right") - first
    asking = np.repeat(np.repeat(np.arange(len(keys)), BANDS), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found = holders[np.repeat(first, counts) + offsets]
    one, other = np.minimum(asking, found), np.maximum(asking, found)
    # Two new texts find each other from both sides; one of them may have a key that is not kept.
    both_new = other < len(keys)
    width = int(other.max(initial=0)) + 1
    sides = ((asking < found) & both_new, (asking > found) & both_new, ~both_new)
    pairs = np.unique(np.concatenate([_often((one * width + other)[side]) for side in sides]))
    return np.stack([pairs // width, pairs % width], axis=1)


def _often(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    values, counts = np.unique(pairs, return_counts=True)
    return values[counts >= _SHARED]


def _grown(near: NearRows, graph: dict[str, set[str]], ids: Collection[str]) -> set[str]:
    """The ids and those near them; what is found out is added to ``graph``."""
    unknown = [name for name in ids if name not in graph]
    found: defaultdict[str, set[str]] = defaultdict(set)
    for one, other in near.pairs(unknown):
        found[one].add(other)
    for name in unknown:
        graph[name] = found[name]
    return set(ids).union(*(graph[name] for name in ids))


def _present(text: NearText, batch: ExampleBatch) -> NearText:
    """With the target and the split that the batch has given it."""
    stored = batch.example(text.example_id)
    return text if stored is None else replace(text, target=str(stored[0].target), split=stored[0].split)
