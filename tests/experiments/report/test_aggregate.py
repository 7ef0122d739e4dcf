import numpy as np
import pytest

from experiments.report.aggregate import (
    final_estimate,
    method_curve,
    running_mean,
    start_estimate,
)
from experiments.report.runs import by_method, load_runs, series
from tests.experiments.report import synthetic


@pytest.mark.parametrize("window", [1, 3, 7, 99])
def test_running_mean_against_a_loop(window):
    values = np.random.default_rng(0).normal(size=10)
    half = min(window, 9) // 2
    expected = [values[max(0, i - half) : i + half + 1].mean() for i in range(10)]
    if window == 99:  # wider than the series: numpy's centre of an even kernel is one to the left
        assert running_mean(values, window)[5] == pytest.approx(values.mean())
    else:
        np.testing.assert_allclose(running_mean(values, window), expected)


def test_three_or_more_seeds_have_a_band_and_no_single_lines(four_seeds):
    runs = by_method(load_runs(four_seeds))["grpo"]
    curve = method_curve(runs, "eval/pass@1")
    table = np.stack([series(run.evaluations, "eval/pass@1")[1] for run in runs])
    np.testing.assert_allclose(curve.mean, table.mean(0))
    half = 3.182446 * table.std(0, ddof=1) / 2  # t of 3 degrees, √4 seeds
    np.testing.assert_allclose(curve.high - curve.mean, half, rtol=1e-5)
    np.testing.assert_allclose(curve.mean - curve.low, half, rtol=1e-5)
    assert curve.single == ()


def test_two_seeds_are_drawn_each(two_seeds):
    curve = method_curve(by_method(load_runs(two_seeds))["grpo"], "entropy")
    assert curve.low is None
    assert len(curve.single) == 2


def test_a_run_that_stopped_is_not_averaged(two_seeds):
    whole, killed = by_method(load_runs(two_seeds))["fade"]
    curve = method_curve([whole, killed], "eval/pass@10")
    np.testing.assert_allclose(curve.mean, series(whole.evaluations, "eval/pass@10")[1])
    np.testing.assert_allclose(curve.low, series(whole.evaluations, "eval/pass@10_low")[1])
    ((steps, _),) = curve.single
    assert steps[-1] < 120


def test_a_key_that_no_run_has(two_seeds):
    runs = by_method(load_runs(two_seeds))["grpo"]
    assert method_curve(runs, "alpha") is None
    assert final_estimate(runs, "eval/pass@7") is None


def test_final_estimates(two_seeds):
    methods = by_method(load_runs(two_seeds))
    values = [run.evaluations[-1]["eval/pass@1"] for run in methods["grpo"]]
    over_seeds = final_estimate(methods["grpo"], "eval/pass@1")
    assert over_seeds.value == pytest.approx(np.mean(values))
    half = 12.7062 * abs(values[0] - values[1]) / 2  # t of 1 degree; s/√2 is half the difference
    assert over_seeds.high - over_seeds.value == pytest.approx(half, rel=1e-5)

    line = methods["fade"][0].evaluations[-1]
    over_problems = final_estimate(methods["fade"], "eval/pass@1")
    assert over_problems.value == line["eval/pass@1"]
    assert (over_problems.low, over_problems.high) == (
        line["eval/pass@1_low"],
        line["eval/pass@1_high"],
    )


def test_one_warm_start_shared_by_all_runs_counts_once(two_seeds):
    start = start_estimate(load_runs(two_seeds), "eval/pass@100")
    line = synthetic.evaluation_line(0, 0.1, 0.9, 1.6)
    assert start.count == 1
    assert start.value == line["eval/pass@100"]
    assert start.low == line["eval/pass@100_low"]
