"""Unbiased pass@k objectives, by enumeration of all groups."""

import jax
import numpy as np
import pytest

from fade_jax import synthesis, transforms
from tests.fade_jax import reference

P = np.array([0.05, 0.3, 0.5, 0.8, 0.97])


def advantages_of(transformation):
    """rewards -> advantages at the first update, compiled."""
    return jax.jit(lambda rewards: transformation.update(rewards, transformation.init())[0])


def weight_by_enumeration(transformation, group_size):
    """h(p) = m_S/p + m_F/q at each p, from all 2^G groups in float64."""
    fn = advantages_of(transformation)
    masses = [
        reference.masses_by_enumeration(lambda r: np.asarray(fn(r)), p, group_size) for p in P
    ]
    return np.array([success / p + failure / (1 - p) for p, (success, failure) in zip(P, masses)])


@pytest.mark.parametrize("group_size", [2, 5])
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.2, 3.0)])
def test_shrinkage_weight_and_formula(a, b, group_size):
    transformation = transforms.shrinkage(a, b)
    np.testing.assert_allclose(weight_by_enumeration(transformation, group_size), 1, rtol=1e-5)
    rewards = np.arange(group_size) < group_size // 2
    expected = [
        rewards[i] - (np.delete(rewards, i).sum() + a) / (group_size - 1 + a + b)
        for i in range(group_size)
    ]
    given = advantages_of(transformation)(rewards.astype(np.float32))
    np.testing.assert_allclose(given, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("k", "weight"),
    [
        (1.0, lambda q: np.ones_like(q)),
        (2.0, lambda q: 2 * q),
        (3.0, lambda q: 3 * q**2),
        (2.25, lambda q: 0.75 * 2 * q + 0.25 * 3 * q**2),
        (5.0, lambda q: 5 * q**4),
        (6.0, lambda q: 0 * q),  # more than the group has
    ],
)
def test_pass_at_k_weight_enumeration(k, weight):
    chained = transforms.chain(transforms.shrinkage(), transforms.pass_at_k_weight(k))
    given = weight_by_enumeration(chained, 5)
    np.testing.assert_allclose(given, weight(1 - P), rtol=1e-5, atol=1e-7)


def test_pass_at_k_weight_equals_synthesis():
    chained = transforms.chain(transforms.shrinkage(), transforms.pass_at_k_weight(3))
    rewards = np.tril(np.ones((9, 8), np.float32), -1)
    expected = synthesis.synthesize(synthesis.pass_at_k(3), 8)(rewards)
    np.testing.assert_allclose(advantages_of(chained)(rewards), expected, rtol=1e-5, atol=1e-6)


def test_pass_at_k_weight_masked():
    chained = transforms.chain(transforms.shrinkage(), transforms.pass_at_k_weight(2.5))
    small = np.array([[1, 0, 0, 1, 0]], np.float32)
    large = np.array([[1, 1, 0, 0, 1, 1, 0]], np.float32)
    where = np.array([[1, 0, 1, 1, 1, 0, 1]], bool)
    masked, _ = chained.update(large, chained.init(), where=where)
    np.testing.assert_allclose(masked[where], advantages_of(chained)(small)[0], rtol=1e-6)
    np.testing.assert_array_equal(masked[~where], 0)


def test_scheduled_pass_at_k_schedule():
    transformation = transforms.scheduled_pass_at_k(k_max=4.0, rate=0.5, initial_solve_rate=0.5)
    state, average, seen = transformation.init(), 0.5, []
    for rate in (0.0, 0.25, 0.5, 1.0, 1.0):
        rewards = (np.arange(8) < 8 * rate).astype(np.float32)[None]
        _, state = transformation.update(rewards, state)
        average = 0.5 * average + 0.5 * rate
        expected = np.clip(1.5 * (1 - average) / average, 1, 4)
        np.testing.assert_allclose(state[1].alpha, expected, rtol=1e-5)
        seen.append(expected)
    assert seen[0] == 4
    assert seen[-1] == 1
