"""What is particular to single advantages: values from the page, traps and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax


def test_the_building_blocks_make_fade():
    rewards = np.array([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    centered = np.array([[0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75]])
    weight = np.array([[0.75**0.5], [0.25**0.5]])
    expected = np.where(centered > 0, centered, centered / 0.7) * weight
    result = fade_jax.fade(rewards, alpha=1.5, delta=0.7)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_fade_with_neutral_hyperparameters_is_dr_grpo():
    rewards = np.random.default_rng(0).uniform(size=(5, 6))
    np.testing.assert_allclose(
        fade_jax.fade(rewards, alpha=1.0, delta=1.0), fade_jax.dr_grpo(rewards), rtol=1e-6
    )


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("size", [3, 64, 100])
def test_a_constant_group_is_silent_whatever_its_value(value, size):
    rewards = np.full((size,), value, np.float32)
    for result in (
        fade_jax.grpo(rewards, eps=0.0),
        fade_jax.grpo(rewards, eps=1e-8),
        fade_jax.dr_grpo(rewards),
        fade_jax.fade(rewards, alpha=0.5, delta=0.3),
    ):
        np.testing.assert_array_equal(result, np.zeros(size))


def test_standardize_with_a_single_rollout_left_is_zero():
    where = np.array([[True, False, False]])
    np.testing.assert_array_equal(fade_jax.grpo(np.ones((1, 3)), where=where), 0)
    np.testing.assert_array_equal(fade_jax.rloo(np.ones((1, 3)), where=where), 0)


def test_the_gradient_of_standardize_in_a_constant_group_is_zero():
    gradient = jax.grad(lambda r: fade_jax.grpo(r)[0])(jnp.full((8,), 0.7))
    np.testing.assert_array_equal(gradient, 0)


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
def test_focal_weight_at_its_edges(solve_rate, alpha, expected):
    weight, gradient = jax.value_and_grad(fade_jax.focal_weight, argnums=(0, 1))(
        jnp.float32(solve_rate), jnp.float32(alpha)
    )
    np.testing.assert_allclose(weight, expected, rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_focal_weight_of_a_group_solved_by_rounding_is_not_nan():
    rewards = np.full((1, 10), 1.0, np.float32)
    rewards[0, :3] = 0.9999999
    for alpha in (0.5, 1.0, 1.7, 3.0):
        assert np.all(np.isfinite(fade_jax.power(rewards, alpha=alpha)))


def test_w_reinforce_is_a_scaled_reinforce_with_a_baseline():
    rewards = np.array([[0.0, 1, 1, 0, 1]])
    weight = 0.1
    scaled = (1 + weight) * fade_jax.reinforce(rewards, baseline=1 / (1 + weight))
    np.testing.assert_allclose(
        fade_jax.w_reinforce(rewards, positive_weight=weight), scaled, rtol=1e-6
    )


def test_grpo_pins_its_degrees_of_freedom():
    rewards = np.array([1.0, 0, 0, 0])
    for ddof in (0, 1):
        expected = (rewards - 0.25) / (np.std(rewards, ddof=ddof) + 1e-6)
        np.testing.assert_allclose(fade_jax.grpo(rewards, ddof=ddof), expected, rtol=1e-6)


def test_hyperparameters_may_be_traced_and_mapped():
    rewards = np.array([[1.0, 0, 0, 0]])
    alphas, deltas = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.5, 0.3])
    mapped = jax.jit(jax.vmap(lambda a, d: fade_jax.fade(rewards, alpha=a, delta=d)))
    for result, alpha, delta in zip(mapped(alphas, deltas), alphas, deltas):
        expected = fade_jax.fade(rewards, alpha=float(alpha), delta=float(delta))
        np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fn", "keywords", "words"),
    [
        (fade_jax.asym_grpo, {"delta": -0.5}, ["delta", "above 0", "-0.5"]),
        (fade_jax.asym_grpo, {"delta": 0.0}, ["delta", "above 0", "0.0"]),
        (fade_jax.power, {"alpha": -1.0}, ["alpha", "at least 0", "-1.0"]),
        (fade_jax.power, {"alpha": float("nan")}, ["alpha", "nan"]),
        (fade_jax.power, {"alpha": 1.0, "scale": float("inf")}, ["scale", "finite", "inf"]),
        (fade_jax.fade, {"alpha": 1.0, "delta": -1}, ["delta", "-1"]),
        (fade_jax.grpo, {"ddof": 2}, ["ddof", "0 or 1", "2"]),
        (fade_jax.grpo, {"eps": -1e-6}, ["eps", "at least 0"]),
        (fade_jax.reinforce, {"baseline": float("nan")}, ["baseline", "nan"]),
        (fade_jax.w_reinforce, {"positive_weight": -0.1}, ["positive_weight", "-0.1"]),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(fn, keywords, words):
    with pytest.raises(ValueError) as error:
        fn(np.ones((2, 4)), **keywords)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "fn",
    [
        fade_jax.rloo,
        fade_jax.dr_grpo,
        fade_jax.grpo,
        lambda r: fade_jax.fade(r, alpha=1.0, delta=1.0),
    ],
)
def test_a_group_of_one_is_refused_where_the_formula_needs_two(fn):
    with pytest.raises(ValueError, match=r"rewards.*group.*at least 2.*\(3, 1\)"):
        fn(np.ones((3, 1)))
