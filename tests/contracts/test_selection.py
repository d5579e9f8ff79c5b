"""What every selection strategy must do; one that is entered in STRATEGIES is tested here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from core.errors import BadSettings
from feedback.selection import STRATEGIES, get_strategy

NAMES = pytest.mark.parametrize("name", sorted(STRATEGIES))
#: random draws lots, so there is no order to expect of it
SIGHTED = pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"random"}))


@st.composite
def probabilities(draw: st.DrawFn) -> NDArray[np.float64]:
    """Rows of positive numbers that sum to 1, certain ones among them."""
    shape = (draw(st.integers(0, 6)), draw(st.integers(1, 8)))
    raw = draw(arrays(np.float64, shape, elements=st.floats(0, 1)))
    raw[np.arange(shape[0]), draw(st.integers(0, shape[1] - 1))] += 0.01
    rows: NDArray[np.float64] = raw / raw.sum(axis=1, keepdims=True)
    return rows


def _score(name: str, rows: NDArray[np.float64], seeds: NDArray[np.uint64] | None = None) -> NDArray[np.float64]:
    return get_strategy(name)(rows, seeds=np.arange(len(rows), dtype=np.uint64) if seeds is None else seeds)


def test_an_unknown_strategy_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(BadSettings, match="no selection strategy 'luck'; there are: entropy"):
        get_strategy("luck")


@NAMES
@settings(max_examples=80, deadline=None)
@given(rows=probabilities(), data=st.data())
def test_scores_are_numbers_from_0_to_1_one_for_each_example_and_its_alone(
    name: str, rows: NDArray[np.float64], data: st.DataObject
) -> None:
    before = rows.copy()
    seeds = np.array(
        data.draw(st.lists(st.integers(0, 2**60), min_size=len(rows), max_size=len(rows))), dtype=np.uint64
    )
    scores = _score(name, rows, seeds)
    assert scores.shape == (len(rows),)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(rows, before)
    np.testing.assert_array_equal(_score(name, rows, seeds), scores)
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
