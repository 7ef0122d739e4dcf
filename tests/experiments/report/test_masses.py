import math

import numpy as np
import pytest

from experiments.report.pictures.masses import exact_masses, masses
from experiments.report.runs import Run, by_method, load_runs

P = np.linspace(0, 1, 101)


def _run(name, kwargs, train=(), group=8):
    config = {"group_size": group, "advantage": {"name": name, "kwargs": kwargs}}
    return Run("x", "x", config, tuple(train), (), None)


def _binomial_masses(weight_success, weight_failure, group):
    """E[(K/G) w_S(K)] and E[(1-K/G) w_F(K)], summed over K in float64."""
    success, failure = np.zeros_like(P), np.zeros_like(P)
    for k in range(group + 1):
        chance = math.comb(group, k) * P**k * (1 - P) ** (group - k)
        success += chance * k / group * (weight_success(k / group) if k else 0)
        failure += chance * (1 - k / group) * (weight_failure(k / group) if k < group else 0)
    return success, failure


def test_dr_grpo_has_its_closed_form():
    (pair,) = exact_masses([_run("dr_grpo", {})])
    for mass in pair:
        np.testing.assert_allclose(mass, P * (1 - P) * (1 - 1 / 8), atol=1e-6)


def test_power_uses_its_own_arguments():
    (pair,) = exact_masses([_run("power", {"alpha": 2.0})])
    success, failure = _binomial_masses(lambda r: (1 - r) ** 2, lambda r: (1 - r) * r, 8)
    np.testing.assert_allclose(pair.success, success, atol=1e-6)
    np.testing.assert_allclose(pair.failure, failure, atol=1e-6)


def test_fade_is_frozen_at_its_first_and_last_step():
    train = [
        {"step": 1, "alpha": 3.0, "delta": 1.0},
        {"step": 2, "alpha": 2.5, "delta": 0.8},
        {"step": 3, "alpha": 1.5, "delta": 0.5},
    ]
    pairs = exact_masses([_run("fade", {}, train)])
    assert len(pairs) == 2
    for pair, (alpha, delta) in zip(pairs, ((3.0, 1.0), (1.5, 0.5))):
        success, failure = _binomial_masses(
            lambda r, a=alpha: (1 - r) ** a,
            lambda r, a=alpha, d=delta: (1 - r) ** (a - 1) * r / d,
            8,
        )
        np.testing.assert_allclose(pair.success, success, atol=1e-6)
        np.testing.assert_allclose(pair.failure, failure, atol=1e-6)


@pytest.mark.parametrize(
    "run",
    [_run("no_such_advantage", {}), _run("fade", {}), _run("grpo", {}, group=0), _run("clip", {})],
)
def test_an_advantage_without_exact_masses_has_none(run):
    assert exact_masses([run]) == []


def test_the_caption_counts_and_names(two_seeds):
    runs = load_runs(two_seeds)
    caption = masses(runs).caption
    assert "G = 8" in caption
    assert "Without exact curves" not in caption
    assert [len(exact_masses(group)) for group in by_method(runs).values()] == [1, 1, 2]
