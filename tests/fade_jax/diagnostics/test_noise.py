"""Moments, noise and quality of weights."""

from math import comb

import numpy as np
import pytest

import fade_jax
from fade_jax import diagnostics
from fade_jax.densities import Beta


def test_effective_sample_size():
    assert diagnostics.effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert diagnostics.effective_sample_size(np.array([0, 0, 2.0])) == pytest.approx(1)
    weights = np.array([1.0, 2.0, 3.0])
    expected = 36 / 14
    np.testing.assert_allclose(diagnostics.effective_sample_size(weights * 1e-30), expected, 1e-5)
    masked = diagnostics.effective_sample_size(np.append(weights, np.nan), np.array([1, 1, 1, 0]))
    np.testing.assert_allclose(masked, expected, rtol=1e-5)
    assert diagnostics.effective_sample_size(np.zeros(3)) == 0


def test_weight_moments_sum_over_counts():
    size, p = 9, np.array([0.0, 0.2, 0.7, 1.0])
    counts = np.arange(size + 1)
    weights = (1 - counts / size) ** 1.5
    probability = np.array(
        [[comb(size, k) * x**k * (1 - x) ** (size - k) for k in counts] for x in p]
    )
    mean = probability @ weights
    variance = probability @ weights**2 - mean**2
    result = diagnostics.weight_moments(lambda r: fade_jax.focal_weight(r, 2.5), p, size)
    np.testing.assert_allclose(result[0], mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result[1], variance, rtol=1e-3, atol=1e-6)


def test_weight_noise_variance_of_product():
    rng = np.random.default_rng(0)
    p, size, s, v0 = 0.3, 8, 0.21, 0.05
    weights = (1 - rng.binomial(size, p, 400_000) / size) ** 2
    gradients = s + np.sqrt(v0) * rng.normal(size=400_000)
    formula = diagnostics.weight_noise(
        lambda r: fade_jax.focal_weight(r, 3.0), p, size, signal=lambda p: s, noise=lambda p: v0
    )
    product = np.var(weights * gradients)
    # Exact but for the product of the two variances, which the approximation leaves out.
    np.testing.assert_allclose(formula + v0 * np.var(weights), product, rtol=0.01)


def test_weight_quality_of_focal_weights():
    qualities = {
        alpha: diagnostics.weight_quality(
            lambda r, a=alpha: fade_jax.focal_weight(r, a), 16, Beta(0.5, 0.5)
        )
        for alpha in (1.0, 2.0, 3.0)
    }
    np.testing.assert_allclose(qualities[1.0].effective_share, 1.0, rtol=1e-5)
    np.testing.assert_allclose(qualities[1.0].signal_to_noise, 16 / 8, rtol=1e-3)  # E_f[G p(1-p)]
    shares = [qualities[a].effective_share for a in (1.0, 2.0, 3.0)]
    assert shares[0] > shares[1] > shares[2]
    for quality in qualities.values():
        np.testing.assert_allclose(
            quality.quality, quality.effective_share * quality.signal_to_noise, rtol=1e-6
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagnostics.weight_moments(lambda r: r, 0.5, 0), "group_size"),
        (lambda: diagnostics.weight_moments(lambda r: r, 1.5, 4), "solve_rate"),
        (lambda: diagnostics.effective_sample_size(np.ones(3), np.ones(4)), "where.*weights"),
    ],
)
def test_noise_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
