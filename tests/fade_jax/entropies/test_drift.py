"""Entropy drifts against finite differences and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fade_jax import entropies


def step(logits, advantages, size, natural):
    policy = np.exp(logits - logits.max())
    policy /= policy.sum()
    centered = advantages - policy @ advantages
    return logits + size * (advantages if natural else policy * centered)


def entropy(logits):
    policy = np.exp(logits - logits.max())
    policy /= policy.sum()
    return -(policy * np.log(policy)).sum()


@pytest.mark.parametrize("natural", [True, False])
def test_drift_finite_differences(natural):
    rng = np.random.default_rng(0)
    drift = entropies.natural_gradient_drift if natural else entropies.vanilla_gradient_drift
    for _ in range(5):
        logits, advantages = rng.normal(0, 1.5, 6), rng.normal(size=6)
        up, down = (entropy(step(logits, advantages, s * 1e-5, natural)) for s in (1, -1))
        np.testing.assert_allclose(drift(logits, advantages), (up - down) / 2e-5, rtol=1e-3)


def test_vanilla_gradient_drift_is_product_of_gradients():
    logits = jnp.array([0.3, -1.0, 0.8, 0.1])
    advantages = jnp.array([1.0, 0.0, -0.5, 2.0])
    of_entropy = jax.grad(entropies.token_entropy)(logits)
    of_return = jax.grad(lambda z: jax.nn.softmax(z) @ advantages)(logits)
    np.testing.assert_allclose(
        entropies.vanilla_gradient_drift(logits, advantages), of_entropy @ of_return, rtol=1e-4
    )


def test_drift_batched_and_invariant():
    logits = np.random.default_rng(0).normal(size=(3, 2, 5))
    advantages = np.random.default_rng(1).normal(size=(3, 2, 5))
    for drift in (entropies.natural_gradient_drift, entropies.vanilla_gradient_drift):
        result = drift(logits, advantages)
        assert result.shape == (3, 2)
        np.testing.assert_allclose(result[1, 1], drift(logits[1, 1], advantages[1, 1]), 1e-5)
        np.testing.assert_allclose(drift(logits, advantages + 3.0), result, atol=1e-5)


def test_drift_bad_shapes():
    with pytest.raises(ValueError, match="advantages"):
        entropies.natural_gradient_drift(np.ones(3), np.ones(4))
