"""Quantile, OPO, log-mean-exp, A-GRAE, MaxRL and the whole-batch ones beyond the common suite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition


@pytest.mark.parametrize("size", [5, 10, 20, 50, 100])
@pytest.mark.parametrize("level", [0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 1.0])
def test_the_quantile_is_the_reward_of_the_right_rank(level, size):
    rewards = np.random.default_rng(0).permutation(size).astype(np.float32)
    rank = int(np.ceil(round(level * size, 6)))  # 0.55 · 100 is 55.000…01 in floating point
    result = fade_jax.quantile(rewards, level=level, standardize=False)
    np.testing.assert_array_equal(result, rewards - (rank - 1))


def test_the_quantile_pays_successes_below_and_charges_failures_above_its_solve_rate():
    rare, usual = np.array([1.0, 0, 0, 0, 0]), np.array([1.0, 1, 1, 1, 0])
    deviation = np.std(rare, ddof=1)
    np.testing.assert_allclose(
        fade_jax.quantile(rare, level=0.4), [1 / deviation, 0, 0, 0, 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        fade_jax.quantile(usual, level=0.4), [0, 0, 0, 0, -1 / deviation], rtol=1e-5
    )


def test_opo_subtracts_the_mean_reward_weighted_by_length():
    rewards = np.array([[1.0, 0, 1, 0], [0.2, 0.4, 0.6, 0.8]])
    lengths = np.array([[10, 20, 30, 40], [1, 1, 1, 97]])
    baseline = (rewards * lengths).sum(-1, keepdims=True) / 100
    np.testing.assert_allclose(fade_jax.opo(rewards, lengths=lengths), rewards - baseline, 1e-5)
    same = fade_jax.opo(rewards, lengths=np.full((2, 4), 7))
    np.testing.assert_allclose(same, fade_jax.dr_grpo(rewards), rtol=1e-6)
    constant = fade_jax.opo(np.full((1, 64), 0.7), lengths=np.arange(1, 65)[None])
    np.testing.assert_array_equal(constant, 0)
    assert np.all(np.isfinite(fade_jax.opo(rewards, lengths=np.zeros((2, 4)))))


def test_opo_leaves_out_the_lengths_of_masked_rollouts():
    rewards, lengths = np.array([1.0, 0.0, 1.0]), np.array([3.0, 1.0, np.nan])
    where = np.array([True, True, False])
    result = fade_jax.opo(rewards, lengths=lengths, where=where)
    np.testing.assert_allclose(result, [0.25, -0.75, 0.0])


def test_log_mean_exp_approaches_the_centered_reward_and_does_not_overflow():
    rewards = np.array([[0.1, 0.5, 0.9, 0.3]])
    np.testing.assert_allclose(
        fade_jax.log_mean_exp(rewards, beta=1e-6), fade_jax.dr_grpo(rewards), rtol=1e-4
    )
    extreme = fade_jax.log_mean_exp(np.array([1000.0, 0.0]), beta=10.0)
    np.testing.assert_allclose(extreme, [0.1, -0.1], rtol=1e-5)


def test_log_mean_exp_is_the_gradient_of_the_log_mean_exponential():
    rewards, beta = jnp.array([0.3, 1.0, 0.0, 0.6]), 2.0
    weights = jax.grad(lambda w: jnp.log(jnp.sum(w * jnp.exp(beta * rewards))))(jnp.full(4, 0.25))
    expected = (weights - 1) / beta  # the constant 1 is the control variate
    np.testing.assert_allclose(fade_jax.log_mean_exp(rewards, beta=beta), expected, rtol=1e-5)


def test_a_grae_goes_from_easy_to_hard_with_omega():
    p = np.linspace(0.02, 0.98, 97)
    for omega in (0.2, 0.5, 0.8):
        masses = decomposition.gradient_masses(
            lambda r, omega=omega: fade_jax.a_grae(r, omega=omega), p, 512
        )
        peak = p[np.argmax(masses.failure)]
        expected = (1 - omega) ** 2 / (omega**2 + (1 - omega) ** 2)
        np.testing.assert_allclose(peak, expected, atol=0.02)
        np.testing.assert_allclose(
            decomposition.sign_ratio(masses), np.full(p.shape, omega), rtol=1e-4
        )


def test_reinforce_plus_plus_standardises_over_the_batch():
    rewards = np.random.default_rng(0).normal(size=(3, 2, 4))
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    np.testing.assert_allclose(fade_jax.reinforce_plus_plus(rewards), expected, 1e-4, 1e-5)
    np.testing.assert_array_equal(fade_jax.reinforce_plus_plus(np.full((5, 13), 0.7)), 0)


def test_gpg_makes_up_for_groups_without_a_gradient():
    rewards = np.array([[1.0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    np.testing.assert_allclose(fade_jax.gpg(rewards), 2 * fade_jax.dr_grpo(rewards), rtol=1e-6)
    where = np.ones((4, 4), bool)
    where[2] = False  # no longer a group: three are left, two of them with a gradient
    np.testing.assert_allclose(
        fade_jax.gpg(rewards, where=where)[0], 1.5 * fade_jax.dr_grpo(rewards[0]), rtol=1e-6
    )
    np.testing.assert_array_equal(fade_jax.gpg(rewards[1:3]), 0)


def test_kept_groups_carry_the_masses_of_dynamic_sampling():
    p, size = 0.15, 8
    rewards = (np.random.default_rng(0).random((100_000, size)) < p).astype(np.float32)
    kept = fade_jax.varied_groups(rewards)
    np.testing.assert_array_equal(kept[:, 0], rewards.min(-1) < rewards.max(-1))
    empirical = decomposition.empirical_masses(fade_jax.grpo(rewards, where=kept), rewards, kept)
    exact = decomposition.gradient_masses(fade_jax.grpo, p, size)
    expected = np.array(exact) / (1 - p**size - (1 - p) ** size)
    np.testing.assert_allclose(empirical, expected, rtol=0.01)
    where = np.array([True, True, False])
    np.testing.assert_array_equal(
        fade_jax.varied_groups(
            np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), where=where[None].repeat(2, 0)
        ),
        [[False] * 3, [True, True, False]],
    )


@pytest.mark.parametrize(
    ("fn", "masses"),
    [
        (fade_jax.reinforce_plus_plus, lambda p, G: (np.sqrt(p * (1 - p)),) * 2),
        (fade_jax.gpg, lambda p, G: (p * (1 - p) * (1 - 1 / G) / (1 - p**G - (1 - p) ** G),) * 2),
    ],
)
def test_whole_batch_masses_are_those_of_the_table(fn, masses):
    p, size = 0.3, 4
    rewards = (np.random.default_rng(0).random((100_000, size)) < p).astype(np.float32)
    empirical = decomposition.empirical_masses(fn(rewards), rewards)
    np.testing.assert_allclose(empirical, masses(p, size), rtol=0.01)


@pytest.mark.parametrize(
    ("fn", "keywords", "words"),
    [
        (fade_jax.f_grpo, {"gamma": -0.5}, ["gamma", "at least 0", "-0.5"]),
        (fade_jax.a_grae, {"omega": 1.5}, ["omega", "[0, 1]", "1.5"]),
        (fade_jax.a_grae, {"omega": 0.5, "threshold": 0.0}, ["threshold", "above 0"]),
        (fade_jax.log_mean_exp, {"beta": 0.0}, ["beta", "above 0", "0.0"]),
        (fade_jax.quantile, {"level": 0.0}, ["level", "(0, 1]", "0.0"]),
        (fade_jax.quantile, {"level": 1.01}, ["level", "1.01"]),
        (fade_jax.opo, {"lengths": np.ones(4)}, ["lengths", "(4,)", "(2, 4)"]),
    ],
)
def test_bad_input_is_named(fn, keywords, words):
    with pytest.raises(ValueError) as error:
        fn(np.ones((2, 4)), **keywords)
    for word in words:
        assert word in str(error.value)
