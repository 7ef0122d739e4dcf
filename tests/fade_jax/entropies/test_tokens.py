"""Token entropies against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fade_jax import entropies


def test_token_entropy_equals_float64():
    logits = np.random.default_rng(0).normal(0, 3, (4, 7))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(entropies.token_entropy(logits), expected, rtol=1e-5)
    np.testing.assert_allclose(entropies.token_entropy(logits + 1000), expected, rtol=1e-3)
    np.testing.assert_allclose(entropies.token_entropy(np.zeros(50)), np.log(50), rtol=1e-6)


def test_token_entropy_impossible_tokens():
    logits = jnp.array([0.3, -jnp.inf, 1.2, -jnp.inf])
    value, gradient = jax.value_and_grad(entropies.token_entropy)(logits)
    np.testing.assert_allclose(value, entropies.token_entropy(logits[jnp.array([0, 2])]), 1e-6)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(entropies.token_entropy(jnp.array([0.0, -jnp.inf])), 0, atol=1e-7)


@pytest.mark.parametrize("logits", [[np.nan, 1], [1, np.nan, -np.inf], [np.inf, 1], [-np.inf]])
def test_token_entropy_undefined(logits):
    assert np.isnan(entropies.token_entropy(np.array(logits)))


def test_token_entropy_gradient():
    logits = np.random.default_rng(1).normal(size=6)
    p = np.exp(logits) / np.exp(logits).sum()
    entropy = -(p * np.log(p)).sum()
    gradient = jax.grad(entropies.token_entropy)(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(gradient, -p * (np.log(p) + entropy), rtol=1e-4, atol=1e-6)


def test_token_entropy_bfloat16():
    logits = jnp.zeros(4096, jnp.bfloat16)
    result = entropies.token_entropy(logits)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, np.log(4096), rtol=1e-6)


def test_mean_entropy_masked():
    values = np.array([[1.0, 2.0, 3.0], [4.0, np.nan, np.nan]])
    where = np.array([[1, 1, 1], [1, 0, 0]])
    np.testing.assert_allclose(entropies.mean_entropy(values, where), 2.5)
    assert np.isnan(entropies.mean_entropy(values, np.zeros((2, 3))))
    with pytest.raises(ValueError, match="where"):
        entropies.mean_entropy(values, where[0])
