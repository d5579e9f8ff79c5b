"""Near-duplicates in the store, on SQLite and on a real PostgreSQL: nothing near a judging text trains, whatever came first."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from core.events import EXAMPLES, Example, Origin, Split
from core.examples import ExampleBatch, ExampleStore, Rank, example_id
from feedback.near import NearDuplicates
from feedback.near.duplicates import rank_of
from feedback.near.minhash import Grams, jaccard
from feedback.near.rules import CROWDED, JUDGED
from tests.contracts.store_support import AT, an_example, put

KEY = b"k" * 64
SENTENCES = (
    "where is my parcel number {}, it should have come a week ago",
    "I want to send back the shoes of order {} because they are too small",
    "我上个星期订的东西到现在还没有收到，订单号是{}，请尽快处理一下",
    "how do I get a new card after {} was swallowed by the machine",
    "my account {} shows a payment that I have never made",
    "can I change the address of delivery {} before it is sent",
    "the discount code {} is refused at the checkout",
    "please cancel subscription {} at the end of the month",
    "the transfer {} to my savings has been pending for days",
)


def _made(text: str, **fields: object) -> Example:
    identity = example_id(KEY, model="default", task="t", inputs={"text": text})
    return an_example(0, example_id=identity, inputs={"text": text}, **fields)


def _pool(count: int, seed: int) -> list[Example]:
    """Near copies of a few sentences, of two labels, some held out by their draw and a few audits."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        origin = rng.choices([Origin.CORRECTION, Origin.SEED, Origin.AUDIT], weights=[30, 10, 1])[0]
        split = Split.HOLDOUT if origin == Origin.AUDIT or rng.random() < 0.4 else Split.TRAIN
        text = rng.choice(SENTENCES).format(number)
        found.append(_made(text, origin=origin, split=split, target=rng.choice("ab")))
    return found


def _place(store: ExampleStore, examples: Sequence[Example], copies: int = 3) -> None:
    near = NearDuplicates(KEY, model="default", copies=copies)
    with store.transaction() as transaction:
        batch = ExampleBatch(transaction, example_ids=[example.example_id for example in examples], targets=[])
        for example in examples:
            batch.put_example(example, target_at=AT, target_by="f")
            batch.draw(example.example_id, rank_of(example.origin, []), example.split)
        near.place(transaction, batch)
        batch.flush()


def _state(store: ExampleStore) -> dict[str, tuple[Split, str]]:
    return {example.example_id: (example.split, example.split_reason) for example in store.examples()}


@pytest.mark.parametrize("seed", range(3))
def test_in_any_order_and_batches_it_comes_to_the_same(open_store: Callable[..., ExampleStore], seed: int) -> None:
    rng, pool = random.Random(seed), _pool(40, seed)
    states = []
    for turn in range(3):
        store = open_store(f"turn{turn}")
        store.migrate()
        rest = rng.sample(pool, len(pool))
        while rest:
            size = rng.choice([1, 3, len(pool)])
            _place(store, rest[:size])
            rest = rest[size:]
        states.append(_state(store))
    assert states[0] == states[1] == states[2]
    assert {split for split, _ in states[0].values()} == {Split.TRAIN, Split.HOLDOUT, Split.BARRED}
    sets = dict(
        zip((item.example_id for item in pool), Grams.of([item.inputs["text"] for item in pool]).sets(), strict=True)
    )
    judging = [name for name, (split, _) in states[0].items() if split == Split.HOLDOUT]
    training = [name for name, (split, _) in states[0].items() if split == Split.TRAIN]
    assert all(jaccard(sets[one], sets[other]) < 0.8 for one in judging for other in training)


def test_a_judging_text_that_comes_later_bars_what_was_trained_on_and_that_is_news(store: ExampleStore) -> None:
    store.migrate()
    first = [_made(SENTENCES[0].format(number)) for number in (11, 12)]
    _place(store, [*first, _made("something else altogether")])
    assert Counter(_state(store).values()) == {(Split.TRAIN, ""): 3}
    audit = _made(SENTENCES[0].format(13), origin=Origin.AUDIT, split=Split.HOLDOUT)
    _place(store, [audit])
    state = _state(store)
    assert state[audit.example_id] == (Split.HOLDOUT, "")
    assert [state[example.example_id] for example in first] == [(Split.BARRED, JUDGED)] * 2
    assert [example.seq for example in store.examples()] == [3, 4, 5, 6]
    assert [row.topic for row in store.outbox()] == [EXAMPLES] * 6
    assert store.new_examples(after=0).count == 1


def test_of_near_copies_with_one_target_a_few_train_and_a_new_target_counts_anew(store: ExampleStore) -> None:
    store.migrate()
    copies = [_made(SENTENCES[1].format(number)) for number in range(20, 28)]
    _place(store, copies)
    assert Counter(split for split, _ in _state(store).values()) == {Split.TRAIN: 3, Split.BARRED: 5}
    barred = next(example for example in store.examples() if example.split == Split.BARRED)
    with store.transaction() as transaction:
        batch = ExampleBatch(transaction, example_ids=[barred.example_id], targets=[])
        batch.put_example(barred.model_copy(update={"target": "b"}), target_at=AT, target_by="f")
        NearDuplicates(KEY, model="default", copies=3).place(transaction, batch)
        batch.flush()
    assert _state(store)[barred.example_id] == (Split.TRAIN, "")


def test_a_crowd_of_near_copies_is_bounded_and_leaks_nothing(store: ExampleStore) -> None:
    store.migrate()
    rng = random.Random(0)
    crowd = [
        _made(SENTENCES[0].format(number), split=Split.HOLDOUT if rng.random() < 0.3 else Split.TRAIN)
        for number in range(1_000, 1_400)
    ]
    for start in range(0, len(crowd), 100):
        _place(store, crowd[start : start + 100])
    reasons = Counter(_state(store).values())
    assert reasons[Split.BARRED, CROWDED] > 200
    assert not reasons[Split.TRAIN, ""] or not reasons[Split.HOLDOUT, ""]
    with store.transaction() as transaction:
        names = [example.example_id for example in crowd]
        assert len(transaction.near.pairs(names)) < 400 * 64
    late = _made(SENTENCES[0].format(7_777), origin=Origin.AUDIT, split=Split.HOLDOUT)
    _place(store, [late])
    assert _state(store)[late.example_id] == (Split.HOLDOUT, "")
    assert not any(split == Split.TRAIN for split, _ in _state(store).values())


def test_examples_of_an_earlier_version_are_placed_and_the_held_out_ones_stay(store: ExampleStore) -> None:
    store.migrate()
    seed = _made(SENTENCES[0].format(1), origin=Origin.SEED, split=Split.HOLDOUT, sources=["seed"])
    corrected = _made(SENTENCES[0].format(2), origin=Origin.CORRECTION, sources=["f1", "seed"])
    later = _made(SENTENCES[0].format(3), origin=Origin.CORRECTION, sources=["f2"])
    put(store, seed, later, _made("alone"))
    near = NearDuplicates(KEY, model="default", copies=5)
    assert near.catch_up(store) == 3
    assert near.catch_up(store) == 0
    state = _state(store)
    assert state[seed.example_id] == (Split.HOLDOUT, "")
    assert state[later.example_id] == (Split.BARRED, JUDGED)
    assert rank_of(corrected.origin, corrected.sources) == Rank.SEED


def test_models_share_no_near_duplicates(open_store: Callable[..., ExampleStore]) -> None:
    mine, other = open_store("mine"), open_store("other")
    mine.migrate()
    audit = _made(SENTENCES[0].format(1), origin=Origin.AUDIT, split=Split.HOLDOUT)
    _place(mine, [audit])
    _place(other, [_made(SENTENCES[0].format(2))])
    assert set(_state(other).values()) == {(Split.TRAIN, "")}
