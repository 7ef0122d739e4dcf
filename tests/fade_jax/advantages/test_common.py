"""The suite that every advantage passes."""

import inspect
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fade_jax
from tests.fade_jax.cases import CASES, advantages_of_all_cases, binary_rewards, every_case

# Defined for a group of one; PKPO and Pass@k Training need k instead.
DEFINED_FOR_ONE = {"reinforce", "psr", "nsr", "w_reinforce", "reinforce_plus_plus"} | {
    "pkpo",
    "pass_at_k_training",
}
WEIGHTS = {"focal_weight", "likelihood_weight", "suppress_negatives"}
BLOCKS = {"center", "standardize", "varied_groups"} | WEIGHTS
ADVANTAGES = set(fade_jax.advantages.__all__) - BLOCKS - {"fade"}
GROUPS_OF_THREE = (2, 3, 3)
KEYWORDS = {case.name: case.keywords for case in CASES} | {"opo": {"lengths": np.ones((3, 1))}}


def test_every_advantage_has_a_case():
    plain = {case.plain for case in CASES}
    assert {name for name in ADVANTAGES if getattr(fade_jax, name) not in plain} == {"opo"}


def test_advantages_are_exported_and_take_a_mask():
    for name in fade_jax.advantages.__all__:
        assert getattr(fade_jax, name) is getattr(fade_jax.advantages, name)
        if name not in WEIGHTS:
            assert "where" in inspect.signature(getattr(fade_jax, name)).parameters


@every_case
@pytest.mark.parametrize("shape", [(6, 8), GROUPS_OF_THREE])
def test_advantage_equals_reference(case, shape):
    rewards = binary_rewards()
    if shape != rewards.shape:
        rewards = np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)
    result = case(rewards)
    chex.assert_shape(result, shape)
    np.testing.assert_allclose(result, case.by_group(rewards), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("values", [[0.0, 0.1, 0.25, 0.7, 1.0], [0.0, 1.0]], ids=len)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_advantages_equal_references_on_any_group(values, data):
    groups = st.lists(st.sampled_from(values), min_size=48, max_size=48)
    rewards = np.array(data.draw(groups), np.float32).reshape(6, 8)
    results = advantages_of_all_cases(rewards)
    for case in CASES:
        if case.continuous or len(values) == 2:
            expected = case.by_group(rewards)
            np.testing.assert_allclose(results[case.name], expected, 1e-4, 1e-5, err_msg=case.name)


@every_case
def test_advantage_jit_equals_eager(case):
    where = np.ones((6, 8), bool)
    for seed in (0, 1):
        rewards = binary_rewards(seed)
        np.testing.assert_allclose(
            case(rewards, where), case.eager(rewards, where), rtol=1e-6, atol=1e-6
        )


def test_advantages_are_traced_once():
    traces = []

    @jax.jit
    def fn(rewards, where):
        traces.append(rewards)
        return advantages_of_all_cases(rewards, where)

    for seed in (0, 1):
        fn.trace(binary_rewards(seed), np.ones((6, 8), bool))
    assert len(traces) == 1


@pytest.fixture(scope="module", name="mapped")
def mapped_fixture():
    """The advantages of the rows of `binary_rewards`, each a group alone."""
    return jax.jit(jax.vmap(advantages_of_all_cases))(binary_rewards())


@every_case
def test_advantage_vmap_of_one_group(case, mapped):
    rewards, found = binary_rewards(), mapped[case.name]
    np.testing.assert_allclose(found, [case.by_group(r) for r in rewards], rtol=2e-6, atol=2e-6)
    if not case.whole_batch:
        np.testing.assert_allclose(found, case(rewards), rtol=1e-6, atol=1e-6)


@every_case
def test_advantage_masked_equals_dropped(case):
    rewards = binary_rewards().copy()
    where = np.ones(rewards.shape, bool)
    dropped = [1, 2, 4, 5, 7]
    where[:, dropped] = False
    rewards[:, 4] = np.nan  # a masked slot may hold anything
    result = case(rewards, where=where)
    kept = np.delete(rewards, dropped, axis=1).reshape(GROUPS_OF_THREE)
    np.testing.assert_allclose(np.delete(result, dropped, axis=1), case(kept).reshape(6, 3), 1e-6)
    np.testing.assert_array_equal(result[:, dropped], 0)


@every_case
def test_advantage_masked_groups_are_finite(case):
    where = np.zeros((6, 8), bool)
    where[1:4, :1] = True
    where[4, :] = True
    rewards = binary_rewards()
    result = case(rewards, where=where)
    assert np.all(np.isfinite(result))
    np.testing.assert_array_equal(result[~where], 0)
    if not case.whole_batch:
        np.testing.assert_allclose(result[4], case(rewards)[4], rtol=1e-6)


@every_case
def test_advantage_permutation(case):
    rewards = binary_rewards()
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_allclose(case(rewards[:, order]), case(rewards)[:, order], 1e-6, 1e-6)


@every_case
@pytest.mark.parametrize("size", [3, 64])
def test_advantage_degenerate_groups(case, size):
    low, high = (x(size) if callable(x) else x for x in (case.low, case.high))
    rewards = np.zeros(GROUPS_OF_THREE if size == 3 else (2, size), np.float32)
    rewards[1] = 1
    expected = np.where(rewards == 1, high, low)
    np.testing.assert_allclose(case(rewards), expected, rtol=5e-6, atol=2e-6 * (high != 0))


@pytest.fixture(scope="module", name="gradients")
def gradients_fixture():
    """By case: of the sum of a function of the advantages, where masked rewards are NaN."""

    @jax.jit
    def compute(rewards, where):
        return {
            case.name: jax.grad(lambda r, fn=case.eager: jnp.sum(jnp.sin(fn(r, where))))(rewards)
            for case in CASES
        }

    where = np.broadcast_to(np.arange(8) != 3, (6, 8))
    return compute(np.where(where, binary_rewards(), np.float32(np.nan)), where)


@every_case
def test_advantage_finite_values_and_gradients(case, gradients):
    assert np.all(np.isfinite(case(binary_rewards())))
    assert np.all(np.isfinite(gradients[case.name]))


@every_case
@pytest.mark.parametrize("compiled", [False, True])
def test_advantage_of_a_nan_reward_is_nan_in_its_group(case, compiled):
    rewards = binary_rewards()
    where = np.broadcast_to(np.arange(8) != 5, rewards.shape).copy()
    expected = np.asarray(case(rewards, where))
    rewards[[0, 1, 2], [2, 2, 7]] = np.nan  # an all-failed, an all-solved and a mixed group
    rewards[3, 5] = np.nan  # masked
    result = np.asarray((case if compiled else case.eager)(rewards, where=where))
    undefined = np.isin(np.arange(6), [0, 1, 2])[:, None] | np.full(where.shape, case.whole_batch)
    if case.name == "gpg":  # a group with NaN counts as one with a gradient
        undefined = np.isin(np.arange(6), [0, 1, 2])[:, None] | np.zeros(where.shape, bool)
        expected = expected * 4 / 6
    np.testing.assert_array_equal(np.isnan(result), undefined & where)
    np.testing.assert_allclose(result[~undefined], expected[~undefined], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        ((0, 1), "psr nsr w_reinforce a_grae max_rl pass_at_k_training synthesized"),
        ((0, 0.5, 1), "asym_grpo power power_asym f_grpo tempered_likelihood"),
    ],
)
def test_advantage_refuses_rewards_that_it_is_not_defined_for(allowed, names):
    refused = 1.5 if 0.5 in allowed else 0.5
    for case in [case for case in CASES if case.name in names.split()]:
        rewards = np.resize(np.array([*allowed, np.nan], np.float32), (6, 8))
        where = np.arange(48).reshape(6, 8) != 3
        case.eager(rewards, where)
        rewards[0, 3] = refused  # masked
        case.eager(rewards, where)
        with pytest.raises(ValueError, match=rf"rewards must be .*, got {refused}"):
            case.eager(rewards)


@every_case
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, bool])
def test_advantage_dtypes(case, dtype):
    rewards, where = binary_rewards(), np.ones((6, 8), bool)
    result = case.eager(jnp.asarray(rewards, dtype), where)
    chex.assert_type(result, jnp.float32)
    np.testing.assert_array_equal(result, case.eager(rewards, where))


@every_case
def test_advantage_bad_shapes(case):
    with pytest.raises(ValueError, match="where"):
        case.eager(np.ones((3, 4)), where=np.ones((4,), bool))
    with pytest.raises(ValueError, match="rewards"):
        case.eager(np.float32(1.0))


@pytest.mark.parametrize("name", sorted(ADVANTAGES - DEFINED_FOR_ONE))
def test_advantage_group_of_one(name):
    fn = partial(getattr(fade_jax, name), **KEYWORDS.get(name, {}))
    with pytest.raises(ValueError, match=r"rewards.*at least 2, got shape \(3, 1\)"):
        jax.eval_shape(fn, np.ones((3, 1)))


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("asym_grpo", {"delta": -0.5}, "delta must .* above 0, got -0.5"),
        ("asym_grpo", {"delta": 0.0}, "delta must .* above 0, got 0.0"),
        ("power", {"alpha": -1.0}, "alpha must .* at least 0, got -1.0"),
        ("power", {"alpha": np.nan}, "alpha .* got nan"),
        ("power", {"alpha": 1.0, "scale": np.inf}, "scale must be a finite number, got inf"),
        ("power_asym", {"alpha": 1.0, "delta": -1}, "delta .* got -1"),
        ("grpo", {"ddof": 2}, "ddof must be 0 or 1, got 2"),
        ("grpo", {"eps": -1e-6}, "eps must .* at least 0"),
        ("reinforce", {"baseline": np.nan}, "baseline .* got nan"),
        ("w_reinforce", {"positive_weight": -0.1}, "positive_weight .* got -0.1"),
        ("f_grpo", {"gamma": -0.5}, "gamma must .* at least 0, got -0.5"),
        ("a_grae", {"omega": 1.5}, r"omega must be in \[0, 1\], got 1.5"),
        ("a_grae", {"omega": 0.5, "threshold": 0.0}, "threshold must .* above 0"),
        ("log_mean_exp", {"beta": 0.0}, "beta must .* above 0, got 0.0"),
        ("quantile", {"level": 0.0}, r"level must be in \(0, 1\], got 0.0"),
        ("quantile", {"level": 1.01}, "level .* got 1.01"),
        ("opo", {"lengths": np.ones(4)}, r"lengths .* \(2, 4\), got \(4,\)"),
        ("pkpo", {"k": 5}, "k must be at most 4 in a group of 4, got 5"),
        ("pkpo", {"k": 4, "baseline": "loo"}, "k must be at most 3 .* got 4"),
        ("pkpo", {"k": 0}, "k must be an integer of at least 1, got 0"),
        ("pkpo", {"k": 1.5}, "k must be an integer"),
        ("pkpo", {"k": 2, "baseline": "mean"}, "baseline must be one of .*'mean'"),
        ("pass_at_k_training", {"k": 5}, "k must be at most 4"),
        ("pass_at_k_training", {"k": -1}, "k must be an integer"),
    ],
)
def test_advantage_bad_hyperparameters(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(partial(getattr(fade_jax, name), **keywords), np.ones((2, 4)))
