"""PKPO, Pass@k Training and leave-one-out pass@G beyond the common suite."""

from functools import partial
from math import comb

import jax
import numpy as np
import pytest

import fade_jax
from tests.fade_jax import reference


def misses(n, c, k):
    """Share of k-subsets of n without one of the c."""
    return comb(n - c, k) / comb(n, k) if 0 <= k <= n else 0.0


def pkpo_closed_form(n, c, k, baseline):
    """Weights of a success and a failure for binary rewards."""
    rho = lambda m, d, j: 1 - misses(m, d, j)  # noqa: E731
    success = k - (n * k / (n - 1) * rho(n - 1, c - 1, k) if baseline == "loo" else 0)
    failure = k * rho(n - 1, c, k - 1) if c < n else 0.0
    if baseline == "loo":
        failure -= n * k / (n - 1) * rho(n - 1, c, k) if c < n else 0
    if baseline == "loo_minus_one":
        return k * misses(n - 1, c - 1, k - 1), 0.0
    return success, failure


BASELINES = ("loo_minus_one", "loo", "none")


@partial(jax.jit, static_argnames="ks")
def pkpo_of_all(rewards, ks):
    """Returns PKPO of every k and baseline; one program compiles in half of the time."""
    return {
        (k, baseline): fade_jax.pkpo(rewards, k=k, baseline=baseline)
        for k in ks
        for baseline in BASELINES
    }


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(("n", "k"), [(16, 4), (64, 8), (64, 63)])
def test_pkpo_closed_form(n, k, baseline):
    counts = [1, 2, n // 2, n - 1]
    rewards = np.array([[1.0] * c + [0.0] * (n - c) for c in counts])
    result = pkpo_of_all(rewards, ks=(4,) if n == 16 else (8, 63))[k, baseline]
    for row, c in zip(np.asarray(result), counts):
        success, failure = pkpo_closed_form(n, c, k, baseline)
        np.testing.assert_allclose(row[:c], success, rtol=1e-4, atol=1e-5 * k)
        np.testing.assert_allclose(row[c:], failure, rtol=1e-4, atol=1e-5 * k)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pkpo_brute_force(k, baseline):
    rewards = np.random.default_rng(k).normal(size=(3, 6)).round(1)  # with ties now and then
    expected = [reference.pkpo(r, k, baseline) for r in rewards]
    result = pkpo_of_all(rewards, ks=(1, 2, 3, 5))[k, baseline]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_pkpo_too_few_rollouts_is_zero():
    where = np.array([[True, True, False, False, False]])
    rewards = np.array([[1.0, 0, 1, 0, 1]])
    for baseline in ("none", "loo", "loo_minus_one"):
        np.testing.assert_array_equal(
            fade_jax.pkpo(rewards, k=3, baseline=baseline, where=where), 0
        )
    np.testing.assert_array_equal(fade_jax.pass_at_k_training(rewards, k=3, where=where), 0)


def test_pkpo_large_group():
    n, k, c = 512, 128, 3
    rewards = np.array([1.0] * c + [0.0] * (n - c))
    success, _ = pkpo_closed_form(n, c, k, "loo_minus_one")
    result = jax.jit(lambda r: fade_jax.pkpo(r, k=k))(rewards)
    np.testing.assert_allclose(result[:c], success, rtol=1e-3)
    np.testing.assert_allclose(result[c:], 0, atol=1e-3)


@pytest.mark.parametrize(("n", "k"), [(8, 3), (16, 4), (64, 8)])
def test_pass_at_k_training_closed_form(n, k):
    counts = [1, 3, n - k, n - k + 1, n]
    rewards = np.array([[1.0] * c + [0.0] * (n - c) for c in counts])
    result = np.asarray(jax.jit(fade_jax.pass_at_k_training, static_argnames="k")(rewards, k=k))
    for row, c in zip(result, counts):
        missed = misses(n, c, k)
        if missed in (0, 1):
            np.testing.assert_array_equal(row, 0)
            continue
        deviation = np.sqrt(missed * (1 - missed))
        failure = missed - comb(n - c - 1, k - 1) / comb(n - 1, k - 1)
        np.testing.assert_allclose(row[:c], missed / deviation, rtol=1e-5)
        np.testing.assert_allclose(row[c:], failure / deviation, rtol=1e-4)
        np.testing.assert_allclose(np.sum(row), 0, atol=1e-4)


def test_leave_one_out_pass_at_g_by_hand():
    rewards = np.array([[0.2, 0.9, 0.5], [0.9, 0.9, 0.1], [0.0, 0.0, 1.0], [-1.0, -2.0, -4.0]])
    expected = [[0, 0.4, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    np.testing.assert_allclose(fade_jax.leave_one_out_pass_at_g(rewards), expected, rtol=1e-6)
