"""Metrics of a batch against their definitions."""

import jax
import numpy as np
import pytest

import fade_jax
from fade_jax import diagnostics

REWARDS = np.array([[0.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0]])
rng = np.random.default_rng(0)
WHERE = rng.random((4, 4, 5)) > 0.3
WHERE[..., 0] = True
WHERE[1, 3] = WHERE[3, 1] = WHERE[3, 3] = False  # row 3 has only successes left
ENTROPIES = np.where(WHERE, rng.random((4, 4, 5)), np.nan)
CLIPPED = rng.random((4, 4, 5)) > 0.6


def test_batch_metrics_definitions():
    rollouts = WHERE.any(-1)
    advantages = fade_jax.dr_grpo(REWARDS, where=rollouts)
    metrics = jax.jit(diagnostics.batch_metrics)(REWARDS, advantages, ENTROPIES, CLIPPED, WHERE)
    success = WHERE & (REWARDS == 1)[..., None]
    low = CLIPPED & WHERE & (np.asarray(advantages) < 0)[..., None]
    high = CLIPPED & WHERE & (np.asarray(advantages) > 0)[..., None]
    mass = np.sum(np.asarray(advantages) * REWARDS * rollouts) / rollouts.sum()
    expected = {
        "reward": REWARDS[rollouts].mean(),
        "solve_rate": REWARDS[rollouts].mean(),
        "zero_variance_fraction": 3 / 4,
        "mass_success": mass,
        "mass_failure": mass,
        "sign_ratio": 1.0,
        "entropy": ENTROPIES[WHERE].mean(),
        "entropy_success": ENTROPIES[success].mean(),
        "entropy_failure": ENTROPIES[WHERE & ~success].mean(),
        "length": WHERE.sum(-1)[rollouts].mean(),
        "length_max": WHERE.sum(-1).max(),
        "solve_rate_histogram": [1, 0, 2, 0, 1],
        "clip_fraction_low": low.sum() / WHERE.sum(),
        "clip_fraction_high": high.sum() / WHERE.sum(),
    }
    assert set(metrics._fields) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(metrics, name), value, rtol=1e-5, err_msg=name)
    assert metrics.solve_rate_histogram.dtype == np.int32


def test_batch_metrics_masked_groups_and_fractional_rewards():
    rewards = np.where(REWARDS == 1, 0.8, 0.1)
    where = WHERE.copy()
    where[0] = False
    rewards[0] = np.nan
    metrics = diagnostics.batch_metrics(rewards, REWARDS, ENTROPIES, where=where)
    rollouts = where.any(-1)
    np.testing.assert_allclose(metrics.reward, rewards[rollouts].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics.solve_rate, REWARDS[rollouts].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics.zero_variance_fraction, 2 / 3, rtol=1e-6)
    np.testing.assert_array_equal(metrics.solve_rate_histogram, [0, 0, 2, 0, 1])
    assert metrics.clip_fraction_low is metrics.clip_fraction_high is None
    empty = diagnostics.batch_metrics(rewards, REWARDS, ENTROPIES, where=np.zeros_like(where))
    np.testing.assert_array_equal(empty.solve_rate_histogram, np.zeros(5))
    assert empty.length_max == 0
    for name in ("reward", "solve_rate", "entropy", "length"):
        assert np.isnan(getattr(empty, name))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"rewards": (2, 4)}, "rewards must .* entropies without"),
        ({"advantages": (2, 4)}, "advantages must .* entropies without"),
        ({"clipped": (2, 3)}, "clipped must have the shape of entropies"),
        ({"where": (2, 3)}, "where must have the shape of entropies"),
    ],
)
def test_batch_metrics_bad_shapes(shapes, message):
    shapes = {"rewards": (2, 3), "advantages": (2, 3), "entropies": (2, 3, 5)} | shapes
    with pytest.raises(ValueError, match=message):
        diagnostics.batch_metrics(**{name: np.ones(shape) for name, shape in shapes.items()})
