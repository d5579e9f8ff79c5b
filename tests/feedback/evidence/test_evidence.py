"""What speaks against a claim: the head and the neighbours without it, and the record of its source."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feedback.evidence import THRESHOLD, Claims, claim_scores
from feedback.evidence.annotators import capped_weights, reliability_log_odds
from feedback.evidence.neighbours import neighbour_votes
from feedback.evidence.pushing import is_pushing
from feedback.evidence.ridge import left_out_probabilities

_LABELS, _SIZE = 4, 16


def _texts(labels: NDArray[np.int64], seed: int, spread: float = 0.08) -> NDArray[np.float32]:
    """Embeddings in a cluster for each label; the clusters are the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(_LABELS, _SIZE))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    found = centres[labels] + np.random.default_rng(seed).normal(size=(len(labels), _SIZE)) * spread
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def _claims(truth: list[int], said: list[int], sources: list[int], *, seed: int = 1) -> Claims:
    known = np.repeat(np.arange(_LABELS), 8)
    texts = _texts(np.concatenate([known, truth]).astype(np.int64), seed)
    return Claims(
        embeddings=texts,
        targets=np.concatenate([known, said]).astype(np.int64),
        answers=np.array(truth, dtype=np.int64),
        sources=np.array(sources, dtype=np.int64),
        labels=_LABELS,
    )


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_left_out_prediction_is_that_of_a_head_fitted_without_the_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, weights = rng.integers(_LABELS, size=20), rng.uniform(0.05, 1.0, size=20)
    texts = _texts(targets, seed)
    found = left_out_probabilities(texts, targets, weights, labels=_LABELS)
    row = int(rng.integers(20))
    without = weights.copy()
    without[row] = 1e-12
    fitted_without = left_out_probabilities(texts, targets, without, labels=_LABELS)
    np.testing.assert_allclose(found[row], fitted_without[row], atol=1e-6)


def test_nobody_votes_on_itself_and_a_vote_counts_by_its_weight() -> None:
    targets = np.array([0, 1, 1])
    texts = _texts(np.zeros(3, dtype=np.int64), 3)
    ask = np.array([0])
    votes = neighbour_votes(texts, targets, np.ones(3), asked=ask, labels=2)
    assert votes.sum() == pytest.approx(1.0)
    assert votes[0, 1] > votes[0, 0]
    doubted = neighbour_votes(texts, targets, np.array([1.0, 0.01, 0.01]), asked=ask, labels=2)
    assert 0.5 < doubted[0, 1] < votes[0, 1]
    alone = neighbour_votes(texts[:1], targets[:1], np.ones(1), asked=ask, labels=2)
    np.testing.assert_allclose(alone, [[0.5, 0.5]])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60), st.floats(1, 5))
@settings(max_examples=50, deadline=None)
def test_a_source_weighs_no_more_than_the_cap_in_one_confusion(pairs: list[tuple[int, int]], cap: float) -> None:
    sources, confusions = np.array(pairs).T
    weights = capped_weights(sources, confusions, cap=cap)
    for pair in set(pairs):
        mine = [weight for weight, other in zip(weights, pairs, strict=True) if other == pair]
        assert sum(mine) <= cap + 1e-9
        assert len(mine) > cap or mine == [1.0] * len(mine)


def test_a_source_is_known_by_its_other_claims_and_a_stranger_is_neither_believed_nor_doubted_for_it() -> None:
    right = np.array([0.9] * 20 + [0.9] + [0.1] * 19 + [0.5])
    sources = np.array([0] * 20 + [1] * 20 + [2])
    odds = reliability_log_odds(sources, right)
    assert odds[0] > 0 > odds[20]
    assert odds[-1] == 0.0
    changed = right.copy()
    changed[20] = 0.0
    own, others = reliability_log_odds(sources, changed)[20], odds[20]
    assert own == pytest.approx(others, abs=0.1)  # a claim never vouches for itself: only the mean of all has moved


def test_a_wrong_claim_waits_and_a_right_one_does_not() -> None:
    truth, said = [0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 3, 2]
    scores = claim_scores(_claims(truth, said, list(range(6))))
    assert (scores > THRESHOLD).tolist() == [False] * 4 + [True] * 2


@given(seed=st.integers(1, 1000))
@settings(max_examples=15, deadline=None)
def test_fifty_claims_of_the_only_source_do_not_bear_each_other_out(seed: int) -> None:
    pushed = claim_scores(_claims([0] * 50, [1] * 50, [7] * 50, seed=seed))
    assert np.median(pushed) > THRESHOLD


def test_many_sources_can_prove_what_one_cannot() -> None:
    said = claim_scores(_claims([0] * 50, [1] * 50, list(range(50))))
    assert (said <= THRESHOLD).all()


@given(seed=st.integers(0, 2**32 - 1), people=st.sampled_from([1, 20, 200]))
@settings(max_examples=30, deadline=None)
def test_one_source_that_gathers_at_a_target_pushes_it_and_nobody_else_does(seed: int, people: int) -> None:
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(people, size=2000), rng.integers(50, size=2000)
    assert not is_pushing(sources, targets).any()
    pushed = np.concatenate([np.full(50, people), sources]), np.concatenate([np.full(50, 3), targets])
    assert is_pushing(*pushed).tolist()[:50] == [True] * 50


def test_what_one_source_pushes_waits_even_where_the_evidence_is_for_it() -> None:
    others = [0] * 30 + [1] * 5 + [2] * 30 + [3] * 30
    said = [1] * 30 + others
    scores = claim_scores(_claims(said, said, [99] * 30 + list(range(len(others)))))
    assert (scores > THRESHOLD).tolist() == [True] * 30 + [False] * len(others)


def test_no_claims_no_scores() -> None:
    assert claim_scores(_claims([], [], [])).shape == (0,)
