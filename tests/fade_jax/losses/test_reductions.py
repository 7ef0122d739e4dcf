"""Reductions against their definitions, accumulated and sharded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fade_jax import losses

rng = np.random.default_rng(0)
LOSSES = rng.normal(-1.0, 0.5, (3, 4, 5))
WHERE = rng.random(LOSSES.shape) > 0.3
REDUCTIONS = [
    losses.token_mean,
    losses.sequence_mean,
    lambda x, w: losses.constant_length_mean(x, w, length=7),
]


def test_reduction_definitions():
    per_token = np.where(WHERE, LOSSES, np.nan)
    masked, lengths = np.where(WHERE, LOSSES, 0), WHERE.sum(-1)
    assert lengths.min() > 0
    by_sequence = [m.sum() / n for m, n in zip(masked.reshape(-1, 5), lengths.flat)]
    expected = masked.sum() / WHERE.sum(), np.mean(by_sequence), masked.sum() / (12 * 7)
    for reduction, value in zip(REDUCTIONS, expected, strict=True):
        np.testing.assert_allclose(losses.mean(reduction(per_token, WHERE)), value, rtol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reduction_accumulated_gradients(reduction):
    x = jnp.asarray(LOSSES, jnp.float32)
    whole = jax.grad(lambda x: losses.mean(reduction(x**2, WHERE)))(x)
    parts = [slice(0, 1), slice(1, 3)]  # of different sizes
    gradients = [jax.grad(lambda x, p=p: reduction(x[p] ** 2, WHERE[p]).sum)(x) for p in parts]
    denominator = sum(reduction(x[p] ** 2, WHERE[p]).denominator for p in parts)
    np.testing.assert_allclose(sum(gradients) / denominator, whole, rtol=1e-5, atol=1e-8)
    totals = [reduction(x[p] ** 2, WHERE[p]) for p in parts]
    np.testing.assert_allclose(losses.mean(*totals), losses.mean(reduction(x**2, WHERE)), 1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reduction_empty_sequences(reduction):
    where = WHERE.copy()
    where[1] = False
    some = losses.mean(reduction(LOSSES, where))
    np.testing.assert_allclose(
        some, losses.mean(reduction(LOSSES[[0, 2]], WHERE[[0, 2]])), rtol=1e-5
    )
    assert losses.mean(reduction(LOSSES, np.zeros_like(WHERE))) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reduction_sharded(reduction):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    where = np.random.default_rng(1).random((16, 5)) > 0.4
    sharded = jax.jit(reduction)(jax.device_put(x, sharding), jax.device_put(where, sharding))
    np.testing.assert_allclose(sharded, reduction(x, where), rtol=1e-5)


def test_reduction_bad_input():
    with pytest.raises(ValueError, match="where"):
        losses.token_mean(LOSSES, WHERE[0])
    with pytest.raises(ValueError, match="length"):
        losses.constant_length_mean(LOSSES, length=0)
