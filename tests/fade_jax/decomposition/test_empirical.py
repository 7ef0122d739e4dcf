"""Masses of a batch."""

import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition


def test_empirical_masses_converge():
    p, size = 0.3, 8
    rewards = (np.random.default_rng(0).random((100_000, size)) < p).astype(np.float32)
    empirical = decomposition.empirical_masses(fade_jax.grpo(rewards), rewards)
    exact = decomposition.gradient_masses(fade_jax.grpo, p, size)
    np.testing.assert_allclose(empirical, exact, rtol=0.01)


def test_empirical_masses_masked():
    advantages = np.array([[2.0, -1.0, np.nan], [1.0, 9.0, -3.0]])
    rewards = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    where = np.array([[True, True, False], [True, False, True]])
    masses = decomposition.empirical_masses(advantages, rewards, where)
    np.testing.assert_allclose(masses, (3 / 4, 4 / 4))
    np.testing.assert_allclose(decomposition.sign_ratio(masses), 0.75)
    empty = decomposition.empirical_masses(advantages, rewards, np.zeros((2, 3)))
    np.testing.assert_array_equal(empty, (0.0, 0.0))


def test_sign_ratio_without_failure_mass():
    masses = decomposition.gradient_masses(fade_jax.psr, 0.5, 4)
    assert np.isinf(decomposition.sign_ratio(masses))


def test_empirical_masses_by_bin_add_up():
    rng = np.random.default_rng(0)
    rewards = (rng.random((64, 8)) < rng.random((64, 1))).astype(np.float32)
    where = rng.random((64, 8)) > 0.2
    where[0] = False
    advantages = fade_jax.fade(rewards, alpha=2.0, delta=0.5, where=where)
    binned = decomposition.empirical_masses_by_bin(advantages, rewards, where, num_bins=4)
    whole = decomposition.empirical_masses(advantages, rewards, where)
    assert float(binned.groups.sum()) == 63
    solve_rate = (rewards * where).sum(-1)[1:] / where.sum(-1)[1:]
    bins = np.minimum((solve_rate * 4).astype(int), 3)
    rollouts = np.array([where[1:][bins == i].sum() for i in range(4)])
    np.testing.assert_array_equal(binned.groups, [np.sum(bins == i) for i in range(4)])
    for in_bins, total in zip(binned.masses, whole):
        np.testing.assert_allclose(np.sum(in_bins * rollouts) / rollouts.sum(), total, rtol=1e-5)
    success = (np.asarray(advantages) * rewards * where)[1:][bins == 1].sum() / rollouts[1]
    np.testing.assert_allclose(binned.masses.success[1], success, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decomposition.empirical_masses(np.ones((2, 3)), np.ones((3, 2))), "advantages"),
        (
            lambda: decomposition.empirical_masses(*np.ones((2, 2, 3)), where=np.ones(3)),
            "where must have the shape of rewards",
        ),
        (
            lambda: decomposition.empirical_masses_by_bin(np.ones((2, 3)), np.ones((3, 2))),
            "advantages must have the shape of rewards",
        ),
        (
            lambda: decomposition.empirical_masses_by_bin(*np.ones((2, 1, 2)), num_bins=0),
            "num_bins",
        ),
    ],
)
def test_empirical_masses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
