"""REINFORCE and its baselines beyond the common suite."""

from functools import partial

import jax
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition


def test_grpo_ddof():
    rewards = np.array([1.0, 0, 0, 0])
    for ddof in (0, 1):
        expected = (rewards - 0.25) / (np.std(rewards, ddof=ddof) + 1e-6)
        np.testing.assert_allclose(fade_jax.grpo(rewards, ddof=ddof), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [5, 10, 20, 50, 100])
def test_quantile_rank(size):
    levels = (0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 1.0)
    rewards = np.random.default_rng(0).permutation(size).astype(np.float32)
    quantile = partial(fade_jax.quantile, standardize=False)
    results = jax.jit(lambda r: [quantile(r, level=level) for level in levels])(rewards)
    for level, result in zip(levels, results):
        rank = int(np.ceil(round(level * size, 6)))  # 0.55 · 100 > 55 in floating point
        np.testing.assert_array_equal(result, rewards - (rank - 1), err_msg=f"level {level}")


def test_opo_baseline():
    rewards = np.array([[1.0, 0, 1, 0], [0.2, 0.4, 0.6, 0.8]])
    lengths = np.array([[10, 20, 30, 40], [1, 1, 1, 97]])
    baseline = (rewards * lengths).sum(-1, keepdims=True) / 100
    opo = jax.jit(fade_jax.opo)
    np.testing.assert_allclose(opo(rewards, lengths=lengths), rewards - baseline, 1e-5)
    same = opo(rewards, lengths=np.full((2, 4), 7))
    np.testing.assert_allclose(same, fade_jax.dr_grpo(rewards), rtol=1e-6)
    constant = opo(np.full((1, 64), 0.7), lengths=np.arange(1, 65)[None])
    np.testing.assert_array_equal(constant, 0)
    assert np.all(np.isfinite(opo(rewards, lengths=np.zeros((2, 4)))))


def test_opo_masked_lengths():
    rewards, lengths = np.array([1.0, 0.0, 1.0]), np.array([3.0, 1.0, np.nan])
    where = np.array([True, True, False])
    result = fade_jax.opo(rewards, lengths=lengths, where=where)
    np.testing.assert_allclose(result, [0.25, -0.75, 0.0])


def test_gpg_scale():
    rewards = np.array([[1.0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    np.testing.assert_allclose(fade_jax.gpg(rewards), 2 * fade_jax.dr_grpo(rewards), rtol=1e-6)
    where = np.ones((4, 4), bool)
    where[2] = False  # of three groups, two have a gradient
    np.testing.assert_allclose(
        fade_jax.gpg(rewards, where=where)[0], 1.5 * fade_jax.dr_grpo(rewards[0]), rtol=1e-6
    )
    np.testing.assert_array_equal(fade_jax.gpg(rewards[1:3]), 0)


@pytest.mark.parametrize(
    ("fn", "masses"),
    [
        (fade_jax.reinforce_plus_plus, lambda p, G: (np.sqrt(p * (1 - p)),) * 2),
        (fade_jax.gpg, lambda p, G: (p * (1 - p) * (1 - 1 / G) / (1 - p**G - (1 - p) ** G),) * 2),
    ],
)
def test_whole_batch_masses(fn, masses):
    p, size = 0.3, 4
    rewards = (np.random.default_rng(0).random((100_000, size)) < p).astype(np.float32)
    empirical = decomposition.empirical_masses(jax.jit(fn)(rewards), rewards)
    np.testing.assert_allclose(empirical, masses(p, size), rtol=0.01)
