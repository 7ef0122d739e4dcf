import math

import numpy as np
import pytest

from experiments.report.intervals import mean_interval, t_probability, t_quantile


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_quantiles_of_one_and_two_degrees_have_closed_forms(confidence):
    assert t_quantile(confidence, 1) == pytest.approx(math.tan(math.pi * confidence / 2))
    expected = confidence * math.sqrt(2 / (1 - confidence**2))
    assert t_quantile(confidence, 2) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("df", "published"), [(3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (1000, 1.96234)]
)
def test_quantiles_of_published_tables(df, published):
    assert t_quantile(0.95, df) == pytest.approx(published, abs=1e-5)


@pytest.mark.parametrize("df", [1, 2, 3, 6, 7, 24, 25])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 4.0])
def test_probability_is_the_integral_of_the_density(df, t):
    x = np.linspace(-t, t, 200_001)
    scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    density = math.exp(scale) * (1 + x**2 / df) ** (-(df + 1) / 2)
    assert t_probability(t, df) == pytest.approx(np.trapezoid(density, x), abs=1e-8)


def test_interval_of_three_values_by_hand():
    estimate = mean_interval([1.0, 2.0, 6.0])
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)  # t of 2 degrees; variance (4 + 1 + 9) / 2
    assert estimate.value == 3.0
    assert estimate.low == pytest.approx(3 - half, abs=1e-5)
    assert estimate.high == pytest.approx(3 + half, abs=1e-5)
    assert estimate.count == 3


def test_one_value_has_no_interval():
    estimate = mean_interval([0.4])
    assert estimate.value == 0.4
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_intervals_cover_the_mean_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(2.0, 3.0, (2000, 4))
    inside = [low <= 2.0 <= high for _, low, high, _ in map(mean_interval, draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
