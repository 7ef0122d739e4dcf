"""Beta densities against scipy, and their fit."""

import numpy as np
import pytest
import scipy.stats

from fade_jax.densities import Beta, beta_binomial, fit_beta, quadrature

DENSITIES = [Beta(1, 1), Beta(0.3, 0.5), Beta(2.0, 5.0), Beta(0.5, 0.5)]


@pytest.mark.parametrize("density", DENSITIES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 8, 512])
def test_beta_binomial_equals_scipy(density, n):
    expected = scipy.stats.betabinom(n, *density).pmf(np.arange(n + 1))
    np.testing.assert_allclose(beta_binomial(density, n), expected, rtol=5e-5)


@pytest.mark.parametrize("density", DENSITIES, ids=str)
@pytest.mark.parametrize("num_nodes", [1, 2, 16])
def test_quadrature_polynomials(density, num_nodes):
    nodes, weights = quadrature(density, num_nodes)
    for power in range(2 * num_nodes):
        expected = scipy.stats.beta(*density).moment(power) if power else 1.0
        np.testing.assert_allclose(np.sum(weights * nodes**power), expected, rtol=1e-4)


def test_fit_beta_recovers_density():
    rng = np.random.default_rng(0)
    p = rng.beta(0.6, 1.7, 40_000)
    sizes = rng.integers(2, 17, p.shape)
    density = fit_beta(rng.binomial(sizes, p), sizes)
    np.testing.assert_allclose(density, (0.6, 1.7), rtol=0.05)


@pytest.mark.parametrize("counts", [[], [8] * 10, [0] * 10, [4] * 1000, [0, 8] * 100])
def test_fit_beta_extreme_counts(counts):
    density = fit_beta(np.array(counts), 8)
    assert np.all(np.isfinite(density))
    assert np.all(np.array(density) > 0)
    np.testing.assert_allclose(
        density[0] / sum(density), (sum(counts) / 8 + 0.5) / (len(counts) + 1), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: beta_binomial(Beta(0.0, 1.0), 3), "density.a must be .* above 0"),
        (lambda: quadrature(Beta(1.0, -1.0)), "density.b must be .* above 0"),
        (lambda: quadrature(Beta(1.0, 1.0), 0), "num_nodes"),
        (lambda: fit_beta(np.ones(3), 8, prior=0.0), "prior"),
        (lambda: fit_beta(np.array([3, 9]), 8), r"num_correct must be in \[0, group_size = 8\]"),
    ],
)
def test_densities_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
