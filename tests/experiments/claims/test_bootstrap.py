import time

import numpy as np
import pytest

from experiments.claims import bootstrap


def _interval(counts_a, counts_b, samples, k, resamples=400):
    drawn = bootstrap.draw(counts_a.shape[0], counts_a.shape[1], resamples)
    a, b = (
        bootstrap.resampled(bootstrap.pass_rates(counts, samples, k), drawn.prompts)
        for counts in (counts_a, counts_b)
    )
    return bootstrap.estimate(bootstrap.over_seeds(a - b, drawn.seeds), len(counts_a))


def test_pass_rates_are_the_fraction_of_subsets_with_a_success():
    # n = 4: of the 6 pairs, a prompt with 1 correct has 3 that hold it, one with 2 correct has 5.
    rates = bootstrap.pass_rates(np.array([0, 1, 2, 3, 4]), 4, 2)
    np.testing.assert_allclose(rates, [0, 3 / 6, 5 / 6, 1, 1], atol=1e-6)


def test_intervals_cover_the_true_difference_of_known_binomials():
    """Seeds, prompts and samples all vary: 95% intervals must hold the truth about as often."""
    random = np.random.default_rng(0)
    seeds, prompts, samples, trials = 10, 40, 16, 300
    covered = 0
    for _ in range(trials):
        prompt = random.uniform(-0.15, 0.15, prompts)
        gain = random.normal(0.05, 0.05, (seeds, 1)) + random.normal(0, 0.05, prompts)
        base = random.binomial(samples, 0.4 + prompt, (seeds, prompts))
        other = random.binomial(samples, np.clip(0.4 + prompt + gain, 0, 1))
        found = _interval(other, base, samples, 1)
        covered += found.low <= 0.05 <= found.high
    # Of 300 trials 95% would be 285 ± 8; 10 seeds cost a little, the cells' noise gives it back.
    assert 0.89 <= covered / trials <= 0.985


def test_the_interval_of_a_mean_over_prompts_is_the_normal_one():
    """One set of counts for every seed: only the prompts vary, and the mean is nearly normal."""
    random = np.random.default_rng(1)
    counts = random.binomial(20, 0.3, 400)
    found = _interval(np.tile(counts, (3, 1)), np.zeros((3, 400), int), 20, 1, 4000)
    half = 1.96 * np.std(counts / 20) / np.sqrt(400)
    assert found.value == pytest.approx(counts.mean() / 20)
    assert found.high - found.value == pytest.approx(half, rel=0.08)
    assert found.value - found.low == pytest.approx(half, rel=0.08)


def test_pairing_takes_out_what_two_methods_share():
    """Prompts differ by far more than the methods do; the difference is the same on each."""
    counts = np.tile(np.repeat([5, 90], 20), (5, 1))
    found = _interval(counts + 5, counts, 100, 1)
    assert found.low == pytest.approx(0.05)
    assert found.high == pytest.approx(0.05)


def test_a_comparison_of_five_seeds_takes_well_under_a_second():
    random = np.random.default_rng(2)
    a, b = random.binomial(128, 0.4, (2, 5, 256))
    _interval(a, b, 128, 100, 2000)  # the draw and the table of pass@k are made once
    start = time.process_time()
    _interval(a, b, 128, 100, 2000)
    assert time.process_time() - start < 1


def test_crossings_of_hand_made_lines():
    steps = [0, 10, 20, 30]
    curves = np.array(
        [
            [0.1, 0.2, 0.4, 0.3],  # 0.3 half way from 10 to 20
            [0.3, 0.1, 0.1, 0.1],  # begins there
            [0.0, 0.3, 0.3, 0.3],  # just there, at an evaluation
            [0.1, 0.1, 0.2, 0.29],  # never
        ]
    )
    np.testing.assert_allclose(
        bootstrap.crossing(steps, curves, 0.3), [15, 0, 10, np.nan], rtol=1e-12
    )
    others = np.array([0.9, 0.8, 0.6, 0.5])
    np.testing.assert_allclose(
        bootstrap.at_crossing(steps, curves, 0.3, others), [0.7, 0.9, 0.8, np.nan], rtol=1e-12
    )


def test_seeds_without_a_value_are_left_out_of_the_mean():
    statistic = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    seeds = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(bootstrap.over_seeds(statistic, seeds), [5 / 3, np.nan])


def test_one_seed_has_no_interval():
    found = bootstrap.estimate(np.array([0.4, 0.3, 0.5]), 1)
    assert found.value == 0.4
    assert np.isnan(found.low)
