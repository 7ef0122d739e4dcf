"""Per-token losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fade_jax import losses

rng = np.random.default_rng(0)
LOG_PROBS = rng.normal(-1.0, 0.5, (3, 4, 5))
OLD_LOG_PROBS = LOG_PROBS + rng.normal(0.0, 0.3, LOG_PROBS.shape)
ADVANTAGES = rng.normal(size=(3, 4))
WHERE = rng.random(LOG_PROBS.shape) > 0.3


def test_policy_gradient_definition():
    expected = -ADVANTAGES[..., None] * LOG_PROBS
    np.testing.assert_allclose(losses.policy_gradient(LOG_PROBS, ADVANTAGES), expected, 1e-6)


def test_clipped_surrogate_definition():
    expected = np.zeros(LOG_PROBS.shape)
    clipped = np.zeros(LOG_PROBS.shape, bool)
    for i in np.ndindex(LOG_PROBS.shape):
        ratio, a = np.exp(LOG_PROBS[i] - OLD_LOG_PROBS[i]), ADVANTAGES[i[:2]]
        expected[i] = -min(ratio * a, np.clip(ratio, 0.8, 1.28) * a)
        clipped[i] = ratio * a > np.clip(ratio, 0.8, 1.28) * a
    assert 0.1 < clipped.mean() < 0.9
    arguments = (LOG_PROBS, OLD_LOG_PROBS, ADVANTAGES)
    np.testing.assert_allclose(losses.clipped_surrogate(*arguments), expected, 1e-5, 1e-6)
    np.testing.assert_array_equal(losses.is_clipped(*arguments), clipped)


def test_clipped_surrogate_gradient():
    gradient = jax.grad(lambda x: jnp.sum(losses.clipped_surrogate(x, OLD_LOG_PROBS, ADVANTAGES)))(
        jnp.asarray(LOG_PROBS, jnp.float32)
    )
    clipped = losses.is_clipped(LOG_PROBS, OLD_LOG_PROBS, ADVANTAGES)
    expected = -np.exp(LOG_PROBS - OLD_LOG_PROBS) * ADVANTAGES[..., None]
    np.testing.assert_allclose(gradient, np.where(clipped, 0, expected), rtol=1e-5)


@pytest.mark.parametrize("bounds", [(0.2, 0.28), (1e-3, 0.0), (1.0, 5.0)])
def test_clipped_surrogate_at_ratio_one(bounds):
    def gradient(loss):
        return jax.grad(lambda x: jnp.sum(loss(x)))(jnp.asarray(LOG_PROBS, jnp.float32))

    low, high = bounds
    if high == 0.0:  # at the very bound the minimum may take either side: keep off it
        high = 1e-3
    surrogate = gradient(
        lambda x: losses.clipped_surrogate(x, LOG_PROBS, ADVANTAGES, low=low, high=high)
    )
    plain = gradient(lambda x: losses.policy_gradient(x, ADVANTAGES))
    np.testing.assert_allclose(surrogate, plain, rtol=1e-5)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
def test_clipped_surrogate_extreme_ratio(advantage, log_ratio):
    value, gradient = jax.value_and_grad(
        lambda x: losses.clipped_surrogate(x[None], jnp.zeros(1), jnp.full((1,), advantage))[0]
    )(jnp.float32(log_ratio))
    assert np.isfinite(value)
    assert np.isfinite(gradient)


def test_clipped_surrogate_dual():
    ratios = np.array([0.5, 1.0, 2.0, 5.0, 50.0])
    for advantage in (-2.0, 2.0):
        expected = [min(r * advantage, np.clip(r, 0.8, 1.28) * advantage) for r in ratios]
        if advantage < 0:
            expected = np.maximum(expected, 3.0 * advantage)
        arguments = (np.log(ratios), np.zeros(5), np.full(5, advantage))
        result = losses.clipped_surrogate(*arguments, dual=3.0)
        np.testing.assert_allclose(result, -np.array(expected), rtol=1e-5)
        gradient = jax.grad(
            lambda x, a=advantage: jnp.sum(
                losses.clipped_surrogate(x, np.zeros(5), np.full(5, a), dual=3.0)
            )
        )(jnp.log(jnp.float32(ratios)))
        clipped = losses.is_clipped(*arguments, dual=3.0)
        np.testing.assert_array_equal(np.asarray(gradient) == 0, clipped)


def test_sequence_surrogate_gradient():
    old = jnp.asarray(OLD_LOG_PROBS, jnp.float32)
    where = jnp.asarray(WHERE)
    lengths = np.maximum(WHERE.sum(-1), 1)

    def by_token(x):
        per_token = losses.sequence_surrogate(x, old, ADVANTAGES, low=0.05, high=0.05, where=where)
        return jnp.sum(per_token.sum(-1) / lengths)

    def by_sequence(x):
        ratio = jnp.exp(jnp.sum(jnp.where(where, x - old, 0), -1) / lengths)
        objective = jnp.minimum(ratio * ADVANTAGES, jnp.clip(ratio, 0.95, 1.05) * ADVANTAGES)
        return -jnp.sum(objective * (WHERE.sum(-1) > 0))

    x = jnp.asarray(LOG_PROBS, jnp.float32)
    results = jax.value_and_grad(by_token)(x)
    expected = jax.value_and_grad(by_sequence)(x)
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(results[1], expected[1], rtol=1e-4, atol=1e-6)
    assert 0 < np.mean(np.asarray(results[1])[WHERE] == 0) < 1  # some sequences are clipped


def test_cispo_gradient():
    gradient = jax.grad(lambda x: jnp.sum(losses.cispo(x, OLD_LOG_PROBS, ADVANTAGES, high=0.1)))(
        jnp.asarray(LOG_PROBS, jnp.float32)
    )
    weight = np.minimum(np.exp(LOG_PROBS - OLD_LOG_PROBS), 1.1)
    np.testing.assert_allclose(gradient, -weight * ADVANTAGES[..., None], rtol=1e-5)


def test_losses_no_gradient_into_advantages():
    for loss in (
        lambda a: losses.policy_gradient(LOG_PROBS, a),
        lambda a: losses.clipped_surrogate(LOG_PROBS, OLD_LOG_PROBS, a),
        lambda a: losses.sequence_surrogate(LOG_PROBS, OLD_LOG_PROBS, a),
        lambda a: losses.cispo(LOG_PROBS, OLD_LOG_PROBS, a),
    ):
        gradient = jax.grad(lambda a, loss=loss: jnp.sum(loss(a)))(jnp.asarray(ADVANTAGES))
        np.testing.assert_array_equal(gradient, 0)


def test_losses_masked_tokens():
    garbage = np.where(WHERE, LOG_PROBS, -np.inf)
    old_garbage = np.where(WHERE, OLD_LOG_PROBS, np.nan)

    def total(x):
        surrogate = losses.clipped_surrogate(x, old_garbage, ADVANTAGES, where=WHERE)
        others = losses.policy_gradient(x, ADVANTAGES, where=WHERE)
        others += losses.sequence_surrogate(x, old_garbage, ADVANTAGES, where=WHERE)
        others += losses.cispo(x, old_garbage, ADVANTAGES, where=WHERE)
        return jnp.sum(surrogate + others), surrogate

    (_, surrogate), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(garbage))
    expected = losses.clipped_surrogate(LOG_PROBS, OLD_LOG_PROBS, ADVANTAGES)
    np.testing.assert_allclose(surrogate, np.where(WHERE, expected, 0), rtol=1e-6)
    np.testing.assert_array_equal(gradient[~WHERE], 0)
    assert np.all(np.isfinite(gradient))
    assert not np.any(losses.is_clipped(garbage, old_garbage, ADVANTAGES, where=WHERE)[~WHERE])


def test_losses_advantages_per_token():
    per_token = np.broadcast_to(ADVANTAGES[..., None], LOG_PROBS.shape)
    np.testing.assert_array_equal(
        losses.clipped_surrogate(LOG_PROBS, OLD_LOG_PROBS, per_token),
        losses.clipped_surrogate(LOG_PROBS, OLD_LOG_PROBS, ADVANTAGES),
    )


def test_losses_bfloat16():
    result = losses.policy_gradient(jnp.asarray(LOG_PROBS, jnp.bfloat16), ADVANTAGES)
    assert result.dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: losses.policy_gradient(x, ADVANTAGES[0]), "advantages"),
        (lambda x: losses.policy_gradient(x, ADVANTAGES, where=WHERE[0]), "where"),
        (lambda x: losses.clipped_surrogate(x, x[0], ADVANTAGES), "old_log_probs"),
        (lambda x: losses.clipped_surrogate(x, x, ADVANTAGES, low=-0.1), "low must be"),
        (lambda x: losses.clipped_surrogate(x, x, ADVANTAGES, high=-0.1), "high must be"),
        (lambda x: losses.clipped_surrogate(x, x, ADVANTAGES, dual=0.5), "dual"),
        (lambda x: losses.cispo(x, x, ADVANTAGES, low=2.0), "low"),
        (lambda x: losses.sequence_surrogate(x, x, ADVANTAGES, high=-1), "high"),
    ],
)
def test_losses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(LOG_PROBS)
