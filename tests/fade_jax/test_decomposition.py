"""Masses against enumeration of all outcomes, closed forms and a simulation."""

from math import comb, factorial, prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition
from tests.fade_jax import reference
from tests.fade_jax.cases import every_case_by_group

P = np.array([0.0, 0.05, 0.3, 0.5, 0.77, 1.0])


@every_case_by_group
@pytest.mark.parametrize("group_size", [2, 7])
def test_masses_equal_enumeration_of_all_outcomes(case, group_size):
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


FINITE = {
    "reinforce": (
        lambda r: fade_jax.reinforce(r, baseline=0.3),
        lambda p, q, G: (0.7 * p, 0.3 * q),
    ),
    "psr": (fade_jax.psr, lambda p, q, G: (p, 0 * p)),
    "nsr": (fade_jax.nsr, lambda p, q, G: (0 * p, q)),
    "w_reinforce": (fade_jax.w_reinforce, lambda p, q, G: (0.1 * p, q)),
    "rloo": (fade_jax.rloo, lambda p, q, G: (p * q, p * q)),
    "dr_grpo": (fade_jax.dr_grpo, lambda p, q, G: (p * q * (1 - 1 / G),) * 2),
    "asym_grpo": (
        lambda r: fade_jax.asym_grpo(r, delta=0.5),
        lambda p, q, G: (p * q * (1 - 1 / G), 2 * p * q * (1 - 1 / G)),
    ),
}


@pytest.mark.parametrize("name", FINITE)
@pytest.mark.parametrize("group_size", [2, 16, 64])
def test_masses_equal_the_closed_form_at_a_finite_group(name, group_size):
    fn, closed = FINITE[name]
    masses = decomposition.gradient_masses(jax.jit(fn), P, group_size)
    expected = closed(P, 1 - P, group_size)
    np.testing.assert_allclose(masses.success, expected[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(masses.failure, expected[1], rtol=1e-5, atol=1e-7)


LARGE = {
    "grpo": (fade_jax.grpo, lambda p, q: (np.sqrt(p * q),) * 2),
    "power": (lambda r: fade_jax.power(r, alpha=2.5), lambda p, q: (p * q**2.5,) * 2),
    "fade": (
        lambda r: fade_jax.fade(r, alpha=1.5, delta=0.4),
        lambda p, q: (p * q**1.5, p * q**1.5 / 0.4),
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_masses_approach_the_closed_form_of_a_large_group(name):
    fn, closed = LARGE[name]
    p = np.linspace(0.1, 0.9, 9)
    errors = []
    for group_size in (64, 512):
        masses = decomposition.gradient_masses(jax.jit(fn), p, group_size)
        errors.append(np.max(np.abs(np.array(masses) - np.array(closed(p, 1 - p)))))
    assert errors[1] < 0.01
    assert errors[1] < errors[0] / 6  # an error of order 1/G, eight times smaller


def stirling_second_kind(n, k):
    return sum((-1) ** (k - i) * comb(k, i) * i**n for i in range(k + 1)) // factorial(k)


@pytest.mark.parametrize("alpha", [1, 2, 3, 5])
@pytest.mark.parametrize("group_size", [4, 16, 64])
def test_power_at_an_integer_exponent_equals_the_stirling_sum(alpha, group_size):
    G, q = group_size, 1 - P
    expected = sum(
        stirling_second_kind(alpha, j) * prod(range(G - j, G + 1)) * P * q**j
        for j in range(1, alpha + 1)
    ) / float(G) ** (alpha + 1)
    masses = decomposition.gradient_masses(
        jax.jit(lambda r: fade_jax.power(r, alpha=float(alpha))), P, group_size
    )
    np.testing.assert_allclose(masses.success, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(masses.failure, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("group_size", [64, 512])
def test_large_groups_are_exact_to_single_precision(group_size):
    weights = decomposition.outcome_weights(fade_jax.grpo, group_size)
    n = group_size - 1
    p = np.array([0.003, 0.3, 0.5, 0.97])
    binomial = np.array(
        [[float(comb(n, k)) * x**k * (1 - x) ** (n - k) for k in range(n + 1)] for x in p]
    )
    masses = decomposition.gradient_masses(fade_jax.grpo, p, group_size)
    success = p * (binomial @ np.asarray(weights.success, np.float64))
    failure = (1 - p) * (binomial @ np.asarray(weights.failure, np.float64))
    np.testing.assert_allclose(masses.success, success, rtol=1e-5)
    np.testing.assert_allclose(masses.failure, failure, rtol=1e-5)


def test_masses_predict_the_gradient_of_a_tabular_policy():
    logits = jnp.array([0.4, -0.3, 1.1, 0.0])
    reward = np.array([1.0, 0.0, 0.0, 1.0])
    policy = np.exp(np.asarray(logits, np.float64))
    policy /= policy.sum()
    p = policy @ reward
    scores = np.eye(4) - policy  # row a: gradient of log π(a)
    on_success = (policy * reward / p) @ scores
    on_failure = (policy * (1 - reward) / (1 - p)) @ scores
    masses = decomposition.gradient_masses(fade_jax.grpo, p, 8)
    expected = masses.success * on_success - masses.failure * on_failure

    actions = np.random.default_rng(0).choice(4, (200_000, 8), p=policy)
    advantages = np.asarray(fade_jax.grpo(reward[actions].astype(np.float32)))
    sampled = np.mean(advantages[..., None] * scores[actions], axis=(0, 1))
    np.testing.assert_allclose(sampled, expected, atol=3e-3)
    weight = decomposition.expected_weight(fade_jax.grpo, p, 8)
    np.testing.assert_allclose(expected, weight * p * on_success, rtol=1e-5, atol=1e-7)


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
def test_expected_weight_is_the_table_s_and_finite_at_the_ends(fn, weight):
    np.testing.assert_allclose(
        decomposition.expected_weight(jax.jit(fn), P, 16), weight(P), rtol=1e-5
    )


def test_the_solve_rate_and_hyperparameters_may_be_traced():
    @jax.jit
    def masses(p, delta):
        return decomposition.gradient_masses(lambda r: fade_jax.asym_grpo(r, delta=delta), p, 4)

    success, failure = masses(jnp.float32(0.5), jnp.float32(0.25))
    np.testing.assert_allclose([success, failure], [0.1875, 0.75], rtol=1e-6)
    slope = jax.grad(lambda p: masses(p, 1.0).success)(0.3)
    np.testing.assert_allclose(slope, 0.75 * (1 - 2 * 0.3), rtol=1e-5)


def test_an_advantage_in_numpy_is_decomposed_too():
    masses = decomposition.gradient_masses(lambda r: np.asarray(r) - 0.25, 0.5, 4)
    np.testing.assert_allclose(masses, (0.375, 0.125), rtol=1e-6)


def test_empirical_masses_converge_to_the_exact_ones():
    p, size = 0.3, 8
    rewards = (np.random.default_rng(0).random((100_000, size)) < p).astype(np.float32)
    empirical = decomposition.empirical_masses(fade_jax.grpo(rewards), rewards)
    exact = decomposition.gradient_masses(fade_jax.grpo, p, size)
    np.testing.assert_allclose(empirical, exact, rtol=0.01)


def test_empirical_masses_leave_out_what_is_masked():
    advantages = np.array([[2.0, -1.0, np.nan], [1.0, 9.0, -3.0]])
    rewards = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    where = np.array([[True, True, False], [True, False, True]])
    masses = decomposition.empirical_masses(advantages, rewards, where)
    np.testing.assert_allclose(masses, (3 / 4, 4 / 4))
    np.testing.assert_allclose(decomposition.sign_ratio(masses), 0.75)
    empty = decomposition.empirical_masses(advantages, rewards, np.zeros((2, 3)))
    np.testing.assert_array_equal(empty, (0.0, 0.0))


def test_sign_ratio_without_failure_mass_is_infinite():
    masses = decomposition.gradient_masses(fade_jax.psr, 0.5, 4)
    assert np.isinf(decomposition.sign_ratio(masses))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: decomposition.gradient_masses(fade_jax.rloo, 1.2, 4), "solve_rate"),
        (lambda: decomposition.gradient_masses(fade_jax.rloo, -0.1, 4), "solve_rate"),
        (lambda: decomposition.gradient_masses(fade_jax.psr, 0.5, 0), "group_size"),
        (lambda: decomposition.gradient_masses(lambda r: r[:, :-1], 0.5, 4), "advantage_fn"),
        (lambda: decomposition.gradient_masses(lambda r: r * np.arange(4), 0.5, 4), "alone"),
        (lambda: decomposition.bernstein(np.ones(3), 1.5), r"p must be in \[0, 1\]"),
        (lambda: decomposition.empirical_masses(np.ones((2, 3)), np.ones((3, 2))), "advantages"),
        (
            lambda: decomposition.empirical_masses(*np.ones((2, 2, 3)), where=np.ones(3)),
            "where must have the shape of rewards",
        ),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
