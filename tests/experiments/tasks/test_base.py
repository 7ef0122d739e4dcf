from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import ConfigError
from experiments.tasks import arithmetic, countdown, graph, gsm8k, word_problems
from experiments.tasks.base import (
    check_at_least,
    check_fraction,
    check_seed,
    hash_bits,
    is_held_out,
    token_mask,
)
from experiments.validation import check_arguments


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 9, 3], [1, 1, 1, 0]),
        ([9, 2, 9, 3], [1, 0, 0, 0]),
        ([1, 2, 3, 4], [1, 1, 1, 1]),
        ([1, 2, 3, 9], [1, 1, 1, 1]),
    ],
)
def test_token_mask_ends_with_the_first_eos(tokens, expected):
    mask = token_mask(np.array([[tokens]], np.int32), 9)
    assert mask.shape == (1, 1, 4)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask[0, 0], expected)


def test_token_mask_ends_with_any_of_several_end_tokens():
    tokens = np.array([[1, 2, 9, 3], [1, 8, 9, 3], [8, 9, 9, 9]], np.int32)
    expected = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(token_mask(tokens, (8, 9)), expected)


def plain_hash(*parts):
    h = 0x9E3779B9
    for part in parts:
        h = (h + (part % 2**32 + 1) * 0x9E3779B1) % 2**32
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        h = ((h ^ (h >> 13)) * 0xC2B2AE35) % 2**32
        h ^= h >> 16
    return h


def test_hash_bits_are_pinned():
    # A changed hash would move problems between training and evaluation silently.
    assert int(hash_bits(1, 2, 3)) == 2780159233


def test_hash_bits_equal_plain_integers_and_depend_on_order():
    left, right = np.arange(50)[:, None], np.arange(-20, 20)[None, :]
    bits = np.asarray(jax.jit(hash_bits)(left, right))
    assert bits.tolist() == [[plain_hash(a, b) for b in range(-20, 20)] for a in range(50)]
    assert plain_hash(3, 8) != plain_hash(8, 3)


def test_hash_bits_are_uniform_and_rarely_collide():
    bits = np.asarray(hash_bits(np.arange(400)[:, None], np.arange(500)[None, :])).ravel()
    counts = np.histogram(bits, bins=20, range=(0, 2**32))[0]
    # 200000 draws in 20 bins: a bin has standard deviation 97.5.
    assert np.all(np.abs(counts - 10000) < 5 * 97.5)
    # Birthday: about 200000² / 2³³ = 4.7 collisions.
    assert len(np.unique(bits)) > 200000 - 25


def test_is_held_out_takes_the_lowest_fraction_of_the_bits():
    number = np.arange(5000)
    held_out = np.asarray(is_held_out(0.2, 7, number))
    assert held_out.tolist() == [plain_hash(7, n) < 0.2 * 2**32 for n in range(5000)]


def test_checks_name_the_field_and_its_value():
    check_at_least("length", 2, 2)
    with pytest.raises(ValueError, match="length must be at least 2, got 1"):
        check_at_least("length", 1, 2)
    check_fraction("held_out", 0.5)
    for value in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"held_out .* got {value}"):
            check_fraction("held_out", value)
    check_seed(0)
    check_seed(2**31 - 1)
    for value in (-1, 2**31):
        with pytest.raises(ValueError, match=rf"seed must lie in 0\.\.2\^31 - 1, got {value}"):
            check_seed(value)


@pytest.mark.parametrize("task", [arithmetic, countdown, graph, gsm8k, word_problems])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sed": 3}, r"config\.task\.kwargs has no field 'sed' \(got 3\); allowed: .*seed"),
        ({"tokenizer": 3}, r"has no field 'tokenizer' \(got 3\)"),
        ({"seed": 1.5}, r"config\.task\.kwargs\.seed must be a whole number, got 1\.5"),
        ({"seed": True}, r"seed must be a whole number, got True"),
        ({"seed": "one"}, r"seed must be a whole number, got 'one'"),
    ],
)
def test_make_has_a_signature_that_is_checked(task, kwargs, message):
    check_arguments(task.make, {"seed": 3}, "task.kwargs")
    with pytest.raises(ConfigError, match=message):
        check_arguments(task.make, kwargs, "task.kwargs")


@pytest.mark.parametrize(
    ("task", "name", "value", "allowed"),
    [
        (graph, "held_out", "half", "a finite number"),
        (graph, "held_out", float("nan"), "a finite number"),
        (gsm8k, "data_dir", 3, "a string"),
        (word_problems, "directory", None, "a string"),
    ],
)
def test_check_arguments_names_the_type(task, name, value, allowed):
    with pytest.raises(ConfigError, match=rf"config\.task\.kwargs\.{name} must be {allowed}, got"):
        check_arguments(task.make, {name: value}, "task.kwargs")


@pytest.mark.parametrize("task", [arithmetic, gsm8k, word_problems])
def test_make_of_a_text_task_needs_a_tokenizer(task):
    with pytest.raises(ValueError, match=r"needs a model with a tokenizer: set model\.path"):
        task.make(None)


@pytest.fixture(scope="module", params=[countdown, graph], ids=["countdown", "graph"])
def make_device_task(request):
    return request.param.make


def test_device_tasks_repeat_prompts_for_the_same_seed_and_step_only(make_device_task):
    task = make_device_task()
    for draw in (task.train_prompts, task.demonstrations):
        first = jax.tree.leaves(draw(1, 2, 16))
        for seed, step, same in ((1, 2, True), (1, 3, False), (2, 2, False)):
            other = jax.tree.leaves(draw(seed, step, 16))
            assert all(map(np.array_equal, first, other)) == same
    # The streams of one (seed, step) differ, and a longer evaluation extends a shorter one.
    train, demonstrated = task.train_prompts(1, 2, 16), task.demonstrations(1, 2, 16)
    assert not np.array_equal(train.tokens[:, -1], demonstrated.prompts.tokens[:, -1])
    np.testing.assert_array_equal(task.eval_prompts(32).tokens[:8], task.eval_prompts(8).tokens)


def test_device_tasks_accept_traced_and_mapped_seeds_and_steps(make_device_task):
    task, traces = make_device_task(), []

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0))
    def draw(task, seed, step):
        traces.append(seed)
        return task.train_prompts(seed, step, 16), task.demonstrations(seed, step, 16)

    traced = draw(task, jnp.array([0, 1]), jnp.array([4, 5]))
    for i, (seed, step) in enumerate(((0, 4), (1, 5))):
        plain = (task.train_prompts(seed, step, 16), task.demonstrations(seed, step, 16))
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(traced)):
            np.testing.assert_array_equal(a, b[i])
    draw(make_device_task(), jnp.array([7, 8]), jnp.array([0, 0]))
    assert len(traces) == 1
