"""Flat rewards by group."""

import jax
import numpy as np
import pytest

import fade_jax
from fade_jax.groups import by_group

IDS = np.array([2, 0, 2, 3, 0, 2])


def test_by_group_of_unequal_groups():
    grouped = by_group(np.arange(1.0, 7), IDS, num_groups=4, group_size=3)
    np.testing.assert_array_equal(grouped.values, [[2, 5, 0], [0, 0, 0], [1, 3, 6], [4, 0, 0]])
    np.testing.assert_array_equal(grouped.where, np.asarray(grouped.values) > 0)
    np.testing.assert_array_equal(grouped.values[grouped.positions], np.arange(1.0, 7))


def test_by_group_advantages_equal_those_of_each_group():
    @jax.jit
    def advantages(rewards, ids):
        grouped = by_group(rewards, ids, num_groups=4, group_size=5)
        return fade_jax.grpo(grouped.values, where=grouped.where)[grouped.positions]

    rewards = np.array([1, 0, 0, 1, 1, 1], np.float32)
    found = advantages(rewards, IDS)
    for group in (0, 2):
        expected = fade_jax.grpo(rewards[group == IDS])
        np.testing.assert_allclose(found[group == IDS], expected, rtol=1e-6)
    assert found[3] == 0


@pytest.mark.parametrize(
    ("values", "ids", "message"),
    [
        (np.ones(3), [0, 1, 2], r"group_ids must be in \[0, 2\)"),
        (np.ones(3), [0, -1, 1], r"group_ids must be in \[0, 2\)"),
        (np.ones(3), [1, 1, 1], "group_size must be at least 3, got 2"),
        (np.ones((2, 2)), [0, 1], r"flat, \[N\], got shape \(2, 2\)"),
        (np.ones(3), [0, 1], "group_ids must have the shape of values"),
    ],
)
def test_by_group_bad_input(values, ids, message):
    with pytest.raises(ValueError, match=message):
        by_group(values, ids, num_groups=2, group_size=2)
