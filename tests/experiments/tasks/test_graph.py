import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.base import token_mask
from experiments.tasks.graph import GraphInputs, make


@pytest.fixture(scope="module")
def task():
    return make()


@pytest.fixture(scope="module")
def drawn(task):
    """Many of each kind, drawn once."""
    return {
        "train": task.train_prompts(0, 0, 20000),
        "demonstrations": task.demonstrations(0, 0, 20000),
        "eval": task.eval_prompts(5000),
    }


def first(count, batch):
    return jax.tree.map(lambda x: x[:count], batch)


def plain_edges(task):
    return {node: set(row) for node, row in enumerate(np.asarray(task.successors).tolist())}


def plain_distances(edges, source, blocked=()):
    distance = {source: 0}
    queue = collections.deque([source])
    while queue:
        node = queue.popleft()
        for after in edges[node]:
            if after not in distance and after not in blocked:
                distance[after] = distance[node] + 1
                queue.append(after)
    return distance


def shortest(edges, source, target):
    """The nodes of a shortest walk of at least one step, the source left out."""
    walks = collections.deque([[after] for after in sorted(edges[source])])
    while walks[0][-1] != target:
        walk = walks.popleft()
        walks.extend([*walk, after] for after in sorted(edges[walk[-1]]))
    return walks[0]


def plain_reward(edges, eos, source, target, forbidden, answer):
    """The rule, read token by token."""
    place = source
    for token in answer:
        if token == eos:
            return float(place == target)
        if token not in edges[place] or token in forbidden:
            return 0.0
        place = token
    return 0.0


def plain_inputs(verifier_inputs):
    return zip(
        np.asarray(verifier_inputs.source).tolist(),
        np.asarray(verifier_inputs.target).tolist(),
        np.asarray(verifier_inputs.forbidden).tolist(),
    )


@jax.jit
def verify(task, verifier_inputs, tokens):
    return task.verify(verifier_inputs, tokens, token_mask(tokens, task.eos_id))


def reward(task, source, target, forbidden, answers):
    verifier_inputs = GraphInputs(jnp.array([source]), jnp.array([target]), jnp.array([forbidden]))
    tokens = jnp.array([answers], jnp.int32)
    return verify(task, verifier_inputs, tokens)[0].tolist()


@pytest.mark.parametrize(("nodes", "degree", "seed"), [(64, 3, 0), (64, 3, 1), (31, 4, 2)])
def test_make_draws_a_regular_strongly_connected_graph(nodes, degree, seed):
    task = make(seed=seed, nodes=nodes, degree=degree)
    edges = plain_edges(task)
    into = collections.Counter(after for row in edges.values() for after in row)
    for node in range(nodes):
        assert len(edges[node]) == degree
        assert node not in edges[node]
        assert into[node] == degree
        distance = plain_distances(edges, node)
        assert distance == dict(enumerate(np.asarray(task.distances[node]).tolist()))


def test_make_depends_on_the_seed_alone(task):
    np.testing.assert_array_equal(make().successors, task.successors)
    assert np.any(np.asarray(make(seed=1).successors) != np.asarray(task.successors))
    assert np.any(np.asarray(make(seed=1).held_out) != np.asarray(task.held_out))


@pytest.mark.parametrize("split", ["train", "eval"])
def test_prompts_are_valid_and_solvable(task, drawn, split):
    edges = plain_edges(task)
    prompts = first(400, drawn[split])
    tokens = np.asarray(prompts.tokens)
    assert tokens.shape == (400, task.max_prompt)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(prompts.length, task.max_prompt)
    seen = collections.Counter()
    for row, (source, target, forbidden) in zip(
        tokens.tolist(), plain_inputs(prompts.verifier_inputs)
    ):
        assert row == [66, *forbidden, 67, target, 68, source]
        assert len({source, target, *forbidden}) == 8
        distance = plain_distances(edges, source, forbidden)[target]
        assert task.min_distance <= distance <= task.max_distance < task.max_path
        assert bool(task.held_out[source, target]) == (split == "eval")
        seen[distance] += 1
    assert set(seen) >= {2, 3, 4, 5, 6}
    assert len(np.unique(tokens, axis=0)) == 400


def test_prompts_separate_training_and_held_out_pairs(task, drawn):
    """Every training pair that 20000 draws can show, against the held-out pairs, exhaustively."""
    train, walks = drawn["train"].verifier_inputs, drawn["demonstrations"].prompts.verifier_inputs
    held_out = drawn["eval"].verifier_inputs
    pairs = [set(zip(*(np.asarray(x).tolist() for x in f[:2]))) for f in (train, walks, held_out)]
    marked = {tuple(pair) for pair in np.argwhere(np.asarray(task.held_out)).tolist()}
    assert not pairs[0] & marked
    assert not pairs[1] & marked
    assert pairs[2] <= marked
    # The whole pair space is covered: nothing but the hash keeps a pair out of training.
    distances = np.asarray(task.distances)
    free = {tuple(pair) for pair in np.argwhere((distances >= 2) & (distances <= 5)).tolist()}
    assert len((free - marked) - pairs[0]) < 0.01 * len(free)
    assert len((free & marked) - pairs[2]) < 0.02 * len(free)
    assert 0.17 < len(free & marked) / len(free) < 0.23


def test_demonstrations_are_walks_to_their_target(task, drawn):
    edges = plain_edges(task)
    prompts, tokens, mask = first(600, drawn["demonstrations"])
    assert tokens.shape == mask.shape == (600, task.max_path)
    lengths, hit = collections.Counter(), 0
    rows = zip(np.asarray(tokens).tolist(), np.asarray(mask).tolist())
    for (row, kept), (source, target, forbidden) in zip(
        rows, plain_inputs(prompts.verifier_inputs)
    ):
        length = row.index(task.eos_id)
        assert kept == [1.0] * (length + 1) + [0.0] * (task.max_path - length - 1)
        assert set(row[length + 1 :]) <= {task.pad_id}
        # A walk that may enter forbidden nodes, and nothing else, is wrong with it.
        assert plain_reward(edges, task.eos_id, source, target, (), row) == 1.0
        assert len({source, target, *forbidden}) == 8
        assert task.min_distance <= plain_distances(edges, source)[target] <= task.max_distance
        hit += bool(set(forbidden) & set(row[:length]))
        lengths[length] += 1
    assert set(lengths) == set(range(task.min_walk, task.max_walk + 1))
    # Three nodes on the way on average, 6 of 62 forbidden: about a quarter meets one.
    assert 0.15 < hit / 600 < 0.35
    verified = jax.jit(task.verify)(prompts.verifier_inputs, tokens[:, None], mask[:, None])
    assert float(jnp.mean(verified)) == pytest.approx(1 - hit / 600)


def test_verify_equals_python_on_every_short_answer():
    """All answers of up to four tokens over the whole vocabulary of a small graph."""
    task = make(
        nodes=8, degree=2, forbidden=1, min_distance=2, max_distance=4, max_path=5, max_walk=4
    )
    edges = plain_edges(task)
    answers = np.array(list(itertools.product(range(task.vocab_size), repeat=4)), np.int32)
    prompts = task.train_prompts(0, 0, 3)
    tokens = jnp.broadcast_to(answers, (3, *answers.shape))
    rewards = np.asarray(verify(task, prompts.verifier_inputs, tokens))
    assert rewards.dtype == np.float32
    for row, (source, target, forbidden) in zip(rewards, plain_inputs(prompts.verifier_inputs)):
        expected = [
            plain_reward(edges, task.eos_id, source, target, forbidden, answer)
            for answer in answers.tolist()
        ]
        np.testing.assert_array_equal(row, expected)
        assert sum(expected) > 0


def test_verify_equals_python_on_walks_and_damaged_walks(task, drawn):
    edges = plain_edges(task)
    rng = np.random.default_rng(0)
    prompts = first(64, drawn["train"])
    answers = np.zeros((64, 32, task.max_path), np.int32)
    for answer, (source, target, forbidden) in zip(answers, plain_inputs(prompts.verifier_inputs)):
        path = shortest({n: edges[n] - set(forbidden) for n in edges}, source, target)
        for g in range(32):
            # Followed by rubbish; every second answer has one random token changed.
            row = [*path, task.eos_id]
            row += rng.integers(0, task.vocab_size, task.max_path - len(row)).tolist()
            if g % 2:
                row[rng.integers(0, len(row))] = int(rng.integers(0, task.vocab_size))
            answer[g] = row
    rewards = np.asarray(verify(task, prompts.verifier_inputs, jnp.array(answers)))
    for row, answer, (source, target, forbidden) in zip(
        rewards, answers.tolist(), plain_inputs(prompts.verifier_inputs)
    ):
        for value, tokens in zip(row.tolist(), answer):
            assert value == plain_reward(edges, task.eos_id, source, target, forbidden, tokens)
    assert np.all(rewards[:, ::2] == 1)
    assert 0.2 < np.mean(rewards[:, 1::2]) < 0.8


def test_verify_edge_cases(task):
    edges = plain_edges(task)
    source = 0
    first = min(edges[source])
    target = min(edges[first] - {source})
    eos, pad = task.eos_id, task.pad_id
    forbidden = sorted(set(range(task.nodes)) - {source, first, target})[:6]
    rest = [pad] * 7
    path = [first, target, eos, *rest]
    over_long = [first, target] * 5
    assert (
        reward(
            task,
            source,
            target,
            forbidden,
            [
                path,
                [eos, first, target, *rest],  # empty
                over_long,  # no EOS
                [target, eos, pad, *rest],  # a jump
                [first, eos, pad, *rest],  # stops early
                [first, target, pad, eos, *rest[1:]],  # a token that is no node
                [first, target, eos, *[forbidden[0]] * 7],  # rubbish after the end
                [source, first, target, eos, *rest[1:]],  # repeats the source
            ],
        )
        == [1, 0, 0, 0, 0, 0, 1, 0]
    )
    # Forbidden: on the way; as the last node, even where it is the target itself.
    assert reward(task, source, target, [first, *forbidden[1:]], [path]) == [0]
    assert reward(task, source, target, [target, *forbidden[1:]], [path]) == [0]
    # A walk may pass its target and come back to it, but has to stop there.
    loop = [first, target, *shortest(edges, target, target)]
    assert len(loop) < task.max_path
    for answer, expected in (([*loop, eos], 1), ([*loop, min(edges[target]), eos], 0)):
        tokens = (answer + [pad] * task.max_path)[: task.max_path]
        assert reward(task, source, target, [], [tokens]) == [expected]


def test_verify_needs_an_eos_within_max_path(task):
    edges = plain_edges(task)
    walk = [0]
    while len(walk) <= task.max_path:
        walk.append(min(edges[walk[-1]]))
    full = walk[1 : task.max_path + 1]
    assert reward(task, 0, full[-1], [], [full]) == [0]
    assert reward(task, 0, full[-2], [], [[*full[:-1], task.eos_id]]) == [1]


def test_make_returns_a_pytree_with_token_ids_and_lengths(task):
    leaves, structure = jax.tree.flatten(task)
    assert len(leaves) == 3
    again = jax.tree.unflatten(structure, leaves)
    assert (again.vocab_size, again.eos_id, again.pad_id) == (69, 64, 65)
    assert (again.max_prompt, again.max_completion, again.on_device) == (11, 10, True)
    assert jax.jit(lambda task: task.train_prompts(0, 0, 2).tokens)(again).shape == (2, 11)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"degree": 1}, "degree must be at least 2, got 1"),
        ({"nodes": 14}, "nodes must be at least 15, got 14"),
        ({"min_distance": 0}, "min_distance must be at least 1, got 0"),
        ({"max_distance": 1}, "max_distance must be at least 2, got 1"),
        ({"max_path": 8}, "max_path must be at least 9, got 8"),
        ({"max_walk": 10}, "max_walk must be less than max_path = 10, got 10"),
        ({"min_walk": 0}, "min_walk must be at least 1, got 0"),
        ({"max_walk": 1}, "max_walk must be at least 2, got 1"),
        ({"forbidden": -1}, "forbidden must be at least 0, got -1"),
        ({"held_out": 0.0}, "held_out must lie strictly between 0 and 1, got 0.0"),
        ({"held_out": 1e-9}, r"no held-out pair has a distance in \[2, 8\]"),
        ({"min_distance": 8, "max_distance": 9}, "pair has a distance in"),
        ({"min_distance": 5, "min_walk": 1, "max_walk": 3}, "max_walk must let a walk reach"),
    ],
)
def test_make_refuses_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**{"max_path": 10, **kwargs})
