"""`large_group` and `objectives` against the exact decomposition and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fade_jax
from fade_jax import decomposition
from fade_jax.decomposition import large_group, objectives
from tests.fade_jax.cases import compile_together

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
    "tempered_likelihood": {"beta": 0.5},
    "a_grae": {"omega": 0.6, "threshold": 0.8},
    "pkpo": {"k": 3},
}


ADVANTAGES = {
    name: partial(getattr(fade_jax, name), **keywords) for name, keywords in MASSES.items()
}
COMPILED = compile_together(ADVANTAGES)
EXACT_NAMES = ("reinforce", "psr", "nsr", "w_reinforce", "rloo")
SCALED_NAMES = ("dr_grpo", "asym_grpo")
COMPILED_SMALL = compile_together({n: ADVANTAGES[n] for n in (*EXACT_NAMES, *SCALED_NAMES)})
COMPILED_CURVED = compile_together({n: ADVANTAGES[n] for n in ("grpo", "power", "power_asym")})


def assert_masses_close(advantage, group_size, closed, p=P, **tolerance):
    exact = decomposition.gradient_masses(advantage, p, group_size)
    np.testing.assert_allclose(exact.success, closed.success, **tolerance)
    np.testing.assert_allclose(exact.failure, closed.failure, **tolerance)


@pytest.mark.parametrize("name", MASSES)
def test_large_group_masses(name):
    closed = getattr(large_group, name)(P, **MASSES[name])
    assert_masses_close(COMPILED[name], 512, closed, atol=0.01)


@pytest.mark.parametrize("name", ["grpo", "power", "power_asym"])
def test_large_group_error_is_of_order_one_over_g(name):
    p = np.linspace(0.05, 0.95, 19)[1:-1:2]
    closed = np.array(getattr(large_group, name)(p, **MASSES[name]))
    errors = [
        np.max(np.abs(np.array(decomposition.gradient_masses(advantage, p, size)) - closed))
        for size, advantage in ((64, COMPILED_CURVED[name]), (512, COMPILED[name]))
    ]
    assert errors[1] < errors[0] / 6  # eight times smaller


@pytest.mark.parametrize("name", EXACT_NAMES)
@pytest.mark.parametrize("group_size", [2, 16, 64])
def test_large_group_masses_exact_at_any_size(name, group_size):
    p = np.append(P, [0.0, 1.0])
    closed = getattr(large_group, name)(p, **MASSES[name])
    assert_masses_close(COMPILED_SMALL[name], group_size, closed, p, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", SCALED_NAMES)
@pytest.mark.parametrize("group_size", [2, 16, 64])
def test_large_group_masses_times_one_minus_one_over_g(name, group_size):
    closed = jax.tree.map(
        lambda mass: mass * (1 - 1 / group_size), getattr(large_group, name)(P, **MASSES[name])
    )
    assert_masses_close(COMPILED_SMALL[name], group_size, closed, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("baseline", ["none", "loo"])
def test_large_group_pkpo_baselines(baseline):
    advantage = jax.jit(partial(fade_jax.pkpo, k=3, baseline=baseline))
    assert_masses_close(advantage, 512, large_group.pkpo(P, k=3, baseline=baseline), atol=0.02)


def test_large_group_quantile():
    p = np.array([0.1, 0.3, 0.5, 0.7, 0.9])  # away from the switch at 0.6
    advantage = jax.jit(partial(fade_jax.quantile, level=0.4))
    assert_masses_close(advantage, 512, large_group.quantile(p, level=0.4), p, atol=0.02)


def test_large_group_opo():
    closed = large_group.opo(P, success_length=5.0, failure_length=2.0)
    advantage = jax.jit(lambda r: fade_jax.opo(r, lengths=2 + 3 * r))
    assert_masses_close(advantage, 512, closed, atol=0.01)


def test_large_group_leave_one_out_pass_at_g():
    closed = large_group.leave_one_out_pass_at_g(P, group_size=6)
    advantage = jax.jit(fade_jax.leave_one_out_pass_at_g)
    assert_masses_close(advantage, 6, closed, rtol=1e-4, atol=1e-7)


def test_large_group_whole_batch():
    mean = 0.3
    deviation = np.sqrt(mean * (1 - mean))
    closed = large_group.reinforce_plus_plus(P, batch_mean=mean)
    assert_masses_close(lambda r: (r - mean) / deviation, 8, closed, rtol=1e-5)
    np.testing.assert_allclose(large_group.gpg(P, batch_scale=1.4), [1.4 * P * (1 - P)] * 2, 1e-5)


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
    "tempered_likelihood": ({"beta": 0.5},) * 2,
    "pkpo": ({"k": 3, "baseline": "none"}, {"k": 3}),
    "leave_one_out_pass_at_g": ({"group_size": 6},) * 2,
    "f_grpo": ({"gamma": 1.0},) * 2,
    "quantile": ({"level": 0.4}, {}),
    "opo": ({"success_length": 5.0, "failure_length": 2.0}, {}),
    "reinforce_plus_plus": ({"batch_mean": 0.3},) * 2,
    "gpg": ({"batch_scale": 1.4},) * 2,
}


def test_closed_forms_are_complete():
    blocks = {
        "fade",
        "center",
        "standardize",
        "focal_weight",
        "likelihood_weight",
        "suppress_negatives",
        "varied_groups",
    }
    names = set(fade_jax.advantages.__all__) - blocks
    assert all(hasattr(large_group, name) for name in names)
    assert {name for name in names if not hasattr(objectives, name)} == {"a_grae"}
    assert names - {"a_grae", "max_rl"} == set(OBJECTIVES)  # MaxRL's is tested at its group size


@pytest.fixture(scope="module", name="derivatives")
def derivatives_fixture():
    """By name: the derivative of the objective at P, and the objective of 0."""

    @jax.jit
    def compute(p):
        found = {}
        for name, (_, keywords) in OBJECTIVES.items():
            objective = partial(getattr(objectives, name), **keywords)
            found[name] = (jax.vmap(jax.grad(objective))(p), objective(0 * p[0]))
        return found

    return compute(jnp.float32(P))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_derivative_is_expected_weight(name, derivatives):
    of_masses, _ = OBJECTIVES[name]
    masses = getattr(large_group, name)(P, **of_masses)
    weight = masses.success / P + masses.failure / (1 - P)
    derivative, at_zero = derivatives[name]
    np.testing.assert_allclose(derivative, weight, rtol=5e-4)
    np.testing.assert_allclose(at_zero, 0, atol=1e-6)


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


COMPILED_EXACT = compile_together(
    {i: partial(getattr(fade_jax, case[0]), **case[1]) for i, case in enumerate(EXACT)}
)


@pytest.mark.parametrize("index", range(len(EXACT)), ids=[f"{case[:2]}" for case in EXACT])
def test_implied_objective_finite_group(index):
    _, _, objective, of_objective = EXACT[index]
    p = np.append(P, [0.0, 1.0])
    expected = getattr(objectives, objective)(p, **of_objective)
    result = decomposition.implied_objective(COMPILED_EXACT[index], p, 8)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["grpo", "power", "asym_grpo", "power_asym", "log_mean_exp", "tempered_likelihood"]
)
def test_implied_objective_large_group(name):
    result = decomposition.implied_objective(COMPILED[name], P, 512)
    expected = getattr(objectives, name)(P, **OBJECTIVES[name][1])
    # Some weights diverge at the ends, where the group is never large enough: compare differences.
    np.testing.assert_allclose(result - result[0], expected - expected[0], atol=0.02)


def test_objective_f_grpo_elementary():
    half, one = (objectives.f_grpo(P, gamma=gamma) for gamma in (0.5, 1.0))
    np.testing.assert_allclose(half, 2 * np.sqrt(P), rtol=1e-5)
    np.testing.assert_allclose(one, np.sqrt(P * (1 - P)) + np.arcsin(np.sqrt(P)), rtol=1e-5)


@pytest.mark.parametrize("p", [-0.1, 1.2, np.array([0.5, np.nan])])
@pytest.mark.parametrize(
    "closed_form", [large_group.rloo, partial(large_group.power, alpha=2), objectives.psr]
)
def test_closed_forms_bad_solve_rate(closed_form, p):
    with pytest.raises(ValueError, match=r"solve_rate must be in \[0, 1\], got"):
        closed_form(p)


@pytest.mark.parametrize("beta", [-0.1, 1.0, np.nan])
def test_objective_of_tempered_likelihood_bad_beta(beta):
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got"):
        objectives.tempered_likelihood(P, beta=beta)
