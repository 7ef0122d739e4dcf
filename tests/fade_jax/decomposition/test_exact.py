"""Exact masses against enumeration of all outcomes, closed forms and simulation."""

from functools import partial
from math import comb, factorial, prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition
from fade_jax.densities import Beta, quadrature
from tests.fade_jax import reference
from tests.fade_jax.cases import every_case_by_group

P = np.array([0.0, 0.05, 0.3, 0.5, 0.77, 1.0])
GRPO, POWER = jax.jit(fade_jax.grpo), jax.jit(fade_jax.power)
FADE = jax.jit(partial(fade_jax.fade, alpha=2.5, delta=0.5))


@every_case_by_group
@pytest.mark.parametrize("group_size", [2, 7])
def test_gradient_masses_enumeration(case, group_size):
    group_size = max(group_size, case.least)
    masses = decomposition.gradient_masses(case, P, group_size)
    expected = np.array(
        [
            reference.masses_by_enumeration(
                lambda r: case.reference(r, **case.keywords), p, group_size
            )
            for p in P
        ]
    )
    np.testing.assert_allclose(masses.success, expected[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(masses.failure, expected[:, 1], rtol=1e-5, atol=1e-6)


def stirling_second_kind(n, k):
    return sum((-1) ** (k - i) * comb(k, i) * i**n for i in range(k + 1)) // factorial(k)


@pytest.mark.parametrize("alpha", [1, 2, 3, 5])
@pytest.mark.parametrize("group_size", [4, 16, 64])
def test_gradient_masses_power_stirling(alpha, group_size):
    G, q = group_size, 1 - P
    expected = sum(
        stirling_second_kind(alpha, j) * prod(range(G - j, G + 1)) * P * q**j
        for j in range(1, alpha + 1)
    ) / float(G) ** (alpha + 1)
    masses = decomposition.gradient_masses(partial(POWER, alpha=float(alpha)), P, group_size)
    np.testing.assert_allclose(masses.success, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(masses.failure, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("group_size", [64, 512])
def test_gradient_masses_large_group_precision(group_size):
    weights = decomposition.outcome_weights(GRPO, group_size)
    n = group_size - 1
    p = np.array([0.003, 0.3, 0.5, 0.97])
    binomial = np.array(
        [[float(comb(n, k)) * x**k * (1 - x) ** (n - k) for k in range(n + 1)] for x in p]
    )
    masses = decomposition.gradient_masses(GRPO, p, group_size)
    success = p * (binomial @ np.asarray(weights.success, np.float64))
    failure = (1 - p) * (binomial @ np.asarray(weights.failure, np.float64))
    np.testing.assert_allclose(masses.success, success, rtol=1e-5)
    np.testing.assert_allclose(masses.failure, failure, rtol=1e-5)


def test_gradient_masses_tabular_policy():
    logits = jnp.array([0.4, -0.3, 1.1, 0.0])
    reward = np.array([1.0, 0.0, 0.0, 1.0])
    policy = np.exp(np.asarray(logits, np.float64))
    policy /= policy.sum()
    p = policy @ reward
    scores = np.eye(4) - policy  # row a: gradient of log π(a)
    on_success = (policy * reward / p) @ scores
    on_failure = (policy * (1 - reward) / (1 - p)) @ scores
    masses = decomposition.gradient_masses(GRPO, p, 8)
    expected = masses.success * on_success - masses.failure * on_failure

    actions = np.random.default_rng(0).choice(4, (200_000, 8), p=policy)
    advantages = np.asarray(GRPO(reward[actions].astype(np.float32)))
    sampled = np.mean(advantages[..., None] * scores[actions], axis=(0, 1))
    np.testing.assert_allclose(sampled, expected, atol=3e-3)
    weight = decomposition.expected_weight(GRPO, p, 8)
    np.testing.assert_allclose(expected, weight * p * on_success, rtol=1e-5, atol=1e-7)


def test_gradient_masses_traced():
    @jax.jit
    def masses(p, delta):
        return decomposition.gradient_masses(lambda r: fade_jax.asym_grpo(r, delta=delta), p, 4)

    success, failure = masses(jnp.float32(0.5), jnp.float32(0.25))
    np.testing.assert_allclose([success, failure], [0.1875, 0.75], rtol=1e-6)
    slope = jax.grad(lambda p: masses(p, 1.0).success)(0.3)
    np.testing.assert_allclose(slope, 0.75 * (1 - 2 * 0.3), rtol=1e-5)


def test_gradient_masses_of_numpy_function():
    masses = decomposition.gradient_masses(lambda r: np.asarray(r) - 0.25, 0.5, 4)
    np.testing.assert_allclose(masses, (0.375, 0.125), rtol=1e-6)


@pytest.mark.parametrize(
    ("fn", "weight"),
    [
        (lambda r: fade_jax.reinforce(r, baseline=0.3), lambda p: 1 + 0 * p),
        (fade_jax.nsr, lambda p: 1 + 0 * p),
        (fade_jax.rloo, lambda p: 1 + 0 * p),
        (fade_jax.w_reinforce, lambda p: 1.1 + 0 * p),
        (fade_jax.dr_grpo, lambda p: 15 / 16 + 0 * p),
        (lambda r: fade_jax.asym_grpo(r, delta=0.5), lambda p: 15 / 16 * (1 - p + 2 * p)),
    ],
)
def test_expected_weight_closed_form(fn, weight):
    np.testing.assert_allclose(
        decomposition.expected_weight(jax.jit(fn), P, 16), weight(P), rtol=1e-5
    )


def test_implied_objective_integral():
    fn = jax.jit(partial(fade_jax.fade, alpha=2.0, delta=0.5))
    p = np.linspace(0, 1, 2001)
    weight = np.asarray(decomposition.expected_weight(fn, p, 6), np.float64)
    integral = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2) / 2000])
    np.testing.assert_allclose(decomposition.implied_objective(fn, p, 6), integral, atol=1e-5)


DENSITIES = [Beta(1, 1), Beta(0.3, 0.5), Beta(2.0, 5.0), Beta(0.5, 0.5)]


@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_mean_masses_quadrature(density):
    result = decomposition.mean_masses(FADE, 8, density)
    nodes, weights = quadrature(density, 16)
    at_nodes = decomposition.gradient_masses(FADE, nodes, 8)
    np.testing.assert_allclose(result.success, np.sum(weights * at_nodes.success), rtol=1e-4)
    np.testing.assert_allclose(result.failure, np.sum(weights * at_nodes.failure), rtol=1e-4)


def test_equalize_scale_of_power():
    alphas = [1.0, 2.0, 3.0]
    fns = [jax.jit(fade_jax.dr_grpo), *(partial(POWER, alpha=a) for a in alphas)]
    scales = decomposition.equalize_scale(fns, 512)
    expected = [1.0, *((a + 1) * (a + 2) / 6 for a in alphas)]
    np.testing.assert_allclose(scales, expected, rtol=0.01)


def test_equalize_scale_equal_totals():
    density = Beta(0.5, 2.0)
    fns = [jax.jit(f) for f in (fade_jax.grpo, partial(fade_jax.pkpo, k=3), fade_jax.max_rl)]
    scales = decomposition.equalize_scale(fns, 8, density)
    totals = [
        sum(decomposition.mean_masses(lambda r, f=fn, c=c: c * f(r), 8, density))
        for fn, c in zip(fns, scales)
    ]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("fn", "peak"),
    [
        (fade_jax.dr_grpo, 1 / 2),
        (fade_jax.psr, 1.0),
        (partial(fade_jax.power, alpha=1.0), 1 / 2),
        (partial(fade_jax.pkpo, k=4), 1 / 4),
        (fade_jax.leave_one_out_pass_at_g, 1 / 16),
    ],
)
def test_peak_solve_rate_closed_form(fn, peak):
    np.testing.assert_allclose(decomposition.peak_solve_rate(jax.jit(fn), 16), peak, atol=2e-5)


def test_peak_solve_rate_large_group():
    for alpha in (2.0, 3.0):
        peak = decomposition.peak_solve_rate(partial(POWER, alpha=alpha), 512)
        np.testing.assert_allclose(peak, 1 / (1 + alpha), atol=0.003)
    peak = decomposition.peak_solve_rate(jax.jit(partial(fade_jax.f_grpo, gamma=1.0)), 512)
    np.testing.assert_allclose(peak, 1 / 4, atol=0.005)
    assert np.isnan(decomposition.peak_solve_rate(fade_jax.nsr, 8))


def test_signed_masses_of_pkpo_loo():
    fn = jax.jit(partial(fade_jax.pkpo, k=3, baseline="loo"))
    p, size = 0.6, 6
    signed = decomposition.signed_masses(fn, p, size)
    masses = decomposition.gradient_masses(fn, p, size)
    rewards = (np.random.default_rng(0).random((50_000, size)) < p).astype(np.float32)
    empirical = decomposition.empirical_signed_masses(fn(rewards))
    np.testing.assert_allclose(signed, empirical, rtol=0.01)
    assert signed.success > masses.success
    np.testing.assert_allclose(
        signed.success - signed.failure, masses.success - masses.failure, atol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decomposition.gradient_masses(fade_jax.rloo, 1.2, 4), "solve_rate"),
        (lambda: decomposition.gradient_masses(fade_jax.rloo, -0.1, 4), "solve_rate"),
        (lambda: decomposition.gradient_masses(fade_jax.psr, 0.5, 0), "group_size"),
        (lambda: decomposition.gradient_masses(lambda r: r[:, :-1], 0.5, 4), "advantage_fn"),
        (lambda: decomposition.gradient_masses(lambda r: r * np.arange(4), 0.5, 4), "alone"),
        (lambda: decomposition.gradient_masses(fade_jax.gpg, 0.5, 4), "whole batch"),
        (lambda: decomposition.gradient_masses(fade_jax.reinforce_plus_plus, 0.5, 4), "whole"),
        (lambda: decomposition.bernstein(np.ones(3), 1.5), r"p must be in \[0, 1\]"),
    ],
)
def test_gradient_masses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
