"""pass@k against binomial coefficients and enumeration, and its interval."""

import itertools
from math import comb

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fade_jax.pass_at_k import interval_over_problems, pass_at_k


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(16, 1), (16, 5), (100, 10), (200, 100), (64, 8)]), st.data())
def test_pass_at_k_binomial_coefficients(sizes, data):
    n, k = sizes
    correct = np.array(data.draw(st.lists(st.integers(0, n), min_size=8, max_size=8)))
    expected = [1 - comb(n - c, k) / comb(n, k) for c in correct]
    np.testing.assert_allclose(pass_at_k(n, correct, k), expected, rtol=1e-5, atol=1e-6)


def test_pass_at_k_exactly_zero_and_one():
    for n, k in [(200, 100), (16, 16), (100, 7)]:
        counts = np.array([0, n - k + 1, n])
        np.testing.assert_array_equal(pass_at_k(n, counts, k), [0.0, 1.0, 1.0])


def test_pass_at_k_share_of_subsets():
    outcome = np.array([1, 0, 0, 1, 0, 0, 0])
    for k in range(1, 8):
        hits = [outcome[list(s)].any() for s in itertools.combinations(range(7), k)]
        np.testing.assert_allclose(pass_at_k(7, outcome.sum(), k), np.mean(hits), rtol=1e-6)


def test_pass_at_k_unbiased():
    n, k, p = 10, 4, 0.13
    estimates = np.asarray(pass_at_k(n, np.arange(n + 1), k), np.float64)
    binomial = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    np.testing.assert_allclose(binomial @ estimates, 1 - (1 - p) ** k, rtol=1e-6)


def test_pass_at_k_samples_per_problem():
    n, c = np.array([10, 20, 5]), np.array([1, 1, 5])
    expected = [1 - comb(a - b, 5) / comb(a, 5) for a, b in zip(n, c)]
    np.testing.assert_allclose(pass_at_k(n, c, 5), expected, rtol=1e-6)


def test_pass_at_k_jit():
    counts = np.array([0, 3, 100])
    np.testing.assert_allclose(
        jax.jit(lambda c: pass_at_k(100, c, 10))(counts), pass_at_k(100, counts, 10), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("n", "c", "k", "word"),
    [
        (10, 3, 11, "k must be at most num_samples = 10, got 11"),
        (10, 3, 0, "k must be an integer of at least 1, got 0"),
        (10, 11, 1, "num_correct must be"),
        (10, -1, 1, "num_correct must be"),
        (np.array([10, 3]), 1, 5, "k must be at most"),
    ],
)
def test_pass_at_k_bad_input(n, c, k, word):
    with pytest.raises(ValueError, match=word):
        pass_at_k(n, c, k)


@pytest.mark.parametrize("problems", [16, 64, 256])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("concentration", [0.5, 2.0, 20.0])
def test_interval_coverage(problems, rate, concentration):
    rng = np.random.default_rng(0)
    beta = concentration * rate, concentration * (1 - rate)
    values = rng.binomial(128, rng.beta(*beta, (4000, problems))) / 128
    mean, low, high = (np.asarray(x) for x in interval_over_problems(values))
    np.testing.assert_allclose(mean, values.mean(-1), rtol=1e-5)
    covered = np.mean((low <= rate) & (rate <= high))
    assert covered >= 0.925  # the smallest is 0.936, at 16 problems of rate 0.01
    if rate == 0.5 and concentration < 20:
        assert covered <= 0.97


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),  # Wilson's interval, to four digits
    [(0, 16, 0, 0.1936), (5, 16, 0.1416, 0.5560), (48, 48, 0.9259, 1), (1, 2, 0.0945, 0.9055)],
)
def test_interval_of_outcomes_is_wilson(successes, n, low, high):
    interval = interval_over_problems((np.arange(n) < successes).astype(float))
    np.testing.assert_allclose(interval, (successes / n, low, high), atol=6e-5)


def test_interval_of_fractions_has_the_design_effect():
    values = np.array([0.1, 0.4, 0.4, 0.7])
    n = 4 * (4 * 0.24 + 0.5) / (0.18 + 0.5)
    scale, z = 1 + 1.959964**2 / n, 1.959964
    half = z * np.sqrt(0.24 / n + z**2 / (4 * n**2)) / scale
    center = (0.4 + z**2 / (2 * n)) / scale
    interval = interval_over_problems(values, level=0.95)
    np.testing.assert_allclose(interval, (0.4, center - half, center + half), rtol=1e-5)
    assert interval_over_problems(values, level=0.5).high < interval.high


def test_interval_bad_input_and_one_problem():
    assert tuple(map(float, interval_over_problems(np.array([0.25])))) == (0.25, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least one problem"):
        interval_over_problems(np.zeros(0))
    with pytest.raises(ValueError, match=r"values must be in \[0, 1\]"):
        interval_over_problems(np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="level"):
        interval_over_problems(np.zeros(3), level=1.0)
