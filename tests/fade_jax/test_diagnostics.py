from math import comb

import jax
import numpy as np
import pytest

import fade_jax
from fade_jax import diagnostics
from fade_jax.densities import Beta


def with_singular_values(singular, rows=30, columns=12, seed=0):
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.normal(size=(rows, len(singular))))[0]
    v = np.linalg.qr(rng.normal(size=(columns, len(singular))))[0]
    return u * np.array(singular) @ v.T


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e12])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_rank_one_fraction_equals_the_known_spectrum(scale, shape):
    update = with_singular_values([3.0, 2.0, 1.0], *shape) * scale
    np.testing.assert_allclose(diagnostics.rank_one_fraction(update), 9 / 14, rtol=1e-5)


def test_rank_one_fraction_at_its_bounds():
    np.testing.assert_allclose(diagnostics.rank_one_fraction(np.outer([1, 2], [3, 4, 5])), 1.0)
    np.testing.assert_allclose(diagnostics.rank_one_fraction(np.eye(8)), 1 / 8, rtol=1e-6)


def test_effective_rank_equals_its_definition():
    singular = np.array([3.0, 2.0, 1.0, 1e-3])
    p = singular / singular.sum()
    expected = np.exp(-(p * np.log(p)).sum())
    result = diagnostics.effective_rank(with_singular_values(singular))
    np.testing.assert_allclose(result, expected, rtol=1e-3)
    np.testing.assert_allclose(diagnostics.effective_rank(np.eye(8)), 8, rtol=1e-5)


def test_both_are_batched_and_jitted():
    updates = np.stack([with_singular_values([3.0, 1.0], seed=s) for s in range(3)])
    for fn in (diagnostics.rank_one_fraction, diagnostics.effective_rank):
        result = jax.jit(fn)(updates)
        np.testing.assert_allclose(result, [fn(update) for update in updates], rtol=1e-4)


def test_a_zero_update_is_undefined():
    assert np.isnan(diagnostics.rank_one_fraction(np.zeros((3, 4))))
    assert np.isnan(diagnostics.effective_rank(np.zeros((3, 4))))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"update.*two axes.*\(5,\)"):
        diagnostics.rank_one_fraction(np.ones(5))


@pytest.mark.parametrize("decay", [0.3, 0.8, 0.97])
def test_the_randomized_fraction_agrees_within_one_percent(decay):
    update = with_singular_values(decay ** np.arange(60), rows=400, columns=64)
    exact = diagnostics.rank_one_fraction(update)
    randomized = diagnostics.randomized_rank_one_fraction(update, jax.random.key(0))
    np.testing.assert_allclose(randomized, exact, rtol=0.01)
    assert randomized <= exact * 1.0001


@pytest.mark.parametrize("decay", [0.3, 0.8, 0.9])
def test_the_randomized_effective_rank_agrees_within_one_percent(decay):
    singular = decay ** np.arange(64)
    update = with_singular_values(singular, rows=400, columns=64)
    p = singular / singular.sum()
    exact = np.exp(-(p * np.log(p)).sum())
    np.testing.assert_allclose(diagnostics.effective_rank(update), exact, rtol=1e-3)
    randomized = diagnostics.randomized_effective_rank(update, jax.random.key(0), rank=56)
    np.testing.assert_allclose(randomized, exact, rtol=0.01)
    fewer = diagnostics.randomized_effective_rank(update, jax.random.key(0), rank=8)
    assert fewer <= randomized * 1.0001 <= exact * 1.0002


def test_a_direction_s_fraction_is_at_most_that_of_the_top_singular_vector():
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


def test_effective_sample_size():
    assert diagnostics.effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert diagnostics.effective_sample_size(np.array([0, 0, 2.0])) == pytest.approx(1)
    weights = np.array([1.0, 2.0, 3.0])
    expected = 36 / 14
    np.testing.assert_allclose(diagnostics.effective_sample_size(weights * 1e-30), expected, 1e-5)
    masked = diagnostics.effective_sample_size(np.append(weights, np.nan), np.array([1, 1, 1, 0]))
    np.testing.assert_allclose(masked, expected, rtol=1e-5)
    assert diagnostics.effective_sample_size(np.zeros(3)) == 0


def test_weight_moments_equal_the_sum_over_counts():
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


def test_the_noise_formula_is_the_variance_of_a_product_of_independent_factors():
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


def test_quality_trades_signal_for_sample_size():
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


def test_batch_metrics_equal_their_definitions():
    rng = np.random.default_rng(0)
    rewards = np.array([[0.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0]])
    where = rng.random((4, 4, 5)) > 0.3
    where[..., 0] = True
    where[1, 3] = where[3, 1] = where[3, 3] = False  # row 3 has only successes left
    rollouts = where.any(-1)
    entropies = np.where(where, rng.random((4, 4, 5)), np.nan)
    advantages = fade_jax.dr_grpo(rewards, where=rollouts)
    clipped = rng.random((4, 4, 5)) > 0.6
    metrics = jax.jit(diagnostics.batch_metrics)(rewards, advantages, entropies, clipped, where)
    np.testing.assert_allclose(metrics.solve_rate, rewards[rollouts].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics.zero_variance_fraction, 3 / 4)
    np.testing.assert_allclose(metrics.entropy, entropies[where].mean(), rtol=1e-5)
    won = where & (rewards == 1)[..., None]
    np.testing.assert_allclose(metrics.entropy_success, entropies[won].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.mass_success, metrics.mass_failure, rtol=1e-5)
    np.testing.assert_allclose(metrics.sign_ratio, 1.0, rtol=1e-5)
    low = clipped & where & (np.asarray(advantages) < 0)[..., None]
    np.testing.assert_allclose(metrics.clip_fraction_low, low.sum() / where.sum(), rtol=1e-5)
    high = clipped & where & (np.asarray(advantages) > 0)[..., None]
    np.testing.assert_allclose(metrics.clip_fraction_high, high.sum() / where.sum(), rtol=1e-5)


def metrics_of(other_shapes):
    shapes = {"rewards": (2, 3), "advantages": (2, 3), "entropies": (2, 3, 5), "clipped": (2, 3, 5)}
    return diagnostics.batch_metrics(**{k: np.ones(s) for k, s in (shapes | other_shapes).items()})


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda k: diagnostics.randomized_rank_one_fraction(np.ones((3, 4)), k, rank=0), "rank"),
        (lambda k: diagnostics.randomized_rank_one_fraction(np.ones((2, 3, 4)), k), "matrix"),
        (lambda k: diagnostics.direction_fraction(np.ones((3, 4)), np.ones(3)), "direction"),
        (lambda k: diagnostics.randomized_effective_rank(np.ones((3, 4)), k, rank=0), "rank"),
        (lambda k: diagnostics.randomized_effective_rank(np.ones(3), k), "two axes"),
        (lambda k: diagnostics.weight_moments(lambda r: r, 0.5, 0), "group_size"),
        (lambda k: diagnostics.weight_moments(lambda r: r, 1.5, 4), "solve_rate"),
        (lambda k: diagnostics.effective_sample_size(np.ones(3), np.ones(4)), "where.*weights"),
        (lambda k: metrics_of({"rewards": (2, 4)}), "rewards must .* entropies without"),
        (lambda k: metrics_of({"advantages": (2, 4)}), "advantages must .* entropies without"),
        (lambda k: metrics_of({"clipped": (2, 3)}), "clipped must have the shape of entropies"),
        (lambda k: metrics_of({"where": (2, 3)}), "where must have the shape of entropies"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call(jax.random.key(0))
