"""Building blocks: center, standardize, focal weight, dynamic sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition


@pytest.mark.parametrize("size", [3, 64, 100])
def test_center_constant_group_is_zero(size):
    @jax.jit
    def compute(rewards):
        return (
            fade_jax.grpo(rewards, eps=0.0),
            fade_jax.grpo(rewards, eps=1e-8),
            fade_jax.dr_grpo(rewards),
            fade_jax.fade(rewards, alpha=0.5, delta=0.3),
        )

    for value in (0.1, 0.3, 0.7, 0.9):
        rewards = np.full((size,), value, np.float32)
        for result in compute(rewards):
            np.testing.assert_array_equal(result, np.zeros(size))
    np.testing.assert_array_equal(fade_jax.dr_grpo(rewards), np.zeros(size))


def test_standardize_single_rollout_is_zero():
    where = np.array([[True, False, False]])
    np.testing.assert_array_equal(fade_jax.grpo(np.ones((1, 3)), where=where), 0)
    np.testing.assert_array_equal(fade_jax.rloo(np.ones((1, 3)), where=where), 0)


def test_standardize_constant_group_has_zero_gradient():
    gradient = jax.jit(jax.grad(lambda r: fade_jax.grpo(r)[0]))(jnp.full((8,), 0.7))
    np.testing.assert_array_equal(gradient, 0)


FOCAL_WEIGHT_AND_GRADIENT = jax.jit(jax.value_and_grad(fade_jax.focal_weight, argnums=(0, 1)))


@pytest.mark.parametrize(
    ("solve_rate", "alpha", "expected"),
    [
        (1.0, 1.0, 1.0),
        (1.0, 3.0, 0.0),
        (1.0, 0.5, 0.0),
        (1.0 + 1e-6, 2.0, 0.0),
        (0.0, 3.0, 1.0),
        (0.75, 2.0, 0.25),
        (0.75, 0.5, 2.0),
    ],
)
def test_focal_weight_edges(solve_rate, alpha, expected):
    weight, gradient = FOCAL_WEIGHT_AND_GRADIENT(jnp.float32(solve_rate), jnp.float32(alpha))
    np.testing.assert_allclose(weight, expected, rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_focal_weight_rounding_is_finite():
    rewards = np.full((1, 10), 1.0, np.float32)
    rewards[0, :3] = 0.9999999
    power = jax.jit(fade_jax.power)
    for alpha in (0.5, 1.0, 1.7, 3.0):
        assert np.all(np.isfinite(power(rewards, alpha=alpha)))


def test_varied_groups_masses():
    p, size = 0.15, 8
    rewards = (np.random.default_rng(0).random((100_000, size)) < p).astype(np.float32)
    kept = jax.jit(fade_jax.varied_groups)(rewards)
    np.testing.assert_array_equal(kept[:, 0], rewards.min(-1) < rewards.max(-1))
    grpo = jax.jit(fade_jax.grpo)
    empirical = decomposition.empirical_masses(grpo(rewards, where=kept), rewards, kept)
    exact = decomposition.gradient_masses(grpo, p, size)
    expected = np.array(exact) / (1 - p**size - (1 - p) ** size)
    np.testing.assert_allclose(empirical, expected, rtol=0.01)
    where = np.array([True, True, False])
    np.testing.assert_array_equal(
        fade_jax.varied_groups(
            np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), where=where[None].repeat(2, 0)
        ),
        [[False] * 3, [True, True, False]],
    )
