import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.base import token_mask
from experiments.tasks.subset_sum import SubsetInputs, make


@pytest.fixture(scope="module")
def task():
    return make()


def plain_reward(task, numbers, target, answer):
    if task.eos_id not in answer:
        return 0.0
    chosen = answer[: answer.index(task.eos_id)]
    ascending = all(a < b for a, b in itertools.pairwise(chosen))
    return float(ascending and set(chosen) <= set(numbers) and sum(chosen) == target)


def reward(task, numbers, target, answer):
    answer = (answer + [task.pad_id] * task.max_completion)[: task.max_completion]
    tokens = jnp.array([[answer]], jnp.int32)
    verifier_inputs = SubsetInputs(jnp.array([numbers]), jnp.array([target]))
    return float(task.verify(verifier_inputs, tokens, token_mask(tokens, task.eos_id))[0, 0])


@pytest.mark.parametrize("split", ["train", "eval"])
def test_prompts_are_valid_and_solvable(task, split):
    prompts = task.train_prompts(3, 1, 200) if split == "train" else task.eval_prompts(200)
    numbers, targets = (np.asarray(x).tolist() for x in prompts.verifier_inputs)
    for row, given, target in zip(np.asarray(prompts.tokens).tolist(), numbers, targets):
        assert row == [task.pad_id + 1, target, task.pad_id + 2, *given]
        assert given == sorted(set(given))
        assert 1 <= given[0] <= given[-1] <= task.max_number
        sums = {sum(c) for size in (2, 3, 4) for c in itertools.combinations(given, size)}
        assert target in sums
    assert len(set(map(tuple, numbers))) > 150


def test_prompts_separate_training_and_held_out_problems():
    """A space small enough to see all of it: two of three numbers up to 4."""
    task = make(numbers=3, max_number=4, min_chosen=2, max_chosen=2, held_out=0.3)
    drawn = [
        task.train_prompts(0, 0, 4000).verifier_inputs,
        task.demonstrations(0, 0, 4000).prompts.verifier_inputs,
        task.eval_prompts(4000).verifier_inputs,
    ]
    train, shown, held_out = (
        {(tuple(n), t) for n, t in zip(*(np.asarray(x).tolist() for x in inputs))}
        for inputs in drawn
    )
    solvable = {
        (numbers, sum(pair))
        for numbers in itertools.combinations(range(1, 5), 3)
        for pair in itertools.combinations(numbers, 2)
    }
    assert train == shown
    assert not train & held_out
    assert train | held_out == solvable


def test_demonstrations_reach_their_target(task):
    prompts, tokens, mask = task.demonstrations(0, 5, 300)
    numbers, targets = (np.asarray(x).tolist() for x in prompts.verifier_inputs)
    lengths = np.sum(np.asarray(mask), axis=1)
    assert set(lengths) == {3, 4, 5}
    for given, target, answer, length in zip(
        numbers, targets, np.asarray(tokens).tolist(), lengths
    ):
        assert plain_reward(task, given, target, answer) == 1
        assert answer.index(task.eos_id) == length - 1
        assert set(answer[int(length) :]) == {task.pad_id}
    np.testing.assert_array_equal(
        task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None]), 1
    )


def test_verify_equals_python_on_every_answer():
    """All answers of four tokens for three numbers, over the whole vocabulary."""
    task = make(numbers=3, max_number=4, min_chosen=1, max_chosen=2)
    answers = np.array(list(itertools.product(range(task.vocab_size), repeat=4)), np.int32)
    prompts = task.train_prompts(0, 0, 3)
    tokens = jnp.broadcast_to(answers, (3, *answers.shape))
    rewards = jax.jit(task.verify)(prompts.verifier_inputs, tokens, token_mask(tokens, task.eos_id))
    assert rewards.dtype == jnp.float32
    numbers, targets = (np.asarray(x).tolist() for x in prompts.verifier_inputs)
    for row, given, target in zip(np.asarray(rewards), numbers, targets):
        expected = [plain_reward(task, given, target, answer) for answer in answers.tolist()]
        np.testing.assert_array_equal(row, expected)
        assert sum(expected) > 0


def test_verify_edge_cases(task):
    eos = task.eos_id
    given = [2, 3, 5, 8, 13, 20, 21, 30]
    assert reward(task, given, 33, [3, 30, eos]) == 1
    assert reward(task, given, 33, [5, 8, 20, eos]) == 1  # another right answer
    assert reward(task, given, 33, [30, 3, eos]) == 0  # not ascending
    assert reward(task, given, 10, [5, 5, eos]) == 0  # one number twice
    assert reward(task, given, 33, [4, 29, eos]) == 0  # numbers that are not given
    assert reward(task, given, 33, [3, 30]) == 0  # no EOS
    assert reward(task, given, 33, [eos]) == 0
    assert reward(task, given, 33, [3, 30, eos, 5]) == 1  # what follows the end does not count
    assert reward(task, given, 102, [*given, eos]) == 1  # all numbers


def test_make_sets_token_ids_and_lengths(task):
    assert jax.tree.leaves(task) == []
    assert (task.vocab_size, task.eos_id, task.pad_id) == (125, 121, 122)
    assert (task.max_prompt, task.max_completion, task.on_device) == (11, 9, True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"numbers": 1}, "numbers must be at least 2, got 1"),
        ({"max_number": 7}, "max_number must be at least 8, got 7"),
        ({"min_chosen": 0}, "min_chosen must be at least 1, got 0"),
        ({"max_chosen": 1}, "max_chosen must be at least 2, got 1"),
        ({"max_chosen": 9}, "max_chosen must be at most 8, got 9"),
        ({"held_out": 1.0}, "held_out must lie strictly between 0 and 1, got 1.0"),
        ({"held_out": 1e-9}, "held_out and numbers leave no held-out problem among 4096 draws"),
    ],
)
def test_make_refuses_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
