"""The suite that every advantage passes."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fade_jax
from tests.fade_jax.cases import CASES, binary_rewards, every_case

# Their formulas hold in a group of one; PKPO and Pass@k Training need k.
DEFINED_FOR_ONE = {
    "reinforce",
    "psr",
    "nsr",
    "w_reinforce",
    "reinforce_plus_plus",
    "pkpo",
    "pass_at_k_training",
}


def of_every_advantage():
    """The public functions of rewards, but for their building blocks and the alias `fade`."""
    module = "fade_jax.advantages.base"
    functions = {name: getattr(fade_jax, name) for name in fade_jax.advantages.__all__}
    return {
        name: fn for name, fn in functions.items() if fn.__module__ != module and name != "fade"
    }


def test_fade_is_an_alias_of_power_asym():
    assert fade_jax.fade is fade_jax.power_asym


def test_every_advantage_has_a_case():
    cases = {case.plain for case in CASES}
    missing = {name for name, fn in of_every_advantage().items() if fn not in cases}
    assert missing == {"opo"}  # its case gives it lengths


@pytest.mark.parametrize("name", sorted(set(of_every_advantage()) - DEFINED_FOR_ONE))
def test_a_group_of_one_is_refused_at_trace_time(name):
    keywords = next((case.keywords for case in CASES if case.name == name), {})
    if name == "opo":
        keywords = {"lengths": np.ones((3, 1))}
    with pytest.raises(ValueError, match=r"rewards.*at least 2, got shape \(3, 1\)"):
        jax.eval_shape(partial(getattr(fade_jax, name), **keywords), np.ones((3, 1)))


@every_case
def test_equals_the_reference_on_binary_rewards(case):
    rewards = binary_rewards()
    np.testing.assert_allclose(case(rewards), case.by_group(rewards), rtol=2e-6, atol=2e-6)


@every_case
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_equals_the_reference_on_any_group(case, data):
    values = [0.0, 0.1, 0.25, 0.7, 1.0] if case.continuous else [0.0, 1.0]
    groups = st.lists(st.sampled_from(values), min_size=48, max_size=48)
    rewards = np.array(data.draw(groups), np.float32).reshape(6, 8)
    np.testing.assert_allclose(case(rewards), case.by_group(rewards), rtol=1e-4, atol=1e-5)


@every_case
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_keeps_the_shape(case, shape):
    rewards = np.random.default_rng(0).integers(0, 2, shape).astype(np.float32)
    result = case(rewards)
    chex.assert_shape(result, shape)
    np.testing.assert_allclose(result, case.by_group(rewards), rtol=2e-6, atol=2e-6)


@every_case
def test_jit_equals_eager_and_traces_once(case):
    traces = []

    @jax.jit
    def fn(rewards, where):
        traces.append(rewards)
        return case.eager(rewards, where)

    where = np.ones((6, 8), bool)
    for seed in (0, 1):
        rewards = binary_rewards(seed)
        np.testing.assert_allclose(
            fn(rewards, where), case.eager(rewards, where), rtol=1e-6, atol=1e-6
        )
    assert len(traces) == 1


@every_case
def test_vmap_equals_a_loop(case):
    rewards = binary_rewards(shape=(3, 4, 8))
    looped = np.stack([case(block) for block in rewards])
    np.testing.assert_allclose(jax.jit(jax.vmap(case.eager))(rewards), looped, rtol=1e-6, atol=1e-6)


@every_case
def test_masked_equals_dropped(case):
    rewards = binary_rewards().copy()
    where = np.ones(rewards.shape, bool)
    where[:, [1, 4, 5]] = False
    rewards[:, 4] = np.nan  # a masked slot may hold anything
    result = case(rewards, where=where)
    np.testing.assert_allclose(result[:, [0, 2, 3, 6, 7]], case(rewards[:, [0, 2, 3, 6, 7]]), 1e-6)
    np.testing.assert_array_equal(result[:, [1, 4, 5]], 0)


@every_case
def test_a_group_masked_in_part_or_in_whole_is_finite(case):
    where = np.zeros((6, 8), bool)
    where[1:4, :1] = True
    where[4, :] = True
    rewards = binary_rewards()
    result = case(rewards, where=where)
    assert np.all(np.isfinite(result))
    np.testing.assert_array_equal(result[~where], 0)
    if not case.whole_batch:
        np.testing.assert_allclose(result[4], case(rewards[4]), rtol=1e-6)


@every_case
def test_permuting_the_group_permutes_the_result(case):
    rewards = binary_rewards()
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_allclose(case(rewards[:, order]), case(rewards)[:, order], 1e-6, 1e-6)


@every_case
@pytest.mark.parametrize("size", [3, 64])
def test_degenerate_groups_get_what_the_table_says(case, size):
    size = max(size, case.least)
    rewards = np.stack([np.zeros(size), np.ones(size)])
    low, high = (x(size) if callable(x) else x for x in (case.low, case.high))
    expected = np.stack([np.full(size, low), np.full(size, high)])
    np.testing.assert_allclose(case(rewards), expected, rtol=5e-6, atol=2e-6 * (high != 0))


@every_case
def test_values_and_gradients_are_finite(case):
    rewards = jnp.asarray(binary_rewards())
    assert np.all(np.isfinite(case(rewards)))
    where = jnp.broadcast_to(np.arange(8) != 3, rewards.shape)
    garbage = jnp.where(where, rewards, jnp.nan)
    gradient = jax.grad(lambda r: jnp.sum(jnp.sin(case(r, where))))(garbage)
    assert np.all(np.isfinite(gradient))


@every_case
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, bool])
def test_any_dtype_of_rewards_gives_float32(case, dtype):
    rewards = binary_rewards()
    result = case(jnp.asarray(rewards, dtype))
    chex.assert_type(result, jnp.float32)
    np.testing.assert_array_equal(result, case(rewards))


@every_case
def test_a_mask_of_another_shape_is_refused(case):
    with pytest.raises(ValueError, match="where"):
        case(np.ones((3, 4)), where=np.ones((4,), bool))


@every_case
def test_rewards_without_a_group_axis_are_refused(case):
    with pytest.raises(ValueError, match="rewards"):
        case(np.float32(1.0))
