"""Power-asym, log-mean-exp, tempered likelihood and A-GRAE beyond the common suite."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition
from tests.fade_jax.cases import binary_rewards


def test_fade_is_power_asym():
    assert fade_jax.fade is fade_jax.power_asym


def test_power_asym_traced_hyperparameters():
    rewards = np.array([[1.0, 0, 0, 0]])
    alphas, deltas = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.5, 0.3])
    mapped = jax.jit(jax.vmap(lambda a, d: fade_jax.fade(rewards, alpha=a, delta=d)))
    for result, alpha, delta in zip(mapped(alphas, deltas), alphas, deltas):
        expected = fade_jax.fade(rewards, alpha=float(alpha), delta=float(delta))
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_log_mean_exp_limits():
    rewards = np.array([[0.1, 0.5, 0.9, 0.3]])
    np.testing.assert_allclose(
        fade_jax.log_mean_exp(rewards, beta=1e-6), fade_jax.dr_grpo(rewards), rtol=1e-4
    )
    extreme = fade_jax.log_mean_exp(np.array([1000.0, 0.0]), beta=10.0)
    np.testing.assert_allclose(extreme, [0.1, -0.1], rtol=1e-5)


def test_log_mean_exp_gradient():
    rewards, beta = jnp.array([0.3, 1.0, 0.0, 0.6]), 2.0
    weights = jax.grad(lambda w: jnp.log(jnp.sum(w * jnp.exp(beta * rewards))))(jnp.full(4, 0.25))
    expected = (weights - 1) / beta  # the constant 1 is the control variate
    np.testing.assert_allclose(fade_jax.log_mean_exp(rewards, beta=beta), expected, rtol=1e-5)


def test_a_grae_peak_and_sign_ratio():
    p, a_grae = np.linspace(0.02, 0.98, 97), jax.jit(fade_jax.a_grae)
    for omega in (0.2, 0.5, 0.8):
        masses = decomposition.gradient_masses(partial(a_grae, omega=omega), p, 512)
        peak = p[np.argmax(masses.failure)]
        expected = (1 - omega) ** 2 / (omega**2 + (1 - omega) ** 2)
        np.testing.assert_allclose(peak, expected, atol=0.02)
        np.testing.assert_allclose(
            decomposition.sign_ratio(masses), np.full(p.shape, omega), rtol=1e-4
        )


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_tempered_likelihood_ends_at_known_advantages(beta):
    rewards = binary_rewards()
    known = fade_jax.max_rl if beta else fade_jax.dr_grpo
    np.testing.assert_allclose(
        fade_jax.tempered_likelihood(rewards, beta=beta), known(rewards), rtol=1e-6, atol=1e-7
    )


def test_tempered_likelihood_at_one_half_is_grpo_times_root_of_failure_rate():
    rewards = binary_rewards(seed=3, shape=(64, 16))
    failure_rate = 1 - rewards.mean(-1, keepdims=True)
    grpo = jax.jit(partial(fade_jax.grpo, ddof=0, eps=0.0))
    expected = grpo(rewards) * np.sqrt(failure_rate)
    result = jax.jit(partial(fade_jax.tempered_likelihood, beta=0.5))(rewards)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [-0.1, np.nan])
def test_tempered_likelihood_bad_beta(beta):
    with pytest.raises(ValueError, match="beta must be"):
        fade_jax.tempered_likelihood(np.zeros(4), beta=beta)
