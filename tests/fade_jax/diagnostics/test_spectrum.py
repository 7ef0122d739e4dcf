"""Spectra of updates with known singular values."""

import jax
import numpy as np
import pytest

from fade_jax import diagnostics


def with_singular_values(singular, rows=30, columns=12, seed=0):
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(rows, len(singular))))[0]
    v = np.linalg.qr(rng.normal(size=(columns, len(singular))))[0]
    return u * np.array(singular) @ v.T


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e12])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_rank_one_fraction_known_spectrum(scale, shape):
    update = with_singular_values([3.0, 2.0, 1.0], *shape) * scale
    np.testing.assert_allclose(diagnostics.rank_one_fraction(update), 9 / 14, rtol=1e-5)


def test_rank_one_fraction_bounds():
    np.testing.assert_allclose(diagnostics.rank_one_fraction(np.outer([1, 2], [3, 4, 5])), 1.0)
    np.testing.assert_allclose(diagnostics.rank_one_fraction(np.eye(8)), 1 / 8, rtol=1e-6)


def test_effective_rank_definition():
    singular = np.array([3.0, 2.0, 1.0, 1e-3])
    p = singular / singular.sum()
    expected = np.exp(-(p * np.log(p)).sum())
    result = diagnostics.effective_rank(with_singular_values(singular))
    np.testing.assert_allclose(result, expected, rtol=1e-3)
    np.testing.assert_allclose(diagnostics.effective_rank(np.eye(8)), 8, rtol=1e-5)


@pytest.mark.parametrize("fn", [diagnostics.rank_one_fraction, diagnostics.effective_rank])
def test_spectrum_batched_and_zero_update(fn):
    updates = np.stack([with_singular_values([3.0, 1.0], seed=s) for s in range(3)])
    np.testing.assert_allclose(jax.jit(fn)(updates), [fn(update) for update in updates], rtol=1e-4)
    assert np.isnan(fn(np.zeros((3, 4))))


@pytest.mark.parametrize("decay", [0.3, 0.8, 0.97])
def test_randomized_rank_one_fraction_accuracy(decay):
    update = with_singular_values(decay ** np.arange(60), rows=400, columns=64)
    exact = diagnostics.rank_one_fraction(update)
    randomized = jax.jit(diagnostics.randomized_rank_one_fraction)(update, jax.random.key(0))
    np.testing.assert_allclose(randomized, exact, rtol=0.01)
    assert randomized <= exact * 1.0001


@pytest.mark.parametrize("decay", [0.3, 0.8, 0.9])
def test_randomized_effective_rank_accuracy(decay):
    singular = decay ** np.arange(64)
    update = with_singular_values(singular, rows=400, columns=64)
    p = singular / singular.sum()
    exact = np.exp(-(p * np.log(p)).sum())
    np.testing.assert_allclose(diagnostics.effective_rank(update), exact, rtol=1e-3)
    randomized_rank = jax.jit(diagnostics.randomized_effective_rank, static_argnames="rank")
    randomized = randomized_rank(update, jax.random.key(0), rank=56)
    np.testing.assert_allclose(randomized, exact, rtol=0.01)
    fewer = randomized_rank(update, jax.random.key(0), rank=8)
    assert fewer <= randomized * 1.0001 <= exact * 1.0002


def test_direction_fraction_definition():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(100, 12)) + 2.0  # with a common direction
    update = rng.normal(size=(30, 100)) @ hidden
    mean = hidden.mean(0)
    unit = mean / np.linalg.norm(mean)
    along = np.linalg.norm(np.outer(update @ unit, unit)) ** 2 / np.linalg.norm(update) ** 2
    result = diagnostics.direction_fraction(update, 5 * mean)
    np.testing.assert_allclose(result, along, rtol=1e-5)
    top = diagnostics.rank_one_fraction(update)
    assert result < top
    right = np.linalg.svd(update)[2][0]
    np.testing.assert_allclose(diagnostics.direction_fraction(update, right), top, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: diagnostics.rank_one_fraction(np.ones(5)), r"update.*two axes.*\(5,\)"),
        (lambda k: diagnostics.randomized_rank_one_fraction(np.ones((3, 4)), k, rank=0), "rank"),
        (lambda k: diagnostics.randomized_rank_one_fraction(np.ones((2, 3, 4)), k), "matrix"),
        (lambda k: diagnostics.direction_fraction(np.ones((3, 4)), np.ones(3)), "direction"),
        (lambda k: diagnostics.randomized_effective_rank(np.ones((3, 4)), k, rank=0), "rank"),
        (lambda k: diagnostics.randomized_effective_rank(np.ones(3), k), "two axes"),
    ],
)
def test_spectrum_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0))
