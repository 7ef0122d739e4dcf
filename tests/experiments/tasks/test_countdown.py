import collections
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.base import token_mask
from experiments.tasks.countdown import CountdownInputs, make

OPERATORS = [operator.add, operator.sub, operator.mul]


@pytest.fixture(scope="module")
def task():
    return make()


def plain_value(task, answer):
    """The value of `n ∘ n ∘ … n EOS`, or None when it has another form."""
    if len(answer) % 2 or answer[-1] != task.eos_id:
        return None
    value = answer[0]
    for symbol, number in zip(answer[1:-1:2], answer[2:-1:2]):
        if not task.first_operator <= symbol < task.first_operator + 3:
            return None
        value = OPERATORS[symbol - task.first_operator](value, number)
    return value


def plain_reward(task, numbers, target, answer):
    if task.eos_id in answer:
        answer = answer[: answer.index(task.eos_id) + 1]
    right_numbers = sorted(answer[:-1:2]) == numbers
    return float(right_numbers and plain_value(task, answer) == target)


def all_values(numbers):
    """Every value that four numbers reach from left to right: an independent solver."""
    values = set()
    for order in itertools.permutations(numbers):
        reached = {order[0]}
        for number in order[1:]:
            reached = {f(value, number) for value in reached for f in OPERATORS}
        values |= reached
    return values


@jax.jit
def verify(task, verifier_inputs, tokens):
    return task.verify(verifier_inputs, tokens, token_mask(tokens, task.eos_id))


def reward(task, numbers, target, answer):
    answer = (answer + [task.pad_id] * task.max_completion)[: task.max_completion]
    tokens = jnp.array([[answer]], jnp.int32)
    verifier_inputs = CountdownInputs(jnp.array([numbers]), jnp.array([target]))
    return float(verify(task, verifier_inputs, tokens)[0, 0])


@pytest.mark.parametrize("split", ["train", "eval"])
def test_prompts_are_valid_and_solvable(task, split):
    prompts = task.train_prompts(3, 1, 300) if split == "train" else task.eval_prompts(300)
    assert prompts.tokens.shape == (300, task.max_prompt)
    assert prompts.tokens.dtype == jnp.int32
    np.testing.assert_array_equal(prompts.length, task.max_prompt)
    numbers, targets = (np.asarray(x).tolist() for x in prompts.verifier_inputs)
    for row, given, target in zip(np.asarray(prompts.tokens).tolist(), numbers, targets):
        assert row == [task.pad_id + 1, target, task.pad_id + 2, *given]
        assert given == sorted(given)
        assert 1 <= given[0] <= given[-1] <= task.max_number
        assert 1 <= target <= task.max_target
        assert target in all_values(given)


def test_prompts_separate_training_and_held_out_problems():
    """A space small enough to see all of it: three numbers up to 4, targets up to 12."""
    task = make(numbers=3, max_number=4, max_target=12, held_out=0.3)
    drawn = [
        task.train_prompts(0, 0, 20000).verifier_inputs,
        task.demonstrations(0, 0, 20000).prompts.verifier_inputs,
        task.eval_prompts(20000).verifier_inputs,
    ]
    problems = [
        {(tuple(n), t) for n, t in zip(*(np.asarray(x).tolist() for x in verifier_inputs))}
        for verifier_inputs in drawn
    ]
    solvable = {
        (numbers, value)
        for numbers in itertools.combinations_with_replacement(range(1, 5), 3)
        for value in all_values(numbers)
        if 1 <= value <= 12
    }
    train, walked, held_out = problems
    assert train == walked
    assert not train & held_out
    assert train | held_out == solvable
    assert 0.2 < len(held_out) / len(solvable) < 0.4


def test_demonstrations_reach_their_target(task):
    prompts, tokens, mask = task.demonstrations(0, 5, 400)
    np.testing.assert_array_equal(mask, np.ones((400, 8)))
    symbols = collections.Counter()
    numbers, targets = (np.asarray(x).tolist() for x in prompts.verifier_inputs)
    for given, target, answer in zip(numbers, targets, np.asarray(tokens).tolist()):
        assert plain_reward(task, given, target, answer) == 1
        symbols.update(answer[1:-1:2])
    assert set(symbols) == {51, 52, 53}
    assert min(symbols.values()) > 150
    np.testing.assert_array_equal(verify(task, prompts.verifier_inputs, tokens[:, None]), 1)


def test_verify_equals_python_on_every_answer():
    """All answers of four tokens for two numbers, over the whole vocabulary."""
    task = make(numbers=2, max_number=4, max_target=5)
    answers = np.array(list(itertools.product(range(task.vocab_size), repeat=4)), np.int32)
    problems = [([1, 1], 1), ([1, 3], 4), ([2, 2], 4), ([2, 3], 1), ([2, 4], 2), ([3, 4], 1)]
    numbers, targets = zip(*problems)
    verifier_inputs = CountdownInputs(jnp.array(numbers), jnp.array(targets))
    tokens = jnp.broadcast_to(answers, (6, *answers.shape))
    rewards = verify(task, verifier_inputs, tokens)
    assert rewards.dtype == jnp.float32
    for row, given, target in zip(np.asarray(rewards), numbers, targets):
        expected = [plain_reward(task, given, target, answer) for answer in answers.tolist()]
        np.testing.assert_array_equal(row, expected)
        assert sum(expected) > 0


def test_verify_equals_python_on_damaged_answers(task):
    prompts, tokens, _ = task.demonstrations(1, 0, 64)
    rng = np.random.default_rng(0)
    answers = np.repeat(np.asarray(tokens)[:, None], 32, axis=1)
    for row in answers:
        for answer in row[1:]:
            kind = rng.integers(3)
            if kind == 0:  # another order
                answer[0:7:2] = rng.permutation(answer[0:7:2])
            elif kind == 1:  # other operators
                answer[1:7:2] = rng.integers(51, 54, 3)
            else:
                answer[rng.integers(8)] = rng.integers(task.vocab_size)
    rewards = verify(task, prompts.verifier_inputs, jnp.array(answers))
    numbers, targets = (np.asarray(x).tolist() for x in prompts.verifier_inputs)
    for row, given, target, group in zip(np.asarray(rewards), numbers, targets, answers.tolist()):
        assert row.tolist() == [plain_reward(task, given, target, answer) for answer in group]
    assert np.all(np.asarray(rewards)[:, 0] == 1)
    assert 0.1 < np.mean(rewards) < 0.6


def test_verify_edge_cases(task):
    add, sub, mul = 51, 52, 53
    eos, pad = task.eos_id, task.pad_id
    given = [1, 2, 5, 7]
    right = [7, sub, 2, mul, 5, add, 1, eos]
    assert reward(task, given, 26, right) == 1  # from left to right, not 7 - 10 + 1 = -2
    assert reward(task, given, 26, [1, add, 7, sub, 2, mul, 5, eos]) == 0  # 30
    assert reward(task, given, 26, [eos]) == 0
    assert reward(task, given, 26, [*right[:-1], pad]) == 0  # no EOS
    assert reward(task, given, 26, [*right[:-1], add]) == 0  # goes on
    assert reward(task, given, 5, [7, sub, 2, eos]) == 0  # not all numbers
    assert reward(task, given, 26, [26, sub, 1, add, 1, add, 0, eos]) == 0  # other numbers
    assert reward(task, given, 40, [7, add, 7, add, 1, mul, 5, eos]) == 0  # one number twice
    assert reward(task, given, 26, [7, 7, 2, mul, 5, add, 1, eos]) == 0  # a number as operator
    assert reward(task, given, 26, [7, sub, add, mul, 5, add, 1, eos]) == 0
    assert reward(task, given, 26, [7, sub, 2, mul, 5, eos, 1, eos]) == 0  # ends early
    # A negative value on the way is allowed: ((1 - 7) + 5) + 2 is 1.
    assert reward(task, given, 1, [1, sub, 7, add, 5, add, 2, eos]) == 1
    assert reward(task, [3, 3, 3, 3], 12, [3, mul, 3, add, 3, mul, 3, eos]) == 0  # 36
    assert reward(task, [3, 3, 3, 3], 36, [3, mul, 3, add, 3, mul, 3, eos]) == 1


def test_make_sets_token_ids_and_lengths(task):
    assert jax.tree.leaves(task) == []
    assert (task.vocab_size, task.eos_id, task.pad_id) == (58, 54, 55)
    assert (task.max_prompt, task.max_completion, task.on_device) == (7, 8, True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"numbers": 1}, "numbers must be at least 2, got 1"),
        ({"max_number": 1}, "max_number must be at least 2, got 1"),
        ({"max_number": 300}, "max_number must keep every product of 4 numbers below"),
        ({"max_target": 0}, "max_target must be at least 1, got 0"),
        ({"held_out": 1.0}, "held_out must lie strictly between 0 and 1, got 1.0"),
        ({"held_out": 1e-9}, "no held-out problem among 4096 draws"),
    ],
)
def test_make_refuses_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
