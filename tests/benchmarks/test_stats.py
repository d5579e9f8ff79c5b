"""Figures that would be believed: quantiles, ratios, slopes."""

import math

import numpy as np
import pytest

from benchmarks.serving.stats import difference, latency_summary, quantile, ratio, slope, spread


def test_a_quantile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0, 0.001)] == [50, 99, 100, 1]
    assert quantile([7.0], 0.99) == 7.0
    assert math.isnan(quantile([], 0.5))


def test_latencies_are_shown_in_milliseconds() -> None:
    found = latency_summary([0.001, 0.002, 0.003])
    assert (found["p50"], found["max"], found["mean"]) == (2.0, 3.0, 2.0)


def test_what_disturbs_a_whole_round_drops_out_of_a_ratio() -> None:
    found = ratio([100.0, 50.0, 10.0], [200.0, 100.0, 20.0])
    assert (found.median, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.interval == (0.5, 0.5)
    assert difference([3.0, 5.0], [1.0, 2.0]).median == 2.5
    with pytest.raises(ValueError, match="paired"):
        ratio([1.0], [1.0, 2.0])


def test_the_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(3).normal(1.0, 0.1, size=(200, 15))
    held = sum(low <= 1.0 <= high for low, high in (spread(row, resamples=400).interval for row in draws))
    assert 175 <= held <= 199  # of 200; the bootstrap is a little narrow for so few rounds


def test_a_missing_round_is_not_hidden() -> None:
    assert math.isnan(spread([1.0, math.nan]).median)


def test_a_slope_and_its_error_are_those_of_a_known_line() -> None:
    steps = np.arange(200.0)
    noise = np.random.default_rng(0).normal(0, 2.0, size=200)
    found = slope(steps, 100 + 0.05 * steps + noise)
    assert abs(found.per_step - 0.05) < 3 * found.error
    assert found.error == pytest.approx(2.0 / math.sqrt(200 * (200**2 - 1) / 12), rel=0.2)
    assert slope(steps, np.full(200, 3.0)).per_step == 0
    with pytest.raises(ValueError, match="three"):
        slope([1.0, 2.0], [1.0, 2.0])
