"""Closed forms against the exact decomposition, and their derivatives against each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition
from fade_jax.decomposition import large_group, objectives

P = np.linspace(0.05, 0.95, 19)

# name: hyperparameters of the advantage and of its masses
MASSES = {
    "reinforce": {"baseline": 0.3},
    "psr": {},
    "nsr": {},
    "w_reinforce": {"positive_weight": 0.2},
    "rloo": {},
    "dr_grpo": {},
    "grpo": {},
    "f_grpo": {"gamma": 0.5},
    "power": {"alpha": 2.5, "scale": 1.5},
    "asym_grpo": {"delta": 0.5},
    "power_asym": {"alpha": 1.5, "delta": 0.7},
    "pass_at_k_training": {"k": 3},
    "log_mean_exp": {"beta": 2.0},
    "max_rl": {},
    "a_grae": {"omega": 0.6, "threshold": 0.8},
    "pkpo": {"k": 3},
}


@pytest.mark.parametrize("name", MASSES)
def test_the_masses_of_a_large_group_are_the_closed_form(name):
    keywords = MASSES[name]
    fn = jax.jit(partial(getattr(fade_jax, name), **keywords))
    exact = decomposition.gradient_masses(fn, P, 512)
    closed = getattr(large_group, name)(P, **keywords)
    np.testing.assert_allclose(exact.success, closed.success, atol=0.01)
    np.testing.assert_allclose(exact.failure, closed.failure, atol=0.01)


@pytest.mark.parametrize("baseline", ["none", "loo"])
def test_pkpo_s_other_baselines_have_their_masses(baseline):
    fn = jax.jit(partial(fade_jax.pkpo, k=3, baseline=baseline))
    exact = decomposition.gradient_masses(fn, P, 512)
    closed = large_group.pkpo(P, k=3, baseline=baseline)
    np.testing.assert_allclose(exact.success, closed.success, atol=0.02)
    np.testing.assert_allclose(exact.failure, closed.failure, atol=0.02)


def test_quantile_masses_switch_sides_at_one_minus_the_level():
    p = np.array([0.1, 0.3, 0.5, 0.7, 0.9])  # away from the switch at 0.6
    exact = decomposition.gradient_masses(partial(fade_jax.quantile, level=0.4), p, 512)
    closed = large_group.quantile(p, level=0.4)
    np.testing.assert_allclose(exact.success, closed.success, atol=0.02)
    np.testing.assert_allclose(exact.failure, closed.failure, atol=0.02)


def test_the_masses_of_opo_need_the_lengths_of_both_outcomes():
    exact = decomposition.gradient_masses(lambda r: fade_jax.opo(r, lengths=2 + 3 * r), P, 512)
    closed = large_group.opo(P, success_length=5.0, failure_length=2.0)
    np.testing.assert_allclose(exact.success, closed.success, atol=0.01)
    np.testing.assert_allclose(exact.failure, closed.failure, atol=0.01)


def test_leave_one_out_pass_at_g_is_exact_at_its_group_size():
    exact = decomposition.gradient_masses(fade_jax.leave_one_out_pass_at_g, P, 6)
    closed = large_group.leave_one_out_pass_at_g(P, group_size=6)
    np.testing.assert_allclose(exact, closed, rtol=1e-4, atol=1e-7)


def test_whole_batch_advantages_with_frozen_statistics_are_exact():
    mean = 0.3
    deviation = np.sqrt(mean * (1 - mean))
    exact = decomposition.gradient_masses(lambda r: (r - mean) / deviation, P, 8)
    closed = large_group.reinforce_plus_plus(P, batch_mean=mean)
    np.testing.assert_allclose(exact, closed, rtol=1e-5)
    np.testing.assert_allclose(
        large_group.gpg(P, batch_scale=1.4).success, 1.4 * P * (1 - P), rtol=1e-5
    )


# name: hyperparameters of the masses and of the objective in the limit of a large group
OBJECTIVES = {
    "reinforce": ({"baseline": 0.3}, {}),
    "psr": ({}, {}),
    "nsr": ({}, {}),
    "rloo": ({}, {}),
    "w_reinforce": ({"positive_weight": 0.2},) * 2,
    "dr_grpo": ({}, {}),
    "grpo": ({}, {}),
    "power": ({"alpha": 2.5, "scale": 1.5},) * 2,
    "asym_grpo": ({"delta": 0.5},) * 2,
    "power_asym": ({"alpha": 1.5, "delta": 0.7},) * 2,
    "pass_at_k_training": ({"k": 3},) * 2,
    "log_mean_exp": ({"beta": 2.0},) * 2,
    "pkpo": ({"k": 3, "baseline": "none"}, {"k": 3}),
    "leave_one_out_pass_at_g": ({"group_size": 6},) * 2,
    "f_grpo": ({"gamma": 1.0},) * 2,
    "quantile": ({"level": 0.4}, {}),
    "opo": ({"success_length": 5.0, "failure_length": 2.0}, {}),
    "reinforce_plus_plus": ({"batch_mean": 0.3},) * 2,
    "gpg": ({"batch_scale": 1.4},) * 2,
}


def test_every_advantage_has_masses_and_an_objective_in_closed_form():
    blocks = {
        "fade",
        "center",
        "standardize",
        "focal_weight",
        "suppress_negatives",
        "varied_groups",
    }
    names = set(fade_jax.advantages.__all__) - blocks
    assert all(hasattr(large_group, name) for name in names)
    assert {name for name in names if not hasattr(objectives, name)} == {"a_grae"}
    assert names - {"a_grae", "max_rl"} == set(OBJECTIVES)  # MaxRL's is tested at its group size


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_has_the_expected_weight_as_its_derivative(name):
    of_masses, of_objective = OBJECTIVES[name]
    masses = getattr(large_group, name)(P, **of_masses)
    weight = masses.success / P + masses.failure / (1 - P)
    objective = partial(getattr(objectives, name), **of_objective)
    np.testing.assert_allclose(jax.vmap(jax.grad(objective))(jnp.float32(P)), weight, rtol=5e-4)
    np.testing.assert_allclose(objective(0.0), 0, atol=1e-6)


# At any group size: name, hyperparameters of the advantage, of the objective
EXACT = [
    ("rloo", {}, "reinforce", {}),
    ("nsr", {}, "reinforce", {}),
    ("reinforce", {"baseline": 0.3}, "reinforce", {}),
    ("w_reinforce", {"positive_weight": 0.2}, "w_reinforce", {"positive_weight": 0.2}),
    ("dr_grpo", {}, "dr_grpo", {"group_size": 8}),
    ("pkpo", {"k": 3}, "pkpo", {"k": 3}),
    ("pkpo", {"k": 3, "baseline": "loo"}, "pkpo", {"k": 3}),
    ("pkpo", {"k": 3, "baseline": "none"}, "pkpo", {"k": 3}),
    ("max_rl", {}, "max_rl", {"group_size": 8}),
    ("leave_one_out_pass_at_g", {}, "leave_one_out_pass_at_g", {"group_size": 8}),
]


@pytest.mark.parametrize(("name", "keywords", "objective", "of_objective"), EXACT)
def test_the_implied_objective_is_exact_at_a_finite_group(name, keywords, objective, of_objective):
    p = np.append(P, [0.0, 1.0])
    fn = jax.jit(partial(getattr(fade_jax, name), **keywords))
    expected = getattr(objectives, objective)(p, **of_objective)
    result = decomposition.implied_objective(fn, p, 8)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["grpo", "power", "asym_grpo", "power_asym", "log_mean_exp"])
def test_the_implied_objective_approaches_that_of_a_large_group(name):
    of_advantage, of_objective = MASSES[name], OBJECTIVES[name][1]
    fn = jax.jit(partial(getattr(fade_jax, name), **of_advantage))
    result = decomposition.implied_objective(fn, P, 512)
    expected = getattr(objectives, name)(P, **of_objective)
    # GRPO's diverges at the ends, where the group is never large enough: compare differences.
    np.testing.assert_allclose(result - result[0], expected - expected[0], atol=0.02)


def test_the_implied_objective_is_the_integral_of_the_expected_weight():
    fn = jax.jit(partial(fade_jax.fade, alpha=2.0, delta=0.5))
    p = np.linspace(0, 1, 2001)
    weight = np.asarray(decomposition.expected_weight(fn, p, 6), np.float64)
    integral = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2) / 2000])
    np.testing.assert_allclose(decomposition.implied_objective(fn, p, 6), integral, atol=1e-5)


def test_f_grpo_s_objective_is_elementary_at_two_exponents():
    half, one = (objectives.f_grpo(P, gamma=gamma) for gamma in (0.5, 1.0))
    np.testing.assert_allclose(half, 2 * np.sqrt(P), rtol=1e-5)
    np.testing.assert_allclose(one, np.sqrt(P * (1 - P)) + np.arcsin(np.sqrt(P)), rtol=1e-5)


@pytest.mark.parametrize("p", [-0.1, 1.2, np.array([0.5, np.nan])])
@pytest.mark.parametrize("closed_form", [large_group.rloo, large_group.power, objectives.fade])
def test_a_solve_rate_that_is_none_is_refused(closed_form, p):
    keywords = {large_group.power: {"alpha": 2}, objectives.fade: {"alpha": 2, "delta": 0.5}}
    with pytest.raises(ValueError, match=r"solve_rate must be in \[0, 1\], got"):
        closed_form(p, **keywords.get(closed_form, {}))
