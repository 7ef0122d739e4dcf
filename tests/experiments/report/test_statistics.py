import math

import numpy as np
import pytest

from experiments.report.runs import Run, by_method, load_runs, series, to_frame
from experiments.report.statistics import (
    OUTCOMES,
    SOLVE_RATES,
    differences,
    exact_masses,
    final_estimate,
    gain,
    mean_tokens,
    method_curve,
    outcome_shares,
    paired_difference,
    rate_interval,
    sampled_tokens,
    signal,
    start_estimate,
    t_interval,
)
from fade_jax.pass_at_k import interval_over_problems


def test_t_interval_of_three_values_by_hand():
    mean, low, high, num_seeds = t_interval([1.0, 2.0, 6.0])
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)  # t of 2 degrees; variance (4 + 1 + 9) / 2
    assert (mean, num_seeds) == (3.0, 3)
    assert low == pytest.approx(3 - half, abs=1e-5)
    assert high == pytest.approx(3 + half, abs=1e-5)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_t_interval_has_the_closed_form_of_one_and_two_degrees(level):
    # The standard error of (-1, 1) is 1, that of (-√3, 0, √3) as well.
    assert t_interval([-1, 1], level).high == pytest.approx(math.tan(math.pi * level / 2))
    expected = level * math.sqrt(2 / (1 - level**2))
    assert t_interval([-math.sqrt(3), 0, math.sqrt(3)], level).high == pytest.approx(expected)


def test_t_interval_without_spread_and_of_one_value():
    assert t_interval([0.4, 0.4, 0.4])[1:3] == pytest.approx((0.4, 0.4))
    one = t_interval([0.4])
    assert one.value == 0.4
    assert np.isnan([one.low, one.high]).all()


def test_t_interval_coverage():
    draws = np.random.default_rng(0).normal(2.0, 3.0, (4, 2000))
    _, low, high, _ = t_interval(draws)
    assert np.mean((low <= 2.0) & (high >= 2.0)) == pytest.approx(0.95, abs=0.015)


def test_rate_interval_by_hand():
    found = rate_interval(np.array([0.4, 0.6]), np.array([0.3, 0.5]), np.array([0.52, 0.72]))
    half = 12.70620 * 0.1  # t of 1 degree; s/√2
    expected = 0.5, 0.5 - math.hypot(0.1, half), 0.5 + math.hypot(0.12, half), 2
    assert found == pytest.approx(expected, rel=1e-5)
    agreeing = rate_interval(np.full(2, 0.4), np.full(2, 0.3), np.full(2, 0.5))
    assert agreeing == pytest.approx((0.4, 0.3, 0.5, 2))
    one = rate_interval(np.array([1.0]), np.array([0.9]), np.array([1.0]))
    assert one == pytest.approx((1.0, 0.9, 1.0, 1))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("prompts", [16, 256])
@pytest.mark.parametrize("rate", [0, 0.001, 0.01, 0.5, 0.99, 1])
def test_rate_interval_coverage(seeds, prompts, rate):
    """Prompts are shared by the seeds; a seed scales the rarer outcome of every prompt."""
    random = np.random.default_rng(0)
    rarer = min(rate, 1 - rate)
    shape = (500, 1, prompts)
    chance = random.beta(2 * rarer, 2 * (1 - rarer), shape) if rarer else np.zeros(shape)
    chance = chance * random.uniform(0.5, 1, (500, seeds, 1))
    values = random.binomial(16, chance) / 16
    truth = 0.75 * rarer
    if rate > 0.5:
        values, truth = 1 - values, 1 - truth
    rates, *limits = (np.asarray(x).T for x in interval_over_problems(values))
    _, low, high, _ = rate_interval(rates, *limits)
    assert np.mean((low <= truth) & (truth <= high)) >= 0.92
    assert np.all(high - low > 1 / prompts)


def test_paired_difference_by_hand(tmp_path):
    """Two seeds and four prompts; the prompts of a seed differ by the same amount."""

    def runs(name, counts):
        for seed, correct in enumerate(counts):
            directory = tmp_path / f"{name}{seed}"
            (directory / "evaluations").mkdir(parents=True)
            np.savez(directory / "evaluations" / "5.npz", num_correct=correct, num_samples=10)
            lines = to_frame([{"step": 5}])
            yield Run(name, name, {"seed": seed}, lines, to_frame(()), None, directory)

    a = list(runs("a", [[3, 2, 9, 8], [4, 3, 10, 9]]))
    b = list(runs("b", [[1, 0, 7, 6], [1, 0, 7, 6]]))
    found = paired_difference(a, b, 1)
    prompts = interval_over_problems(np.full(4, 0.625))
    half = 12.70620 * 0.05
    low = 0.25 - math.hypot(0.25 - (2 * float(prompts.low) - 1), half)
    assert (found.value, found.low, found.num_seeds) == pytest.approx((0.25, low, 2), rel=1e-5)
    assert paired_difference(a, b[1:], 1).value == pytest.approx(0.3)
    assert paired_difference(a, b, 11) is None
    assert paired_difference(a[:1], b[1:], 1) is None
    assert paired_difference(a, a, 1).low < 0 < paired_difference(a, a, 1).high


def test_gain_is_the_paired_difference_to_step_0(tmp_path):
    """By hand: the same counts as two methods and as the start and end of one must agree."""

    def runs(name, start, counts):
        for seed, correct in enumerate(counts):
            directory = tmp_path / f"{name}{seed}"
            (directory / "evaluations").mkdir(parents=True)
            for step, values in ((0, start[seed]), (5, correct)):
                if values is not None:
                    path = directory / "evaluations" / f"{step}.npz"
                    np.savez(path, num_correct=values, num_samples=10)
            yield Run(name, name, {"seed": seed}, to_frame([{"step": 5}]), to_frame(()), None,
                      directory)  # fmt: skip

    before, after = [[1, 0, 7, 6], [1, 0, 7, 6]], [[3, 2, 9, 8], [4, 3, 10, 9]]
    found = gain(list(runs("a", before, after)), 1)
    ends, starts = list(runs("b", [None] * 2, after)), list(runs("c", [None] * 2, before))
    assert found == paired_difference(ends, starts, 1)
    assert found.value == pytest.approx(0.25)
    assert gain(ends, 1) is None


def test_method_curve_of_four_seeds_has_a_band_over_seeds_and_prompts(four_seeds):
    runs = by_method(load_runs(four_seeds))["grpo"]
    table, single = method_curve(runs, "eval/pass@1")
    values = np.stack([series(run.evaluations, "eval/pass@1") for run in runs])
    over_seeds = 3.182446 * values.std(0, ddof=1) / 2  # t of 3 degrees, √4 seeds
    over_prompts = np.mean(2 * np.sqrt(values * (1 - values) / 64), 0)  # as the fixture logs them
    half = np.hypot(over_seeds, over_prompts)
    np.testing.assert_allclose(table["mean"], values.mean(0))
    np.testing.assert_allclose(table["high"] - table["mean"], half, rtol=1e-5)
    np.testing.assert_allclose(table["mean"] - table["low"], half, rtol=1e-5)
    assert single == []


@pytest.mark.parametrize("window", [1, 3, 7])
def test_method_curve_of_two_seeds_is_a_running_mean(two_seeds, window):
    runs = by_method(load_runs(two_seeds))["grpo"]
    table, single = method_curve(runs, "entropy", window)
    values = np.mean([series(run.train, "entropy") for run in runs], 0)
    half = window // 2
    expected = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    np.testing.assert_allclose(table["mean"], expected)
    assert table["low"].isna().all()
    assert len(single) == 2


def test_method_curve_leaves_a_stopped_run_out(two_seeds):
    complete, killed = by_method(load_runs(two_seeds))["fade"]
    table, (stopped,) = method_curve([complete, killed], "eval/pass@10")
    for column, key in (("mean", "eval/pass@10"), ("low", "eval/pass@10_low")):
        np.testing.assert_allclose(table[column], series(complete.evaluations, key))
    assert stopped.index[-1] < 120


def test_estimates_of_a_missing_metric_are_none(two_seeds):
    runs = by_method(load_runs(two_seeds))["grpo"]
    assert method_curve(runs, "alpha") is None
    assert final_estimate(runs, "eval/pass@7") is None


def test_start_estimate_counts_a_shared_warm_start_once(two_seeds):
    half = 2 * math.sqrt(0.9 * 0.1 / 64)  # of the evaluation before training, pass@100 = 0.9
    start = start_estimate(load_runs(two_seeds), "eval/pass@100")
    assert start == pytest.approx((0.9, 0.9 - half, 0.9 + half, 1))


def _run(name, kwargs, train=(), group=8):
    config = {"group_size": group, "advantage": {"name": name, "kwargs": kwargs}}
    return Run("x", "x", config, to_frame(train), to_frame(()), None)


def _binomial_masses(weight_success, weight_failure, group):
    """E[(K/G) w_S(K)] and E[(1-K/G) w_F(K)], summed over K in float64."""
    p, success, failure = SOLVE_RATES, 0.0, 0.0
    for k in range(group + 1):
        chance = math.comb(group, k) * p**k * (1 - p) ** (group - k)
        success += chance * k / group * (weight_success(k / group) if k else 0)
        failure += chance * (1 - k / group) * (weight_failure(k / group) if k < group else 0)
    return success, failure


def test_exact_masses_of_dr_grpo_and_power():
    (pair,) = exact_masses([_run("dr_grpo", {})])
    for mass in pair:
        expected = SOLVE_RATES * (1 - SOLVE_RATES) * (1 - 1 / 8)
        np.testing.assert_allclose(mass, expected, atol=1e-6)
    (pair,) = exact_masses([_run("power", {"alpha": 2.0})])
    expected = _binomial_masses(lambda r: (1 - r) ** 2, lambda r: (1 - r) * r, 8)
    np.testing.assert_allclose(pair, expected, atol=1e-6)


def test_exact_masses_of_fade_at_its_first_and_last_step():
    readings = ((3.0, 1.0), (2.5, 0.8), (1.5, 0.5))
    train = [{"step": i, "alpha": a, "delta": d} for i, (a, d) in enumerate(readings, 1)]
    pairs = exact_masses([_run("fade", {}, train)])
    for pair, (alpha, delta) in zip(pairs, (readings[0], readings[-1]), strict=True):
        expected = _binomial_masses(
            lambda r, a=alpha: (1 - r) ** a,
            lambda r, a=alpha, d=delta: (1 - r) ** (a - 1) * r / d,
            8,
        )
        np.testing.assert_allclose(pair, expected, atol=1e-6)


@pytest.mark.parametrize(
    "run",
    [_run("no_such_advantage", {}), _run("fade", {}), _run("grpo", {}, group=0), _run("clip", {})],
)
def test_exact_masses_are_empty_if_unknown(run):
    assert exact_masses([run]) == []


def _verified(counts, config=None, reward=0.25):
    """A run of 2 prompts x 4 completions whose steps have these counts of verdicts."""
    names = ("cut_off", "no_answer", "wrong", "errors", "deaths", "timeouts", "unknown")
    lines = [
        {"step": step, "reward": reward}
        | {f"verification/{name}": 0 for name in names}
        | {key if "/" in key else f"verification/{key}": n for key, n in line.items()}
        for step, line in enumerate(counts, 1)
    ]
    sizes = {"prompts": 2, "group_size": 4} if config is None else config
    return Run("x", "x", sizes, to_frame(lines), to_frame(()), None)


def test_outcome_shares_by_hand():
    run = _verified(
        [
            {"cut_off": 2, "no_answer": 1, "wrong": 1, "errors": 1, "deaths": 1, "timeouts": 1},
            {"unknown": 4},
            {"wrong": 4, "cut_off": 8, "resampling/rounds": 1},  # of 16 completions
        ]
    )
    shares = outcome_shares(run)
    assert tuple(shares) == OUTCOMES
    # right, wrong, no answer, cut off, error, timeout, unknown
    assert shares.loc[1].tolist() == [1 / 8, 1 / 8, 1 / 8, 2 / 8, 2 / 8, 1 / 8, 0]
    assert shares.loc[2].tolist() == [1 / 2, 0, 0, 0, 0, 0, 1 / 2]
    assert shares.loc[3].tolist() == [1 / 4, 1 / 4, 0, 1 / 2, 0, 0, 0]
    assert outcome_shares(run, 3).loc[2, "right"] == pytest.approx((1 / 8 + 1 / 2 + 1 / 4) / 3)


def test_outcome_shares_need_counts_sizes_and_reasons():
    assert outcome_shares(_verified([{"wrong": 8}], {"prompts": 2})) is None
    assert outcome_shares(_verified([{}, {"unknown": 1}])) is None  # failures without a reason
    assert outcome_shares(_verified([{}], reward=1.0)).loc[1, "right"] == 1
    assert outcome_shares(_run("grpo", {}, [{"step": 1, "verification/wrong": 3}])) is None


def _logged(lines, config=None, seed=0):
    train = to_frame([{"step": step} | line for step, line in lines.items()])
    return Run(f"a-seed{seed}", "a", config or {}, train, to_frame(()), None)


def test_sampled_tokens_adds_up_logged_skipped_and_replaced_steps():
    logged = {2: {"tokens": 10}, 3: {"tokens": 20, "resampling/rounds": 2}, 6: {"tokens": 5}}
    # Step 1 counts as step 2, steps 4 and 5 as step 6, and two further batches in step 3.
    assert sampled_tokens(_logged(logged)).to_dict() == {0: 0, 2: 20, 3: 80, 6: 95}


def test_sampled_tokens_of_an_older_run_are_lengths_of_all_rollouts():
    lengths = {1: {"length": 3.0}, 2: {"length": 4.5}}
    run = _logged(lengths, {"prompts": 2, "group_size": 4})
    assert sampled_tokens(run).to_dict() == {0: 0, 1: 24, 2: 60}
    assert sampled_tokens(_logged(lengths)).empty  # sizes are not known
    assert sampled_tokens(_logged({})).empty


def test_mean_tokens_is_linear_between_steps_and_the_mean_over_seeds():
    runs = [
        _logged({1: {"tokens": 10}, 3: {"tokens": 10}}),
        _logged({2: {"tokens": 20}, 3: {"tokens": 20}}),
    ]
    assert mean_tokens(runs).to_dict() == {0: 0, 1: 15, 2: 30, 3: 45}
    assert mean_tokens([_logged({1: {}})]).empty


def test_signal_counts_steps_whose_prompts_all_have_one_reward():
    rates = {1: (0.0, 1.0), 2: (0.5, 0.5), 3: (1.0, 1.0), 4: (0.25, 0.0)}
    run = _logged(
        {i: {"solve_rate": r, "zero_variance_fraction": z} for i, (r, z) in rates.items()}
    )
    assert signal(run) == (4, 2, 1, 0.625)
    assert signal(_logged({1: {"solve_rate": 0.5}})) is None


def test_differences_compare_with_grpo_and_in_pairs_up_to_four_methods(tmp_path):
    counts = np.array([4, 2, 0, 6])
    methods = {}
    for i, name in enumerate(("a", "grpo", "b", "c", "d")):
        directory = tmp_path / name / "evaluations"
        directory.mkdir(parents=True)
        np.savez(directory / "1.npz", num_correct=counts + i, num_samples=10)
        config, lines = {"seed": 0}, to_frame([{"step": 1}])
        methods[name] = [Run(name, name, config, lines, lines, None, tmp_path / name)]
    found = differences(methods, [1])
    assert [(x.method, x.minus) for x in found] == [(x, "grpo") for x in "abcd"]
    np.testing.assert_allclose([x.found.value for x in found], [-0.1, 0.1, 0.2, 0.3], atol=1e-6)
    del methods["d"]
    pairs = [(x.method, x.minus) for x in differences(methods, [1])]
    assert pairs == [
        ("a", "b"),
        ("a", "c"),
        ("a", "grpo"),
        ("b", "c"),
        ("b", "grpo"),
        ("c", "grpo"),
    ]
    assert differences({"a": methods["a"]}, [1]) == []
