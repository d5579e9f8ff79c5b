"""What every selection strategy must do; one that is entered in STRATEGIES is tested here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from core.errors import BadSettings
from core.selection import STRATEGIES, ByScore, Candidates, Selection, get_score, get_strategy

NAMES = pytest.mark.parametrize("name", sorted(STRATEGIES))
SCORES = [name for name, strategy in STRATEGIES.items() if isinstance(strategy, ByScore)]
BY_SCORE = pytest.mark.parametrize("name", SCORES)
#: random draws lots, so there is no order to expect of it
SIGHTED = pytest.mark.parametrize("name", [name for name in SCORES if name != "random"])


@st.composite
def probabilities(draw: st.DrawFn, *, rows: int | None = None) -> NDArray[np.float64]:
    """Rows of positive numbers that sum to 1, certain ones among them."""
    shape = (draw(st.integers(0, 6)) if rows is None else rows, draw(st.integers(1, 8)))
    raw = draw(arrays(np.float64, shape, elements=st.floats(0, 1)))
    raw[np.arange(shape[0]), draw(st.integers(0, shape[1] - 1))] += 0.01
    found: NDArray[np.float64] = raw / raw.sum(axis=1, keepdims=True)
    return found


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    """None, one or a few of few directions, so that there are ties and equal vectors; with or without what may be missing."""
    count, labelled = draw(st.integers(0, 9)), draw(st.integers(0, 5))
    said = draw(probabilities(rows=count))
    labels = said.shape[1]
    seeds = draw(st.lists(st.integers(0, 2**63), min_size=count, max_size=count, unique=True))
    column = st.integers(0, labels - 1)
    return Candidates(
        probabilities=said,
        embeddings=_directions(draw, count),
        seeds=np.array(seeds, dtype=np.uint64),
        labelled=_directions(draw, labelled),
        labelled_targets=np.array(draw(st.lists(column, min_size=labelled, max_size=labelled)), np.int64),
        targets=draw(st.none() | st.lists(column, min_size=count, max_size=count).map(lambda v: np.array(v, np.int64))),
        earlier=draw(st.none() | st.just(said[::-1])),
        traffic=draw(st.none() | st.integers(0, 3).map(lambda n: np.eye(4, dtype=np.float32)[:n])),
    )


def _directions(draw: st.DrawFn, count: int) -> NDArray[np.float32]:
    axis = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return np.eye(4, dtype=np.float32)[np.array(axis, dtype=np.int64)].reshape(count, 4)


def _reordered(found: Candidates, order: NDArray[np.int64]) -> Candidates:
    return Candidates(
        probabilities=found.probabilities[order],
        embeddings=found.embeddings[order],
        seeds=found.seeds[order],
        labelled=found.labelled,
        labelled_targets=found.labelled_targets,
        targets=None if found.targets is None else found.targets[order],
        earlier=None if found.earlier is None else found.earlier[order],
        traffic=found.traffic,
    )


def _many(count: int, *, labelled: int = 0, seed: int = 0, labels: int = 5) -> Candidates:
    """Clouds around as many directions as there are labels, each mostly answered right."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(labels, 16))
    truth = rng.integers(0, labels, count + labelled)
    vectors = centres[truth] + 0.3 * rng.normal(size=(count + labelled, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    logits = 4 * vectors @ centres.T + rng.normal(size=(count + labelled, labels))
    said = np.exp(logits - logits.max(axis=1, keepdims=True))
    said /= said.sum(axis=1, keepdims=True)
    return Candidates(
        probabilities=said[:count].astype(np.float64),
        embeddings=vectors[:count],
        seeds=rng.permutation(count).astype(np.uint64),
        labelled=vectors[count:],
        labelled_targets=truth[count:],
    )


def _chosen(selection: Selection, found: Candidates) -> list[int]:
    return [int(seed) for seed in found.seeds[selection.rows]]


def test_an_unknown_strategy_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(BadSettings, match="no selection strategy 'luck'; there are: badge"):
        get_strategy("luck")


# every strategy


@NAMES
@settings(max_examples=60, deadline=None)
@given(found=candidates(), budget=st.integers(0, 12), data=st.data())
def test_it_keeps_to_the_budget_chooses_none_twice_and_depends_on_the_set_alone(
    name: str, found: Candidates, budget: int, data: st.DataObject
) -> None:
    choose = get_strategy(name)
    before = found.probabilities.copy(), found.embeddings.copy()
    selection = choose(found, budget)
    assert len(selection.rows) == len(set(selection.rows.tolist())) == min(budget, len(found))
    assert selection.rows.dtype == np.int64
    assert selection.scores.shape == selection.rows.shape
    assert np.isfinite(selection.scores).all()
    assert ((selection.scores >= 0) & (selection.scores <= 1)).all()
    np.testing.assert_array_equal(found.probabilities, before[0])
    np.testing.assert_array_equal(found.embeddings, before[1])
    order = np.array(data.draw(st.permutations(range(len(found)))), dtype=np.int64)
    again = _reordered(found, order)
    assert _chosen(choose(again, budget), again) == _chosen(selection, found)


@NAMES
def test_it_chooses_from_many_in_the_same_order_at_every_call(name: str) -> None:
    found = _many(300, labelled=30)
    first, second = (get_strategy(name)(found, 40) for _ in range(2))
    assert len(set(first.rows.tolist())) == 40
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.scores, second.scores)


@NAMES
def test_equal_candidates_are_chosen_by_lot_and_not_by_their_place(name: str) -> None:
    rng = np.random.default_rng(0)
    firsts = []
    for _ in range(60):
        found = Candidates(
            probabilities=np.full((10, 2), 0.5),
            embeddings=np.tile(np.array([[1.0, 0.0]], np.float32), (10, 1)),
            seeds=rng.integers(0, 2**60, 10).astype(np.uint64),
            labelled=np.empty((0, 2), np.float32),
        )
        firsts.append(int(get_strategy(name)(found, 3).rows[0]))
    assert len(set(firsts)) > 5


# strategies that score each example by itself


def _score(name: str, rows: NDArray[np.float64], seeds: NDArray[np.uint64] | None = None) -> NDArray[np.float64]:
    return get_score(name)(rows, seeds=np.arange(len(rows), dtype=np.uint64) if seeds is None else seeds)


@BY_SCORE
@settings(max_examples=60, deadline=None)
@given(rows=probabilities(), data=st.data())
def test_a_score_is_a_number_from_0_to_1_and_the_examples_alone(
    name: str, rows: NDArray[np.float64], data: st.DataObject
) -> None:
    seeds = np.array(
        data.draw(st.lists(st.integers(0, 2**60), min_size=len(rows), max_size=len(rows))), dtype=np.uint64
    )
    scores = _score(name, rows, seeds)
    assert scores.shape == (len(rows),)
    assert ((scores >= 0) & (scores <= 1)).all()
    order = np.array(data.draw(st.permutations(range(len(rows)))), dtype=np.int64)
    np.testing.assert_allclose(_score(name, rows[order], seeds[order]), scores[order], atol=1e-12)


@SIGHTED
def test_doubt_scores_above_certainty(name: str) -> None:
    certain, likely, torn = _score(name, np.array([[1.0, 0.0, 0.0], [0.8, 0.1, 0.1], [0.36, 0.34, 0.30]]))
    assert certain == pytest.approx(0.0, abs=1e-9)
    assert certain < likely < torn


@SIGHTED
def test_a_model_of_one_label_has_nothing_to_ask(name: str) -> None:
    np.testing.assert_allclose(_score(name, np.ones((3, 1))), np.zeros(3), atol=1e-9)


def test_random_draws_evenly_and_by_the_seed() -> None:
    draws = _score("random", np.ones((2_000, 2)) / 2)
    assert 0.47 < draws.mean() < 0.53
    assert len(set(draws)) == len(draws)


def test_entropy_is_greatest_where_all_labels_are_equal() -> None:
    assert _score("entropy", np.full((1, 7), 1 / 7))[0] == pytest.approx(1.0)


# what each of the others is for


def _plane(*degrees: float) -> NDArray[np.float32]:
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _at(*degrees: float, labelled: NDArray[np.float32] | None = None, **fields: object) -> Candidates:
    count = len(degrees)
    usual: dict[str, object] = {
        "probabilities": np.full((count, 2), 0.5),
        "embeddings": _plane(*degrees),
        "seeds": np.arange(count, dtype=np.uint64),
        "labelled": np.empty((0, 2), np.float32) if labelled is None else labelled,
        "labelled_targets": np.zeros(0 if labelled is None else len(labelled), np.int64),
    }
    return Candidates(**{**usual, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["k_means", "badge", "core_set", "typicality", "combined"])
def test_diverse_strategies_choose_of_every_cluster(name: str) -> None:
    found = _at(0, 1, 2, 3, 90, 91, 92, 180, 181)
    chosen = sorted(get_strategy(name)(found, 3).rows.tolist())
    assert [row < 4 for row in chosen] == [True, False, False]
    assert [row >= 7 for row in chosen] == [False, False, True]


@pytest.mark.parametrize("name", ["core_set", "typicality", "relevance"])
def test_what_is_covered_by_labelled_examples_comes_last(name: str) -> None:
    found = _at(0, 1, 120, 121, labelled=_plane(0.5, 0.6))
    assert set(get_strategy(name)(found, 1).rows.tolist()) <= {2, 3}


def test_typical_is_the_middle_of_a_cluster_and_not_its_edge() -> None:
    found = _at(0, 20, 21, 22, 40)
    assert int(get_strategy("typicality")(found, 1).rows[0]) in (1, 2, 3)


def test_relevant_is_what_is_like_recent_traffic() -> None:
    found = _at(0, 90, 180, traffic=_plane(88, 89, 93))
    assert get_strategy("relevance")(found, 1).rows.tolist() == [1]


def test_labels_with_fewest_examples_come_first_and_their_least_certain_example() -> None:
    said = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.45, 0.55]])
    found = _at(0, 1, 2, 3, probabilities=said, labelled=_plane(5, 6), labelled_targets=np.array([0, 0]))
    assert get_strategy("class_balance")(found, 3).rows.tolist() == [3, 2, 1]
    known = _at(0, 1, 2, 3, probabilities=said, targets=np.array([0, 0, 0, 1]))
    assert set(get_strategy("class_balance")(known, 2).rows.tolist()) == {1, 3}


def test_corrected_most_plainly_is_what_the_model_thinks_least_likely() -> None:
    said = np.array([[0.9, 0.1], [0.6, 0.4], [0.05, 0.95]])
    found = _at(0, 1, 2, probabilities=said, targets=np.array([0, 1, 0]))
    selection = get_strategy("disagreement")(found, 3)
    assert selection.rows.tolist() == [2, 1, 0]
    np.testing.assert_allclose(selection.scores, [0.95, 0.6, 0.1])


def test_neighbours_who_say_otherwise_are_a_disagreement() -> None:
    said = np.array([[1.0, 0.0], [1.0, 0.0]])
    found = _at(
        0, 90, probabilities=said, labelled=_plane(*[0.1] * 10, *[90.1] * 10), labelled_targets=np.repeat([0, 1], 10)
    )
    selection = get_strategy("disagreement")(found, 2)
    assert selection.rows.tolist() == [1, 0]
    np.testing.assert_allclose(selection.scores, [1.0, 0.0], atol=1e-6)


def test_forgotten_is_what_an_earlier_model_knew_better() -> None:
    before, after = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]), np.array([[0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    found = _at(0, 1, 2, probabilities=after, earlier=before)
    selection = get_strategy("forgetting")(found, 3)
    assert selection.rows.tolist()[:2] == [1, 0]
    np.testing.assert_allclose(selection.scores, [0.6, 0.1, 0.0])
