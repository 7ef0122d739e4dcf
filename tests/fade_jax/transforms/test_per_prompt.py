"""Running solve rates of prompts against float64 loops over single rollouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fade_jax import transforms
from tests.fade_jax.cases import binary_rewards

N = 5
update_prompts = jax.jit(transforms.update_prompts)


class Reference:
    """Sums in float64, rollout by rollout."""

    def __init__(self, decay, a=1.0, b=1.0):
        self.decay, self.a, self.b = decay, a, b
        self.successes, self.samples = np.zeros(N), np.zeros(N)

    def estimate(self, prompt):
        if prompt == -1:
            return self.a / (self.a + self.b)
        return (self.successes[prompt] + self.a) / (self.samples[prompt] + self.a + self.b)

    def visit(self, prompts, rewards, where):
        rollouts = {}
        for prompt, group, counts in zip(prompts, rewards, where):
            for reward, count in zip(group, counts):
                if prompt != -1 and count and np.isfinite(reward):
                    rollouts.setdefault(int(prompt), []).append(float(reward))
        for prompt, found in rollouts.items():
            self.successes[prompt] = self.decay * self.successes[prompt] + sum(found)
            self.samples[prompt] = self.decay * self.samples[prompt] + len(found)


def batches(seed, steps=6, groups=8, size=4):
    """Prompts that repeat, some without an index; rewards between 0 and 1, some masked or NaN."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rewards = rng.integers(0, 5, (groups, size)) / 4
        rewards[rng.random(rewards.shape) < 0.1] = np.nan
        yield rng.integers(-1, N, groups), rewards, rng.random(rewards.shape) < 0.8


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_update_prompts_equals_a_loop_over_rollouts(decay):
    reference, state = Reference(decay), transforms.init_prompts(N)
    for prompts, rewards, where in batches(seed=int(10 * decay)):
        state = update_prompts(state, prompts, rewards, where, decay)
        reference.visit(prompts, rewards, where)
        np.testing.assert_allclose(state.successes, reference.successes, rtol=1e-6)
        np.testing.assert_allclose(state.samples, reference.samples, rtol=1e-6)
    expected = [reference.estimate(prompt) for prompt in range(N)]
    np.testing.assert_allclose(transforms.solve_rates(state), expected, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.5])
def test_per_prompt_solve_rate_weighs_rloo_by_the_estimate_before_the_batch(alpha):
    transformation = transforms.per_prompt_solve_rate(N, alpha=alpha, decay=0.6, a=0.5, b=2.0)
    reference, state = Reference(0.6, 0.5, 2.0), transformation.init()
    update = jax.jit(transformation.update)
    for prompts, _, _ in batches(seed=3):
        rewards = binary_rewards(seed=len(prompts), shape=(8, 4))
        where = np.ones(rewards.shape, bool)
        advantages, state = update(rewards, state, prompt=prompts)
        for row, prompt in enumerate(prompts):
            weight = (1 - reference.estimate(prompt)) ** (alpha - 1)
            for i, reward in enumerate(rewards[row]):
                others = np.delete(rewards[row], i).mean()
                np.testing.assert_allclose(
                    advantages[row, i], weight * (reward - others), rtol=1e-5, atol=1e-7
                )
        reference.visit(prompts, rewards, where)


@settings(max_examples=30, deadline=None)
@given(
    prompts=st.lists(st.integers(-1, N - 1), min_size=6, max_size=6),
    order=st.permutations(range(6)),
    seed=st.integers(0, 99),
)
def test_update_prompts_does_not_depend_on_the_order_of_groups(prompts, order, seed):
    rng = np.random.default_rng(seed)
    rewards, where = rng.integers(0, 2, (6, 4)), rng.random((6, 4)) < 0.7
    prompts, order = np.array(prompts), np.array(order)
    state = update_prompts(transforms.init_prompts(N), prompts, rewards, where)
    other = update_prompts(transforms.init_prompts(N), prompts[order], rewards[order], where[order])
    np.testing.assert_array_equal(state.successes, other.successes)
    np.testing.assert_array_equal(state.samples, other.samples)


@settings(max_examples=30, deadline=None)
@given(prompt=st.integers(0, N - 1), copies=st.sampled_from((2, 4)), seed=st.integers(0, 99))
def test_update_prompts_of_a_repeated_prompt_equals_one_larger_group(prompt, copies, seed):
    rewards = np.random.default_rng(seed).integers(0, 2, (copies, 3))
    prompts = np.full(copies, prompt)
    start = update_prompts(transforms.init_prompts(N), prompts[:1], np.array([[1, 0, 0]]))
    apart = update_prompts(start, prompts, rewards)
    whole = update_prompts(start, prompts[:1], rewards.reshape(1, -1))
    np.testing.assert_array_equal(apart.successes, whole.successes)
    np.testing.assert_array_equal(apart.samples, whole.samples)


def test_update_prompts_leaves_other_prompts_alone():
    state = transforms.update_prompts(transforms.init_prompts(3), [0, 1], [[1, 1], [0, 1]])
    after = transforms.update_prompts(state, [1, -1], [[1, 1], [1, 1]], decay=0.5)
    np.testing.assert_array_equal(after.successes, [2, 2.5, 0])
    np.testing.assert_array_equal(after.samples, [2, 3, 0])
    np.testing.assert_allclose(transforms.solve_rates(after), [3 / 4, 3.5 / 5, 1 / 2])


@pytest.mark.parametrize("outside", [-2, 3, 10**6])
def test_update_prompts_index_outside_the_table(outside):
    state = transforms.init_prompts(3)
    with pytest.raises(ValueError, match=rf"prompt must be in -1..2, got {outside}"):
        transforms.update_prompts(state, [0, outside], [[1, 1], [1, 1]])
    traced = jax.jit(transforms.update_prompts)(state, jnp.array([0, outside]), [[1, 1], [1, 1]])
    np.testing.assert_array_equal(traced.samples, [2, 0, 0])
    rates = jax.jit(transforms.solve_rates)(traced, jnp.array([0, outside]))
    np.testing.assert_allclose(rates, [3 / 4, 1 / 2])


def test_focal_by_prompt_says_what_is_wrong():
    transformation = transforms.focal_by_prompt(num_prompts=3)
    state, rewards = transformation.init(), np.ones((2, 4))
    with pytest.raises(ValueError, match=r"the statistic 'prompt' is missing; given: entropy"):
        transformation.update(rewards, state, entropy=1.0)
    with pytest.raises(
        ValueError, match=r"prompt must have the shape of groups of rewards, \(2,\)"
    ):
        transformation.update(rewards, state, prompt=[0, 1, 2])
    with pytest.raises(ValueError, match=r"rewards must be in \[0, 1\], got -1"):
        transformation.update(-rewards, state, prompt=[0, 1])


def test_per_prompt_solve_rate_is_unbiased_for_its_weight():
    """Over all outcomes of three rollouts the expected gradient is (1-p̂)^{α-1} dp/dθ."""
    transformation = transforms.per_prompt_solve_rate(2, alpha=3.0)
    _, state = transformation.update([[1, 0, 0]], transformation.init(), prompt=[1])
    estimate, p = (1 + 1) / (3 + 2), 0.3
    total, update = 0.0, jax.jit(transformation.update)
    for outcome in np.ndindex(2, 2, 2):
        rewards = np.array([outcome], np.float32)
        advantages, _ = update(rewards, state, prompt=np.array([1]))
        # Of a Bernoulli policy with logit θ: d log π / dθ = r - p.
        total += np.prod(np.where(rewards, p, 1 - p)) * np.mean(advantages * (rewards - p))
    np.testing.assert_allclose(total, (1 - estimate) ** 2 * p * (1 - p), rtol=1e-5)


def test_update_over_batch_dimensions():
    """Groups may have any number of leading axes."""
    prompts = np.array([[0, 1], [1, -1]])
    rewards = binary_rewards(shape=(4, 3)).reshape(2, 2, 3)
    flat = update_prompts(transforms.init_prompts(2), prompts.ravel(), rewards.reshape(4, 3))
    transformation = transforms.per_prompt_solve_rate(2)
    update = jax.jit(transformation.update)
    advantages, (_, state) = update(rewards, transformation.init(), prompt=prompts)
    assert advantages.shape == rewards.shape
    np.testing.assert_array_equal(state.samples, flat.samples)
