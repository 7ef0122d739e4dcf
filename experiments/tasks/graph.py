"""The embedded task: walk from a source to a target in a fixed graph, around forbidden nodes.

The graph is random, directed, regular (64 nodes, three edges out of and three into each) and
strongly connected; it is drawn once from `seed`. Edges are one-way because a random walk then gets
away from its source: on a two-way graph a third of its steps go straight back. A prompt names 6
forbidden nodes, a target and a source:

    AVOID f₁ … f₆ TO target FROM source

and an answer is the nodes of a walk *after* the source, then EOS: `v₁ v₂ … v_L EOS` with
v_L = target. The source is the prompt's last node and is not repeated, so every step, the first
included, is the same choice: a successor of the node before. Many answers are right.

    reward = 1  iff  (v_{l-1}, v_l) is an edge for l = 1..L (v₀ = source), no v_l is forbidden,
                     v_L = target, and EOS comes within max_path tokens; else 0

Distances are measured in the graph *without* the forbidden nodes, and lie in
[min_distance, max_distance] with max_distance < max_path: every prompt can be solved.

A pair (source, target) is held out by a hash of it: training prompts and demonstrations never
contain a held-out pair, evaluation prompts contain nothing else.

Everything is traceable in JAX, seed and step included.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.tasks.base import (
    DEMONSTRATIONS,
    Demonstrations,
    DeviceTask,
    Prompts,
    check_at_least,
    check_at_most,
    check_fraction,
    check_seed,
    draw_keys,
    first_accepted,
    fixed_length_prompts,
    is_held_out,
    jit_by_count,
)


class GraphInputs(NamedTuple):
    """The verifier inputs: source i32 [P], target i32 [P], forbidden i32 [P, F]."""

    source: jax.Array
    target: jax.Array
    forbidden: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["successors", "distances", "held_out"],
    meta_fields=[
        "seed",
        "forbidden",
        "min_distance",
        "max_distance",
        "max_path",
        "min_walk",
        "max_walk",
    ],
)
@dataclasses.dataclass(frozen=True, eq=False)
class GraphTask(DeviceTask):
    """Paths in one fixed graph; made by `make`.

    successors: i32 [N, degree], the nodes that the edges out of each node lead to.
    distances: i32 [N, N], steps from row to column in the whole graph.
    held_out: bool [N, N], the (source, target) pairs kept for evaluation.

    Tokens: the nodes are 0..N-1, then EOS, PAD, AVOID, TO, FROM.
    """

    successors: jax.Array
    distances: jax.Array
    held_out: jax.Array
    seed: int
    forbidden: int
    min_distance: int
    max_distance: int
    max_path: int
    min_walk: int
    max_walk: int

    @property
    def nodes(self) -> int:
        """Number of nodes, N."""
        return self.successors.shape[0]

    @property
    def eos_id(self) -> int:
        """The token that ends a path."""
        return self.nodes

    @property
    def pad_id(self) -> int:
        """The token after the end."""
        return self.nodes + 1

    @property
    def vocab_size(self) -> int:
        """Nodes, EOS, PAD and the three words AVOID, TO, FROM."""
        return self.nodes + 5

    @property
    def max_prompt(self) -> int:
        """Every prompt has this length."""
        return self.forbidden + 5

    @property
    def max_completion(self) -> int:
        """Tokens of the longest answer that counts, EOS included."""
        return self.max_path

    @jit_by_count
    def demonstrations(
        self, seed: jax.Array | int, step: jax.Array | int, count: int
    ) -> Demonstrations:
        """Draws random walks, each with the prompt that it answers if it meets no forbidden node.

            L ~ U{min_walk..max_walk};   v_l ~ U(successors of v_{l-1});   target := v_L

        redrawn until (v₀, v_L) is not held out and its distance in the whole graph is allowed.
        The forbidden nodes are uniform over the others, without regard to the walk: imitation
        teaches the edges and the goal, and leaves the avoiding to be learned from rewards.

        Args:
          seed: i32, may be traced.
          step: i32, may be traced.
          count: P, static.

        Returns:
          P demonstrations, tokens [P, max_path].
        """
        keys = draw_keys(seed, DEMONSTRATIONS, step, count)
        verifier_inputs, walk, length = jax.vmap(self._draw_walk)(keys)
        place = jnp.arange(self.max_path)
        length = length[:, None]
        walk = jnp.pad(walk, ((0, 0), (0, self.max_path - self.max_walk)))
        tokens = jnp.where(place < length, walk, self.pad_id)
        tokens = jnp.where(place == length, self.eos_id, tokens)
        mask = (place <= length).astype(jnp.float32)
        return Demonstrations(self._prompts(verifier_inputs), tokens.astype(jnp.int32), mask)

    def verify(
        self, verifier_inputs: GraphInputs, tokens: jax.Array, token_mask: jax.Array
    ) -> jax.Array:
        """Rewards answers: 1 for a walk to the target over edges and around the forbidden nodes.

        Args:
          verifier_inputs: of P prompts.
          tokens: i32 [P, G, T] answers.
          token_mask: [P, G, T], 1 up to and including the first EOS.

        Returns:
          f32 [P, G] of zeros and ones.
        """
        chosen = token_mask.astype(bool)
        is_eos = chosen & (tokens == self.eos_id)
        is_step = chosen & ~is_eos
        source = jnp.broadcast_to(verifier_inputs.source[:, None, None], tokens[..., :1].shape)
        before = jnp.concatenate([source, tokens[..., :-1]], axis=-1)
        is_node = (tokens >= 0) & (tokens < self.nodes)
        # A token that is no node looks up some node's successors here; is_node refuses it.
        after = self.successors[jnp.clip(before, 0, self.nodes - 1)]
        is_edge = is_node & jnp.any(after == tokens[..., None], axis=-1)
        is_forbidden = jnp.any(
            tokens[..., None] == verifier_inputs.forbidden[:, None, None, :], axis=-1
        )
        walks = jnp.all(~is_step | (is_edge & ~is_forbidden), axis=-1)
        arrives = jnp.any(is_eos & (before == verifier_inputs.target[:, None, None]), axis=-1)
        return (walks & arrives).astype(jnp.float32)

    def _prompts(self, verifier_inputs: GraphInputs) -> Prompts:
        source, target, forbidden = verifier_inputs
        avoid, to, from_ = range(self.nodes + 2, self.nodes + 5)
        return fixed_length_prompts(
            avoid, forbidden, to, target, from_, source, verifier_inputs=verifier_inputs
        )

    def _draw_inputs(self, held_out: bool, key: jax.Array) -> GraphInputs:
        """Draws source and forbidden nodes uniformly, then the target among the nodes allowed."""
        in_split = self.held_out if held_out else ~self.held_out

        def draw(key: jax.Array) -> tuple[GraphInputs, jax.Array]:
            source_key, forbidden_key, target_key = jax.random.split(key, 3)
            source = jax.random.randint(source_key, (), 0, self.nodes)
            others = jnp.arange(self.nodes) != source
            forbidden = _draw_distinct(forbidden_key, others, self.forbidden)
            blocked = jnp.zeros(self.nodes, bool).at[forbidden].set(True)
            distance = _distances(self.successors, source, blocked, self.max_distance)
            allowed = self._in_range(distance) & in_split[source]
            target = jax.random.categorical(target_key, jnp.where(allowed, 0.0, -jnp.inf))
            return GraphInputs(source, target.astype(jnp.int32), forbidden), jnp.any(allowed)

        return first_accepted(draw, key)

    def _draw_walk(self, key: jax.Array) -> tuple[GraphInputs, jax.Array, jax.Array]:
        """Draws one walk: its prompt, its nodes i32 [max_walk] and its length."""

        def advance(node: jax.Array, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
            node = self.successors[node, turn]
            return node, node

        def draw(key: jax.Array) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
            source_key, length_key, turn_key = jax.random.split(key, 3)
            source = jax.random.randint(source_key, (), 0, self.nodes)
            length = jax.random.randint(length_key, (), self.min_walk, self.max_walk + 1)
            turns = jax.random.randint(turn_key, (self.max_walk,), 0, self.successors.shape[1])
            _, walk = lax.scan(advance, source, turns)
            target = walk[length - 1]
            allowed = self._in_range(self.distances[source, target])
            return (source, walk, length), allowed & ~self.held_out[source, target]

        walk_key, forbidden_key = jax.random.split(key)
        source, walk, length = first_accepted(draw, walk_key)
        target = walk[length - 1]
        ends = jnp.zeros(self.nodes, bool).at[jnp.array([source, target])].set(True)
        forbidden = _draw_distinct(forbidden_key, ~ends, self.forbidden)
        return GraphInputs(source, target, forbidden), walk, length

    def _in_range(self, distance: Any) -> Any:
        return (distance >= self.min_distance) & (distance <= self.max_distance)


def make(
    tokenizer: None = None,
    seed: int = 0,
    nodes: int = 64,
    degree: int = 3,
    forbidden: int = 6,
    min_distance: int = 2,
    max_distance: int = 8,
    max_path: int = 10,
    min_walk: int = 2,
    max_walk: int = 6,
    held_out: float = 0.2,
) -> GraphTask:
    """Makes the task from a config's `task.kwargs`: draws the graph and its held-out pairs.

    Args:
      tokenizer: not used; the task has its own vocabulary.
      seed: of the graph, of the split and of the evaluation prompts.
      nodes: N.
      degree: edges out of, and edges into, every node.
      forbidden: forbidden nodes of a prompt.
      min_distance: fewest steps from source to target around the forbidden nodes, at least 1.
      max_distance: most steps.
      max_path: tokens of the longest answer, EOS included; more than max_distance.
      min_walk: fewest steps of a demonstration.
      max_walk: most steps of a demonstration; less than max_path. Longer walks make a start
        that wanders more.
      held_out: fraction of the (source, target) pairs kept for evaluation.

    Returns:
      The task.

    Raises:
      ValueError: if no such graph or prompt exists, naming the field and its value.
    """
    del tokenizer
    check_seed(seed)
    check_at_least("degree", degree, 2)
    check_at_most("degree", degree, 10)  # disjoint permutations are drawn e^degree times
    check_at_most("nodes", nodes, 8192)  # distances and the held-out pairs are [N, N]
    check_at_most("max_path", max_path, 8192)
    check_at_least("forbidden", forbidden, 0)
    check_at_least("min_distance", min_distance, 1)
    check_at_least("max_distance", max_distance, min_distance)
    check_at_least("max_path", max_path, max_distance + 1)
    check_at_least("min_walk", min_walk, 1)
    check_at_least("max_walk", max_walk, min_walk)
    check_fraction("held_out", held_out)
    check_at_least("nodes", nodes, 2 * degree)
    if max_walk >= max_path:
        raise ValueError(f"max_walk must be less than max_path = {max_path}, got {max_walk}")
    # A shortest path and as many forbidden nodes beside it: drawing a prompt always ends.
    check_at_least("nodes", nodes, forbidden + max_distance + 1)

    rng = np.random.default_rng(seed)
    successors = _random_regular_graph(rng, nodes, degree)
    node, nowhere = jnp.arange(nodes), jnp.zeros(nodes, bool)

    @jax.jit
    def of_every_pair():
        distances = jax.vmap(lambda s: _distances(successors, s, nowhere, nodes))(node)
        return distances, is_held_out(held_out, seed, node[:, None], node[None, :])

    distances, are_held_out = of_every_pair()
    task = GraphTask(
        successors=successors,
        distances=distances,
        held_out=are_held_out,
        seed=seed,
        forbidden=forbidden,
        min_distance=min_distance,
        max_distance=max_distance,
        max_path=max_path,
        min_walk=min_walk,
        max_walk=max_walk,
    )
    distances, training = np.asarray(task.distances), ~np.asarray(task.held_out)
    in_range = task._in_range(distances)
    for split, pairs in (("training", training), ("held-out", ~training)):
        if not np.any(in_range & pairs):
            raise ValueError(
                f"no {split} pair has a distance in [{min_distance}, {max_distance}]: "
                f"the graph's largest is {np.max(distances)}"
            )
    if not np.any(in_range & training & (distances >= min_walk) & (distances <= max_walk)):
        raise ValueError(
            f"max_walk must let a walk reach a training pair at a distance in [{min_distance}, "
            f"{max_distance}], got {max_walk} with min_walk = {min_walk}"
        )
    return task


def _draw_distinct(key: jax.Array, among: jax.Array, count: int) -> jax.Array:
    """Draws `count` different nodes of those marked (bool [N]), uniformly and in random order."""
    score = jnp.where(among, jax.random.uniform(key, among.shape), -1.0)
    return lax.top_k(score, count)[1].astype(jnp.int32)


@partial(jax.jit, static_argnums=3)
def _distances(
    successors: jax.Array, source: jax.Array, blocked: jax.Array, max_distance: int
) -> jax.Array:
    """Breadth-first distances from one source.

    Args:
      successors: i32 [N, degree].
      source: i32 [].
      blocked: bool [N], nodes that may not be entered.
      max_distance: how far to look.

    Returns:
      i32 [N]; max_distance + 1 where a node is blocked or not reached.
    """
    nodes = successors.shape[0]
    start = jnp.full(nodes, max_distance + 1, jnp.int32).at[source].set(0)

    def widen(step: jax.Array, distance: jax.Array) -> jax.Array:
        border = jnp.broadcast_to((distance == step - 1)[:, None], successors.shape)
        reached = jnp.zeros(nodes, bool).at[successors].max(border)
        return jnp.where(reached & ~blocked & (distance > max_distance), step, distance)

    return lax.fori_loop(1, max_distance + 1, widen, start)


def _random_regular_graph(rng: np.random.Generator, nodes: int, degree: int) -> jax.Array:
    """Draws a strongly connected graph as the union of `degree` disjoint permutations."""
    while True:
        taken = [np.arange(nodes)]  # No edge from a node to itself.
        while len(taken) <= degree:
            permutation = rng.permutation(nodes)
            if not any(np.any(permutation == other) for other in taken):
                taken.append(permutation)
        successors = jnp.asarray(np.sort(np.stack(taken[1:], axis=1), axis=1), jnp.int32)
        distance = _distances(successors, jnp.int32(0), jnp.zeros(nodes, bool), nodes)
        # As many edges enter a set of nodes as leave it, so reaching all from one node suffices.
        if bool(jnp.all(distance <= nodes)):
            return successors
