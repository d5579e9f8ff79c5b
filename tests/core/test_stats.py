"""The statistics: against published values, and against what happens when it is tried."""

import random

import pytest

from core.stats import Z_95_ONE_SIDED, PairedDifference, compare, wilson_interval


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # R: prop.test(right, count, correct = FALSE)
        (8, 10, 0.4901625, 0.9433178),
        (50, 100, 0.4038315, 0.5961685),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilsons_interval_is_the_published_one(right: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(right, count) == pytest.approx((low, high), abs=1e-6)


def test_models_are_compared_text_by_text() -> None:
    first = [True, True, False, True, False]
    second = [True, False, False, False, True]
    found = compare(first, second)
    assert (found.count, found.gained, found.lost) == (5, 2, 1)
    assert found.estimate == pytest.approx(0.2)
    with pytest.raises(ValueError, match="zip"):
        compare(first, second[:-1])


def test_the_bound_of_nothing_is_no_claim() -> None:
    nothing = PairedDifference(count=0, gained=0, lost=0)
    assert nothing.estimate == 0.0
    assert nothing.lower_bound() < -0.5


def test_the_lower_bound_is_bonett_and_prices() -> None:
    # by hand: (13+1)/202 - (5+1)/202 - z * sqrt((14/202 + 6/202 - (8/202)^2) / 202)
    bound = PairedDifference(count=200, gained=13, lost=5).lower_bound(z=1.96)
    assert bound == pytest.approx(0.0396040 - 1.96 * 0.0219652, abs=1e-5)


def test_the_lower_bound_errs_about_one_time_in_twenty() -> None:
    draw = random.Random(7)
    truth, tries, count, wrong = 0.02, 1_000, 300, 0
    for _ in range(tries):
        changed = [value for value in (draw.random() for _ in range(count)) if value < 0.10]
        gained = sum(value < 0.06 for value in changed)
        difference = PairedDifference(count=count, gained=gained, lost=len(changed) - gained)
        wrong += difference.lower_bound(Z_95_ONE_SIDED) > truth
    assert 0.02 < wrong / tries < 0.08
