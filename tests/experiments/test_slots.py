"""Slots and narrower loops give the tokens of the plain loop, whatever the plan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import sharding, slot_plan
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.rollout import completion_log_probs, sample
from experiments.slot_plan import Plan, Stage, make_plan

EOS, PAD, T = 5, 6, 12
MODEL = ModelConfig(
    vocab_size=16,
    num_layers=1,
    d_model=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    d_ff=16,
    tied_head=False,
    max_positions=256,
)
TOKENS = np.array([[1, 2, 3, 4], [4, 3, PAD, PAD], [2, PAD, PAD, PAD], [7, 8, 9, PAD]], np.int32)
LENGTH = np.array([4, 2, 1, 3], np.int32)
NARROW = Plan((Stage(12, 4), Stage(8, 6), Stage(3, T)), idle=0)
# Slots, or a plan; of 12 completions, 4 prompts x 3.
PLANS = {
    "one_slot": Plan((Stage(1, T),), idle=1),
    "idle_slots": Plan((Stage(6, T),), idle=4),
    "slots_narrow": Plan((Stage(5, T), Stage(3, T), Stage(1, T)), idle=2),
    "narrow": NARROW,
}


UP = np.full(16, 1 / 4, np.float32)  # where all hidden states point, more or less


@pytest.fixture(scope="module", name="params")
def params_fixture():
    """A head in which this direction is that of the end token alone; with_end_token scales it."""
    params = transformer.init_params(MODEL, jax.random.key(0))
    embedding, head = np.asarray(params["embedding"]), np.asarray(params["head"])
    norm = np.linalg.norm(embedding, axis=-1).mean()
    return params | {"embedding": embedding + 2 * norm * UP, "head": head - np.outer(head @ UP, UP)}


def with_end_token(params, scale):
    """The end token's logit is about 4 * `scale` at every position."""
    head = params["head"].copy()
    head[EOS] = scale * UP
    return params | {"head": head}


@functools.cache
def sampler(plan, group=3, mesh=None, **kwargs):
    """A jitted `sample` in the loops of a plan; None for the plain loop."""

    @jax.jit
    def run(params, limits, tokens, length, seed):
        key = jax.random.key(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slot_plan, "make_plan", lambda *_, **__: plan)
            given_ = {"eos_id": EOS, "pad_id": PAD, "limits": limits} | kwargs
            sizes = {"group_size": group, "max_tokens": T}
            if mesh is None:
                return sample(MODEL, params, tokens, length, key, **sizes, **given_)
            with sharding.layout(mesh):
                return sample(MODEL, params, tokens, length, key, **sizes, **given_)

    def call(params, limits, tokens=TOKENS, length=LENGTH, seed=0):
        return run(params, limits, tokens, length, seed)

    return call


def assert_equal(found, expected):
    """The same tokens and masks; log-probs and entropies up to the rounding of other matmuls."""
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.token_mask, expected.token_mask)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_allclose(found.entropies, expected.entropies, atol=1e-5)


def with_lengths(lengths):
    """Limits [4, 3]."""
    return np.array(lengths, np.int32).reshape(4, 3)


LENGTHS = {
    "all_end_at_once": [1] * 12,
    "none_ends": [T] * 12,
    "one_straggler": [1, 2, 2, 1, 2, 2, 2, T, 1, 1, 2, 2],
    "many": [3, T, 7, 1, 5, 9, 2, 4, 11, 6, 8, 10],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_sample_in_slots_equals_plain_loop(params, plan, lengths):
    params, limits = with_end_token(params, -30), with_lengths(lengths)
    expected = sampler(None)(params, limits)
    np.testing.assert_array_equal(expected.token_mask.sum(-1).reshape(-1), lengths)
    assert_equal(sampler(plan)(params, limits), expected)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, T), min_size=12, max_size=12),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.0, 0.3, 0.8]),
)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_sample_in_slots_equals_plain_loop_for_any_lengths(params, plan, lengths, seed, scale):
    """By their limits and by end tokens: one of 15 tokens, two, and most."""
    params, limits = with_end_token(params, scale), with_lengths(lengths)
    expected = sampler(None)(params, limits, seed=seed)
    assert_equal(sampler(plan)(params, limits, seed=seed), expected)


def test_sample_in_slots_keeps_bits_where_rows_are_those_of_the_plain_loop(params):
    """Until the loops narrow."""
    plan = Plan((Stage(4, T), Stage(3, T)), idle=0)
    limits = jnp.array([[2], [2], [2], [T]], jnp.int32)
    found, expected = (sampler(p, 1)(params, limits) for p in (plan, None))
    for ours, theirs in zip(found, expected):
        np.testing.assert_array_equal(ours[:3], theirs[:3])


def test_sample_in_slots_log_probs_equal_forward(params):
    rollouts = sampler(PLANS["slots_narrow"])(params, with_lengths(LENGTHS["many"]))
    score = jax.jit(functools.partial(completion_log_probs, MODEL))
    full = score(params, TOKENS, LENGTH, rollouts.tokens)
    np.testing.assert_allclose(rollouts.log_probs, full * rollouts.token_mask, rtol=1e-4, atol=1e-5)


def test_sample_in_slots_of_rows_equals_the_whole_batch(params):
    limits = with_lengths(LENGTHS["many"])
    whole = sampler(None)(params, limits)
    run = sampler(PLANS["idle_slots"], rows=(2, 4))
    part = run(params, limits[2:], TOKENS[2:], LENGTH[2:])
    assert_equal(part, jax.tree.map(lambda x: x[2:], whole))


@pytest.mark.parametrize("plan", ["slots_narrow", "narrow"])
def test_sample_in_slots_under_vmap(params, plan):
    """Runs of a sweep whose completions have other lengths."""
    lengths = (LENGTHS["many"], LENGTHS["one_straggler"], LENGTHS["all_end_at_once"])
    limits = np.stack([*map(with_lengths, lengths)])
    found = jax.jit(jax.vmap(lambda limits: sampler(PLANS[plan])(params, limits)))(limits)
    expected = [sampler(None)(params, one) for one in limits]
    assert_equal(found, jax.tree.map(lambda *x: np.stack(x), *expected))


@pytest.mark.parametrize(
    ("plan", "axes"),
    [
        (Plan((Stage(3, 4), Stage(1, T)), 0), {"data": 4}),
        (Plan((Stage(2, T),), idle=1), {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
)
def test_sample_in_slots_of_each_device_equals_one_device(params, plan, axes):
    """Each device has its own slots."""
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1} | axes)
    limits = with_lengths(LENGTHS["many"])
    expected = sampler(None)(params, limits)
    batch = jax.device_put((limits, TOKENS, LENGTH), sharding.batch_sharding(mesh))
    placed = jax.device_put(params, sharding.replicated(mesh))
    found = sampler(plan, mesh=mesh)(placed, *batch)
    assert_equal(found, expected)


def temporary_bytes(params, **kwargs):
    settings_ = {"group_size": 64, "max_tokens": 192, "eos_id": EOS, "pad_id": PAD} | kwargs
    run = jax.jit(functools.partial(sample, MODEL, **settings_))
    lowered = run.lower(params, TOKENS, LENGTH, jax.random.key(0))
    memory = lowered.compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_sample_in_slots_holds_caches_of_the_slots_only(params):
    """256 completions of 192 tokens have caches of 256 * 192 * 2 * 2 * 4 * 4 bytes = 3.1 MB."""
    plain, few = temporary_bytes(params), temporary_bytes(params, slots=16)
    caches = 256 * 192 * 2 * 2 * 4 * 4
    assert plain > caches
    assert few < plain - 0.8 * caches


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((32, 256, 0, 1), None),
        ((32, 16, 0, 6), None),  # compiling more loops would take longer
        ((1, 256, 0, 6), None),
        ((32, 256, 32, 1), None),
        ((32, 256, 40, 1), None),
        ((32, 16, 8, 6), Plan((Stage(8, 16),), idle=1)),
        ((256, 256, 64, 2), Plan((Stage(64, 256), Stage(16, 256)), idle=4)),
        ((32, 256, 0, 3), Plan((Stage(32, 64), Stage(16, 128), Stage(5, 256)), idle=0)),
    ],
)
def test_make_plan_of_sizes(sizes, expected):
    completions, max_tokens, count, loops = sizes
    assert make_plan(completions, max_tokens, slots=count, loops=loops) == expected


def test_make_plan_narrows_to_the_full_length():
    for completions in range(1, 70):
        for loops in range(1, slot_plan.MAX_LOOPS + 1):
            plan = make_plan(completions, 130, slots=0, loops=loops)
            if plan is None:
                continue
            widths, lengths = zip(*plan.stages)
            assert list(widths) == sorted(set(widths), reverse=True)
            assert list(lengths) == sorted(lengths)
            assert (widths[0], lengths[-1]) == (completions, 130)
            assert len(widths) <= loops


def test_make_plan_on_an_accelerator_keeps_wide_loops(monkeypatch):
    monkeypatch.setattr(slot_plan, "on_cpu", lambda: False)
    assert make_plan(64, 8192, slots=0, loops=6) is None
    plan = make_plan(256, 8192, slots=0, loops=6)
    assert plan is not None
    assert [stage.width for stage in plan.stages] == [256, 192, 128, 80]
    assert all(stage.length == 8192 for stage in plan.stages)
