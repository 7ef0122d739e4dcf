"""Densities of solve rates, mean masses, equal scales, peaks and bins."""

from functools import partial

import jax
import numpy as np
import pytest
import scipy.stats

import fade_jax
from fade_jax import decomposition
from fade_jax.densities import Beta, beta_binomial, fit_beta, quadrature

DENSITIES = [Beta(1, 1), Beta(0.3, 0.5), Beta(2.0, 5.0), Beta(0.5, 0.5)]


@pytest.mark.parametrize("density", DENSITIES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 8, 512])
def test_beta_binomial_equals_scipy(density, n):
    expected = scipy.stats.betabinom(n, *density).pmf(np.arange(n + 1))
    np.testing.assert_allclose(beta_binomial(density, n), expected, rtol=5e-5)


@pytest.mark.parametrize("density", DENSITIES, ids=str)
@pytest.mark.parametrize("num_nodes", [1, 2, 16])
def test_quadrature_is_exact_for_polynomials(density, num_nodes):
    nodes, weights = quadrature(density, num_nodes)
    for power in range(2 * num_nodes):
        expected = scipy.stats.beta(*density).moment(power) if power else 1.0
        np.testing.assert_allclose(np.sum(weights * nodes**power), expected, rtol=1e-4)


def test_fit_recovers_the_density_of_groups_of_any_size():
    rng = np.random.default_rng(0)
    p = rng.beta(0.6, 1.7, 40_000)
    sizes = rng.integers(2, 17, p.shape)
    density = fit_beta(rng.binomial(sizes, p), sizes)
    np.testing.assert_allclose(density, (0.6, 1.7), rtol=0.05)


@pytest.mark.parametrize("counts", [[], [8] * 10, [0] * 10, [4] * 1000, [0, 8] * 100])
def test_fit_is_finite_and_positive_whatever_the_counts(counts):
    density = fit_beta(np.array(counts), 8)
    assert np.all(np.isfinite(density))
    assert np.all(np.array(density) > 0)
    np.testing.assert_allclose(
        density[0] / sum(density), (sum(counts) / 8 + 0.5) / (len(counts) + 1), rtol=1e-4
    )


@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_mean_masses_equal_the_mean_over_the_density(density):
    fn = jax.jit(partial(fade_jax.fade, alpha=2.5, delta=0.5))
    result = decomposition.mean_masses(fn, 8, density)
    nodes, weights = quadrature(density, 16)
    at_nodes = decomposition.gradient_masses(fn, nodes, 8)
    np.testing.assert_allclose(result.success, np.sum(weights * at_nodes.success), rtol=1e-4)
    np.testing.assert_allclose(result.failure, np.sum(weights * at_nodes.failure), rtol=1e-4)


def test_equal_area_of_power_is_the_published_constant():
    alphas = [1.0, 2.0, 3.0]
    fns = [fade_jax.dr_grpo, *(partial(fade_jax.power, alpha=a) for a in alphas)]
    scales = decomposition.equalize_scale(fns, 512)
    expected = [1.0, *((a + 1) * (a + 2) / 6 for a in alphas)]
    np.testing.assert_allclose(scales, expected, rtol=0.01)


def test_equalized_advantages_have_the_same_total_mass():
    density = Beta(0.5, 2.0)
    fns = [jax.jit(f) for f in (fade_jax.grpo, partial(fade_jax.pkpo, k=3), fade_jax.max_rl)]
    scales = decomposition.equalize_scale(fns, 8, density)
    totals = [
        sum(decomposition.mean_masses(lambda r, f=fn, c=c: c * f(r), 8, density))
        for fn, c in zip(fns, scales)
    ]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("fn", "peak"),
    [
        (fade_jax.dr_grpo, 1 / 2),
        (fade_jax.psr, 1.0),
        (partial(fade_jax.power, alpha=1.0), 1 / 2),
        (partial(fade_jax.pkpo, k=4), 1 / 4),
        (fade_jax.leave_one_out_pass_at_g, 1 / 16),
    ],
)
def test_peaks_are_those_of_the_table(fn, peak):
    np.testing.assert_allclose(decomposition.peak_solve_rate(jax.jit(fn), 16), peak, atol=2e-5)


def test_peaks_of_large_groups_approach_those_of_the_table():
    for alpha in (2.0, 3.0):
        peak = decomposition.peak_solve_rate(partial(fade_jax.power, alpha=alpha), 512)
        np.testing.assert_allclose(peak, 1 / (1 + alpha), atol=0.003)
    peak = decomposition.peak_solve_rate(partial(fade_jax.f_grpo, gamma=1.0), 512)
    np.testing.assert_allclose(peak, 1 / 4, atol=0.005)
    assert np.isnan(decomposition.peak_solve_rate(fade_jax.nsr, 8))


def test_signed_masses_tell_a_punished_success_from_a_failure():
    fn = jax.jit(partial(fade_jax.pkpo, k=3, baseline="loo"))
    p, size = 0.6, 6
    signed = decomposition.signed_masses(fn, p, size)
    masses = decomposition.gradient_masses(fn, p, size)
    rewards = (np.random.default_rng(0).random((50_000, size)) < p).astype(np.float32)
    empirical = decomposition.empirical_signed_masses(fn(rewards))
    np.testing.assert_allclose(signed, empirical, rtol=0.01)
    assert signed.success > masses.success
    np.testing.assert_allclose(
        signed.success - signed.failure, masses.success - masses.failure, atol=1e-5
    )


def test_bins_add_up_to_the_masses_of_the_batch():
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
    ("call", "word"),
    [
        (lambda: beta_binomial(Beta(0.0, 1.0), 3), "density.a must be .* above 0"),
        (lambda: quadrature(Beta(1.0, -1.0)), "density.b must be .* above 0"),
        (lambda: quadrature(Beta(1.0, 1.0), 0), "num_nodes"),
        (lambda: fit_beta(np.ones(3), 8, prior=0.0), "prior"),
        (lambda: fit_beta(np.array([3, 9]), 8), r"num_correct must be in \[0, group_size = 8\]"),
        (
            lambda: decomposition.empirical_masses_by_bin(np.ones((2, 3)), np.ones((3, 2))),
            "advantages must have the shape of rewards",
        ),
        (lambda: decomposition.gradient_masses(fade_jax.gpg, 0.5, 4), "whole batch"),
        (lambda: decomposition.gradient_masses(fade_jax.reinforce_plus_plus, 0.5, 4), "whole"),
        (
            lambda: decomposition.empirical_masses_by_bin(
                np.ones((1, 2)), np.ones((1, 2)), num_bins=0
            ),
            "num_bins",
        ),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
