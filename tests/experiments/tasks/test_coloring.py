import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.base import token_mask
from experiments.tasks.coloring import make


@pytest.fixture(scope="module")
def task():
    return make(nodes=10, edges=15)


@pytest.fixture(scope="module")
def held_out(task):
    return task.eval_prompts(100)


def plain_reward(task, edges, answer):
    colors = range(task.nodes, task.nodes + task.colors)
    right_form = answer[task.nodes : task.nodes + 1] == [task.eos_id] and all(
        color in colors for color in answer[: task.nodes]
    )
    return float(right_form and all(answer[a] != answer[b] for a, b in edges))


@pytest.mark.parametrize("split", ["train", "eval"])
def test_prompts_list_different_edges_in_order(task, held_out, split):
    prompts = task.train_prompts(3, 1, 100) if split == "train" else held_out
    edges = np.asarray(prompts.verifier_inputs).tolist()
    for row, pairs in zip(np.asarray(prompts.tokens).tolist(), edges):
        assert row == [task.pad_id + 1, *itertools.chain(*pairs)]
        assert pairs == sorted(pairs)
        assert len(set(map(tuple, pairs))) == 15
        assert all(0 <= a < b < 10 for a, b in pairs)


def test_prompts_are_solvable_and_have_many_answers(held_out):
    colorings = np.array(list(itertools.product(range(3), repeat=10)), np.int8)
    for pairs in np.asarray(held_out.verifier_inputs)[:50]:
        proper = np.all(colorings[:, pairs[:, 0]] != colorings[:, pairs[:, 1]], axis=1)
        assert np.sum(proper) >= 6
        assert np.sum(proper) % 6 == 0  # colours may be exchanged


def test_prompts_separate_training_and_held_out_problems():
    """A space small enough to see all of it: three edges between four nodes, two colours."""
    task = make(nodes=4, edges=3, colors=2, held_out=0.3)
    drawn = [
        task.train_prompts(0, 0, 4000).verifier_inputs,
        task.demonstrations(0, 0, 4000).prompts.verifier_inputs,
        task.eval_prompts(4000).verifier_inputs,
    ]
    train, shown, held_out = (
        {tuple(map(tuple, edges)) for edges in np.asarray(inputs).tolist()} for inputs in drawn
    )
    pairs = list(itertools.combinations(range(4), 2))
    colorable = {
        edges
        for edges in itertools.combinations(pairs, 3)
        if any(
            all(colors[a] != colors[b] for a, b in edges)
            for colors in itertools.product(range(2), repeat=4)
        )
    }
    assert train == shown
    assert not train & held_out
    assert train | held_out == colorable


def test_demonstrations_are_right_and_use_all_colors(task):
    prompts, tokens, mask = task.demonstrations(0, 5, 200)
    np.testing.assert_array_equal(mask, np.ones((200, 11)))
    edges = np.asarray(prompts.verifier_inputs).tolist()
    for pairs, answer in zip(edges, np.asarray(tokens).tolist()):
        assert plain_reward(task, pairs, answer) == 1
    np.testing.assert_array_equal(
        task.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None]), 1
    )
    shares = np.bincount(np.asarray(tokens)[:, :10].ravel() - 10) / 2000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.05)


def test_verify_equals_python_on_every_answer():
    """All answers of four tokens for three nodes, over the whole vocabulary."""
    task = make(nodes=3, edges=2, colors=2, held_out=0.5)
    answers = np.array(list(itertools.product(range(task.vocab_size), repeat=4)), np.int32)
    problems = list(itertools.combinations([(0, 1), (0, 2), (1, 2)], 2))
    tokens = jnp.broadcast_to(answers, (3, *answers.shape))
    mask = token_mask(tokens, task.eos_id)
    rewards = jax.jit(task.verify)(jnp.array(problems, jnp.int32), tokens, mask)
    assert rewards.dtype == jnp.float32
    for row, pairs in zip(np.asarray(rewards), problems):
        expected = [plain_reward(task, pairs, answer) for answer in answers.tolist()]
        np.testing.assert_array_equal(row, expected)
        assert sum(expected) == 2  # a path of two edges has two colourings


def test_make_sets_token_ids_and_lengths(task):
    assert jax.tree.leaves(task) == []
    assert (task.vocab_size, task.eos_id, task.pad_id) == (16, 13, 14)
    assert (task.max_prompt, task.max_completion, task.on_device) == (31, 11, True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"nodes": 1}, "nodes must be at least 2, got 1"),
        ({"colors": 1}, "colors must be at least 2, got 1"),
        ({"edges": 0}, "edges must be at least 1, got 0"),
        ({"edges": 29}, "edges must be at most 28, got 29"),
        ({"edges": 28}, "edges and held_out leave no training problem among 4096 draws"),
        ({"held_out": 0.0}, "held_out must lie strictly between 0 and 1, got 0.0"),
    ],
)
def test_make_refuses_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
