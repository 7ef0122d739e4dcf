"""An advantage built from an objective decomposes to that objective."""

from functools import cache
from math import comb, gamma

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition, synthesis
from fade_jax.decomposition import objectives
from fade_jax.densities import Beta, fit_beta, quadrature
from tests.fade_jax.cases import compile_together

P = np.linspace(0, 1, 21)
SPLITS = [synthesis.minimum_variance, synthesis.even]
EXACT = {
    "pass@1": (synthesis.pass_at_k(1), lambda p, G: 1 + 0 * p),
    "pass@3": (synthesis.pass_at_k(3), lambda p, G: 3 * (1 - p) ** 2),
    "power": (synthesis.power(4.0), lambda p, G: (1 - p) ** 3),
    "log": (synthesis.log_solve_rate(), lambda p, G: sum((1 - p) ** k for k in range(G))),
    # The power series of (1 - q)^{-1/2}, of central binomial coefficients.
    "tempered": (
        synthesis.tempered_likelihood(0.5),
        lambda p, G: sum(comb(2 * k, k) / 4**k * (1 - p) ** k for k in range(G)),
    ),
    "polynomial": (
        synthesis.polynomial(0.5, -1.0, 2.0, 3.0),
        lambda p, G: 0.5 - p + 2 * p**2 + 3 * p**3,
    ),
    "weight": (synthesis.weight(lambda p: 1 - p + p**4), lambda p, G: 1 - p + p**4),
    "objective": (
        synthesis.objective(lambda p: p**3 - jnp.square(p)),
        lambda p, G: 3 * p**2 - 2 * p,
    ),
}


@cache
def advantages_of(group_size):
    """Returns what is synthesized from EXACT with each split, compiled."""
    return compile_together(
        {
            f"{name} {split.__name__}": synthesis.synthesize(
                target, group_size, Beta(0.7, 2.0), split=split
            )
            for name, (target, _) in EXACT.items()
            for split in SPLITS
        }
    )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("group_size", [5, 64])
@pytest.mark.parametrize("name", EXACT)
def test_synthesize_expected_weight(name, group_size, split):
    advantage = advantages_of(group_size)[f"{name} {split.__name__}"]
    result = decomposition.expected_weight(advantage, P, group_size)
    np.testing.assert_allclose(result, EXACT[name][1](P, group_size), rtol=2e-5, atol=2e-5)


def test_weight_without_cutoff_is_exact():
    coefficients = np.random.default_rng(0).normal(size=8)
    advantage = synthesis.synthesize(
        synthesis.weight(lambda p: sum(c * p**i for i, c in enumerate(coefficients)), cutoff=0), 8
    )
    expected = np.polynomial.polynomial.polyval(P, coefficients)
    np.testing.assert_allclose(decomposition.expected_weight(advantage, P, 8), expected, atol=1e-5)
    bernstein = synthesis.polynomial(*coefficients)(8)
    from_monomials = [
        sum(coefficients[i] * comb(k, i) / comb(7, i) for i in range(k + 1)) for k in range(8)
    ]
    np.testing.assert_allclose(bernstein, from_monomials, rtol=1e-12)


@pytest.mark.parametrize(
    ("target", "objective"),
    [
        (synthesis.pass_at_k(4), lambda p: objectives.pass_at(p, 4)),
        (synthesis.log_mean_exp(2.0), lambda p: objectives.log_mean_exp(p, beta=2.0)),
        (synthesis.power(2.5), lambda p: objectives.power(p, alpha=2.5)),
        (synthesis.log_solve_rate(), lambda p: objectives.max_rl(p, group_size=17)),
    ],
)
def test_synthesize_implied_objective(target, objective):
    advantage = jax.jit(synthesis.synthesize(target, 16))
    result = decomposition.implied_objective(advantage, P, 16)
    np.testing.assert_allclose(result, objective(P), atol=2e-4)


def test_bernstein_weight_unbounded():
    target = synthesis.bernstein_weight(lambda p: 1 / jnp.sqrt(p * (1 - p)))
    b = target(64)
    assert b.min() >= 2
    advantage = synthesis.synthesize(target, 64)
    p = np.linspace(0.1, 0.9, 9)
    result = decomposition.expected_weight(advantage, p, 64)
    np.testing.assert_allclose(result, 1 / np.sqrt(p * (1 - p)), rtol=0.03)


def test_weight_has_small_coefficients():
    for group_size in (8, 64):
        b = synthesis.weight(lambda p: jnp.sqrt(1 - p))(group_size)
        assert np.abs(b).max() < 1.5
        result = decomposition.bernstein(b, np.linspace(0, 0.9, 10))
        np.testing.assert_allclose(result, np.sqrt(1 - np.linspace(0, 0.9, 10)), atol=0.02)


def test_minimum_variance_uniform_density():
    advantage = synthesis.synthesize(synthesis.pass_at_k(1), 8)
    rewards = np.random.default_rng(0).integers(0, 2, (20, 8)).astype(np.float32)
    others = rewards.sum(-1, keepdims=True) - rewards
    np.testing.assert_allclose(advantage(rewards), rewards - (others + 1) / 9, rtol=1e-5)


def test_minimum_variance_sharp_density():
    p = 0.3
    advantage = synthesis.synthesize(synthesis.pass_at_k(1), 8, Beta(1e6 * p, 1e6 * (1 - p)))
    rewards = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(advantage(rewards), rewards - p, rtol=1e-4)


def test_zero_sum_known_advantages():
    rewards = np.tri(9, 8, -1, dtype=np.float32)
    centered = synthesis.synthesize(synthesis.polynomial(7 / 8), 8, split=synthesis.zero_sum)
    np.testing.assert_allclose(centered(rewards), fade_jax.dr_grpo(rewards), atol=1e-6)

    leave_one_out = synthesis.synthesize(synthesis.pass_at_k(1), 8, split=synthesis.zero_sum)
    np.testing.assert_allclose(leave_one_out(rewards), fade_jax.rloo(rewards), atol=1e-6)

    def truncated(group_size):  # the same as log_solve_rate with one term less
        return synthesis.log_solve_rate()(group_size) - (np.arange(group_size) == 0)

    likelihood = synthesis.synthesize(truncated, 8, split=synthesis.zero_sum)
    np.testing.assert_allclose(likelihood(rewards), fade_jax.max_rl(rewards), atol=1e-5)
    with pytest.raises(ValueError, match="no split with zero sum"):
        synthesis.synthesize(synthesis.log_solve_rate(), 8, split=synthesis.zero_sum)


@pytest.mark.parametrize("density", [Beta(1, 1), Beta(0.5, 3.0)], ids=str)
def test_minimum_variance_second_moment(density):
    b = synthesis.pass_at_k(3)(8)
    nodes, weights = quadrature(density, 16)

    def second_moment(success, failure):
        by_solve_rate = nodes * decomposition.bernstein(success**2, nodes)
        by_solve_rate += (1 - nodes) * decomposition.bernstein(failure**2, nodes)
        return float(np.sum(weights * by_solve_rate))

    best = synthesis.minimum_variance(b, density)
    smallest = second_moment(*best)
    for seed in range(5):
        moved = 0.1 * np.random.default_rng(seed).normal(size=8).astype(np.float32)
        assert second_moment(best.success + moved, best.failure - moved) > smallest


def test_minimum_variance_tabular_policies():
    rng = np.random.default_rng(0)
    smoothed = jax.jit(synthesis.synthesize(synthesis.pass_at_k(1), 8))
    rloo = jax.jit(fade_jax.rloo)
    ratios = []
    for _ in range(8):
        policy = rng.dirichlet(np.ones(6))
        reward = (rng.random(6) < 0.5).astype(np.float32)
        reward[:2] = 0, 1
        actions = rng.choice(6, (40_000, 8), p=policy)
        scores = (np.eye(6) - policy)[actions]
        gradients = [
            np.mean(np.asarray(fn(reward[actions]))[..., None] * scores, axis=1)
            for fn in (smoothed, rloo)
        ]
        np.testing.assert_allclose(gradients[0].mean(0), gradients[1].mean(0), atol=3e-3)
        variances = [g.var(0).sum() for g in gradients]
        ratios.append(variances[0] / variances[1])
    assert np.mean(ratios) < 0.98


def test_synthesize_fitted_density():
    @jax.jit
    def step(rewards):
        density = fit_beta(jnp.sum(rewards, axis=-1), 8)
        return synthesis.synthesize(synthesis.pass_at_k(2), 8, density)(rewards), density

    rewards = (np.random.default_rng(0).random((50, 8)) < 0.2).astype(np.float32)
    advantages, density = step(rewards)
    eager = synthesis.synthesize(synthesis.pass_at_k(2), 8, density)(rewards)
    np.testing.assert_allclose(advantages, eager, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: synthesis.pass_at_k(0), "k must be an integer"),
        (lambda: synthesis.synthesize(synthesis.pass_at_k(9), 8), "k must be at most .* 8, got 9"),
        (lambda: synthesis.synthesize(synthesis.polynomial(1, 2, 3), 2), "coefficients"),
        (lambda: synthesis.power(0.0), "alpha"),
        (lambda: synthesis.log_mean_exp(-1.0), "beta"),
        (lambda: synthesis.weight(lambda p: p, cutoff=-1.0), "cutoff"),
        (lambda: synthesis.synthesize(synthesis.pass_at_k(1), 0), "group_size"),
        (
            lambda: synthesis.synthesize(synthesis.pass_at_k(1), 4)(np.ones((2, 5))),
            "at most 4, got 5",
        ),
    ],
)
def test_synthesize_bad_input(call, word):
    with pytest.raises(ValueError, match=word):
        call()


@pytest.mark.parametrize("size", [1, 2, 16])
def test_tempered_likelihood_known_betas(size):
    np.testing.assert_array_equal(synthesis.tempered_likelihood(0.0)(size), np.ones(size))
    np.testing.assert_allclose(
        synthesis.tempered_likelihood(1.0)(size), synthesis.log_solve_rate()(size), rtol=1e-13
    )
    # β = 2: the series of p^{-2} is Σ (k+1) q^k, whose mean over Bernstein nodes is summed here.
    n = size - 1
    by_terms = [
        sum((k + 1) * comb(n - j, k) / comb(n, k) for k in range(size)) for j in range(size)
    ]
    np.testing.assert_allclose(synthesis.tempered_likelihood(2.0)(size), by_terms, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75])
def test_tempered_likelihood_truncation(beta):
    advantage = jax.jit(synthesis.synthesize(synthesis.tempered_likelihood(beta), 64))
    p = np.linspace(0.1, 1.0, 10)
    result = decomposition.expected_weight(advantage, p, 64)
    np.testing.assert_allclose(result, p**-beta, rtol=2e-3)
    at_zero = decomposition.expected_weight(advantage, np.zeros(1), 64)
    expected = gamma(64 + beta) / (gamma(64) * gamma(1 + beta))
    np.testing.assert_allclose(at_zero, expected, rtol=1e-4)


def test_tempered_likelihood_bad_beta():
    with pytest.raises(ValueError, match="beta must be"):
        synthesis.tempered_likelihood(-0.5)
