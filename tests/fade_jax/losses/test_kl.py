"""KL estimators against the exact divergence and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fade_jax import losses


def test_kl_values():
    policy = np.array([0.5, 0.3, 0.15, 0.05])
    reference = np.array([0.3, 0.3, 0.3, 0.1])
    log_ratio = np.log(policy / reference)
    exact = np.sum(policy * log_ratio)
    k1, k2, k3 = (
        fn(np.log(policy), np.log(reference)) for fn in (losses.kl_k1, losses.kl_k2, losses.kl_k3)
    )
    np.testing.assert_allclose(k1, log_ratio, rtol=1e-5)
    np.testing.assert_allclose(k2, log_ratio**2 / 2, rtol=1e-5)
    np.testing.assert_allclose(k3, reference / policy - 1 + log_ratio, rtol=1e-4, atol=1e-6)
    for unbiased in (k1, k3):
        np.testing.assert_allclose(np.sum(policy * unbiased), exact, rtol=1e-5)
    assert np.all(k3 >= 0)


def test_kl_expected_gradients():
    logits = jnp.array([0.3, -0.5, 1.0])
    reference = jax.nn.softmax(jnp.array([0.0, 0.4, -0.2]))

    def expected_gradient(estimator):
        policy = jax.lax.stop_gradient(jax.nn.softmax(logits))
        return jax.grad(
            lambda z: jnp.sum(policy * estimator(jax.nn.log_softmax(z), jnp.log(reference)))
        )(logits)

    def divergence(p, q):
        return jnp.sum(p * (jnp.log(p) - jnp.log(q)))

    forward = jax.grad(lambda z: divergence(jax.nn.softmax(z), reference))(logits)
    reverse = jax.grad(lambda z: divergence(reference, jax.nn.softmax(z)))(logits)
    np.testing.assert_allclose(expected_gradient(losses.kl_k1), 0, atol=1e-6)
    np.testing.assert_allclose(expected_gradient(losses.kl_k2), forward, atol=1e-6)
    np.testing.assert_allclose(expected_gradient(losses.kl_k3), reverse, atol=1e-6)


def test_kl_bad_shapes():
    with pytest.raises(ValueError, match="reference_log_probs"):
        losses.kl_k1(np.ones((3, 4)), np.ones(4))
