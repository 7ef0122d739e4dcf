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


def test_interval_coverage():
    rng = np.random.default_rng(0)
    values = rng.beta(0.5, 0.8, (4000, 100))
    mean, low, high = interval_over_problems(values)
    np.testing.assert_allclose(mean, values.mean(-1), rtol=1e-5)
    covered = np.mean((np.asarray(low) <= 0.5 / 1.3) & (np.asarray(high) >= 0.5 / 1.3))
    assert 0.93 < covered < 0.96


def test_interval_is_normal():
    values = np.array([0.0, 0.0, 0.1, 1.0])
    interval = interval_over_problems(values, level=0.95)
    half = 1.959964 * values.std(ddof=1) / 2
    np.testing.assert_allclose(interval.high, values.mean() + half, rtol=1e-5)
    np.testing.assert_allclose(interval.low, 0.0)
    narrower = interval_over_problems(values, level=0.5)
    assert narrower.high < interval.high


def test_interval_bad_input_and_one_problem():
    assert tuple(map(float, interval_over_problems(np.array([0.25])))) == (0.25, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least one problem"):
        interval_over_problems(np.zeros(0))
    with pytest.raises(ValueError, match=r"values must be in \[0, 1\]"):
        interval_over_problems(np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="level"):
        interval_over_problems(np.zeros(3), level=1.0)
