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


def test_policy_gradient_is_minus_the_advantage_times_the_log_probability():
    expected = -ADVANTAGES[..., None] * LOG_PROBS
    np.testing.assert_allclose(losses.policy_gradient(LOG_PROBS, ADVANTAGES), expected, 1e-6)


def test_clipped_surrogate_equals_its_definition_token_by_token():
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


def test_a_clipped_token_has_no_gradient_and_any_other_has_the_ratio_times_the_advantage():
    gradient = jax.grad(lambda x: jnp.sum(losses.clipped_surrogate(x, OLD_LOG_PROBS, ADVANTAGES)))(
        jnp.asarray(LOG_PROBS, jnp.float32)
    )
    clipped = losses.is_clipped(LOG_PROBS, OLD_LOG_PROBS, ADVANTAGES)
    expected = -np.exp(LOG_PROBS - OLD_LOG_PROBS) * ADVANTAGES[..., None]
    np.testing.assert_allclose(gradient, np.where(clipped, 0, expected), rtol=1e-5)


@pytest.mark.parametrize("bounds", [(0.2, 0.28), (1e-3, 0.0), (1.0, 5.0)])
def test_at_ratio_one_the_surrogate_has_the_policy_gradient(bounds):
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


def test_no_gradient_flows_into_the_advantages():
    for loss in (
        lambda a: losses.policy_gradient(LOG_PROBS, a),
        lambda a: losses.clipped_surrogate(LOG_PROBS, OLD_LOG_PROBS, a),
        lambda a: losses.sequence_surrogate(LOG_PROBS, OLD_LOG_PROBS, a),
        lambda a: losses.cispo(LOG_PROBS, OLD_LOG_PROBS, a),
    ):
        gradient = jax.grad(lambda a, loss=loss: jnp.sum(loss(a)))(jnp.asarray(ADVANTAGES))
        np.testing.assert_array_equal(gradient, 0)


def test_masked_tokens_are_zero_whatever_they_hold_and_do_not_touch_the_gradient():
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


def test_advantages_may_be_given_per_token():
    per_token = np.broadcast_to(ADVANTAGES[..., None], LOG_PROBS.shape)
    np.testing.assert_array_equal(
        losses.clipped_surrogate(LOG_PROBS, OLD_LOG_PROBS, per_token),
        losses.clipped_surrogate(LOG_PROBS, OLD_LOG_PROBS, ADVANTAGES),
    )


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
def test_an_extreme_ratio_keeps_values_and_gradients_finite(advantage, log_ratio):
    value, gradient = jax.value_and_grad(
        lambda x: losses.clipped_surrogate(x[None], jnp.zeros(1), jnp.full((1,), advantage))[0]
    )(jnp.float32(log_ratio))
    assert np.isfinite(value)
    assert np.isfinite(gradient)


def test_bfloat16_log_probabilities_give_float32_losses():
    result = losses.policy_gradient(jnp.asarray(LOG_PROBS, jnp.bfloat16), ADVANTAGES)
    assert result.dtype == jnp.float32


def test_kl_estimators_equal_their_definitions_and_agree_with_the_exact_divergence():
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


def test_the_expected_gradients_of_the_kl_estimators_are_what_their_docstrings_say():
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


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: losses.policy_gradient(LOG_PROBS, ADVANTAGES[0]), "advantages"),
        (lambda: losses.policy_gradient(LOG_PROBS, ADVANTAGES, where=WHERE[0]), "where"),
        (
            lambda: losses.clipped_surrogate(LOG_PROBS, LOG_PROBS[0], ADVANTAGES),
            "old_log_probs",
        ),
        (
            lambda: losses.clipped_surrogate(LOG_PROBS, LOG_PROBS, ADVANTAGES, low=-0.1),
            "low must be",
        ),
        (
            lambda: losses.clipped_surrogate(LOG_PROBS, LOG_PROBS, ADVANTAGES, high=-0.1),
            "high must be",
        ),
        (lambda: losses.kl_k1(LOG_PROBS, LOG_PROBS[0]), "reference_log_probs"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_the_dual_clip_bounds_the_loss_of_a_punished_token():
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


def test_the_sequence_surrogate_has_the_gradient_of_the_geometric_mean_ratio():
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


def test_cispo_weighs_the_policy_gradient_by_a_clipped_ratio_and_drops_no_token():
    gradient = jax.grad(lambda x: jnp.sum(losses.cispo(x, OLD_LOG_PROBS, ADVANTAGES, high=0.1)))(
        jnp.asarray(LOG_PROBS, jnp.float32)
    )
    weight = np.minimum(np.exp(LOG_PROBS - OLD_LOG_PROBS), 1.1)
    np.testing.assert_allclose(gradient, -weight * ADVANTAGES[..., None], rtol=1e-5)


def test_reductions_equal_their_definitions():
    per_token = np.where(WHERE, LOG_PROBS, np.nan)
    masked = np.where(WHERE, LOG_PROBS, 0)
    lengths = WHERE.sum(-1)
    expected = {
        "token": masked.sum() / WHERE.sum(),
        "sequence": np.mean([m.sum() / n for m, n in zip(masked.reshape(-1, 5), lengths.flat)]),
        "constant": masked.sum() / (12 * 7),
    }
    assert lengths.min() > 0
    result = {
        "token": losses.mean(losses.token_mean(per_token, WHERE)),
        "sequence": losses.mean(losses.sequence_mean(per_token, WHERE)),
        "constant": losses.mean(losses.constant_length_mean(per_token, WHERE, length=7)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-5)


REDUCTIONS = [
    losses.token_mean,
    losses.sequence_mean,
    lambda x, w: losses.constant_length_mean(x, w, length=7),
]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_accumulated_gradients_are_those_of_the_whole_batch(reduction):
    x = jnp.asarray(LOG_PROBS, jnp.float32)
    whole = jax.grad(lambda x: losses.mean(reduction(x**2, WHERE)))(x)
    parts = [slice(0, 1), slice(1, 3)]  # of different sizes
    gradients = [jax.grad(lambda x, p=p: reduction(x[p] ** 2, WHERE[p]).sum)(x) for p in parts]
    denominator = sum(reduction(x[p] ** 2, WHERE[p]).denominator for p in parts)
    np.testing.assert_allclose(sum(gradients) / denominator, whole, rtol=1e-5, atol=1e-8)
    totals = [reduction(x[p] ** 2, WHERE[p]) for p in parts]
    np.testing.assert_allclose(losses.mean(*totals), losses.mean(reduction(x**2, WHERE)), 1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_sequence_without_tokens_counts_for_nothing_and_an_empty_batch_is_zero(reduction):
    where = WHERE.copy()
    where[1] = False
    some = losses.mean(reduction(LOG_PROBS, where))
    np.testing.assert_allclose(
        some, losses.mean(reduction(LOG_PROBS[[0, 2]], WHERE[[0, 2]])), rtol=1e-5
    )
    assert losses.mean(reduction(LOG_PROBS, np.zeros_like(WHERE))) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_over_eight_devices_equal_one(reduction):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    where = np.random.default_rng(1).random((16, 5)) > 0.4
    sharded = jax.jit(reduction)(jax.device_put(x, sharding), jax.device_put(where, sharding))
    np.testing.assert_allclose(sharded, reduction(x, where), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: losses.clipped_surrogate(LOG_PROBS, LOG_PROBS, ADVANTAGES, dual=0.5), "dual"),
        (lambda: losses.cispo(LOG_PROBS, LOG_PROBS, ADVANTAGES, low=2.0), "low"),
        (lambda: losses.sequence_surrogate(LOG_PROBS, LOG_PROBS, ADVANTAGES, high=-1), "high"),
        (lambda: losses.token_mean(LOG_PROBS, WHERE[0]), "where"),
        (lambda: losses.constant_length_mean(LOG_PROBS, length=0), "length"),
    ],
)
def test_bad_input_to_the_other_losses_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
