"""Graph colouring: give each node one of a few colours, neighbours different ones.

A prompt is a list of edges, each a pair of nodes a < b, in order,

    EDGES a₁ b₁ … a_m b_m

and an answer is the colours of the nodes 1..N in order, then EOS: `R G R B … EOS`.

    reward = 1  iff  the answer is N colours and EOS, and every edge joins two colours; else 0

Every prompt has many right answers, at least the permutations of the colours, so that a policy can
lose the diversity of its answers to a prompt without losing reward; `eval/distinct` counts them.
Problems are drawn by drawing a colouring, so each can be solved. A problem is held out by a hash of
its edges: training prompts and demonstrations never contain a held-out problem, evaluation prompts
contain nothing else.

Everything is traceable in JAX, seed and step included.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tasks.base import (
    DEMONSTRATIONS,
    AnswerFirstTask,
    Demonstrations,
    Prompts,
    check_at_least,
    check_at_most,
    check_fraction,
    check_seed,
    draw_keys,
    fixed_length_prompts,
    is_held_out,
    jit_by_count,
)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[],
    meta_fields=["seed", "nodes", "edges", "colors", "held_out"],
)
@dataclasses.dataclass(frozen=True)
class ColoringTask(AnswerFirstTask):
    """Colourings of random graphs; made by `make`. The verifier inputs are edges i32 [P, m, 2].

    Tokens: the nodes 0..N-1, then the colours, EOS, PAD, EDGES.
    """

    seed: int
    nodes: int
    edges: int
    colors: int
    held_out: float

    @property
    def eos_id(self) -> int:
        """The token that ends an answer."""
        return self.nodes + self.colors

    @property
    def pad_id(self) -> int:
        """The token after the end."""
        return self.eos_id + 1

    @property
    def vocab_size(self) -> int:
        """Nodes, colours, EOS, PAD and the word EDGES."""
        return self.eos_id + 3

    @property
    def max_prompt(self) -> int:
        """Every prompt has this length."""
        return 1 + 2 * self.edges

    @property
    def max_completion(self) -> int:
        """Tokens of every right answer: the colours and EOS."""
        return self.nodes + 1

    @jit_by_count
    def demonstrations(
        self, seed: jax.Array | int, step: jax.Array | int, count: int
    ) -> Demonstrations:
        """Draws right answers: the colouring comes first, the edges join different colours.

            c_v ~ U{colours};   edges ~ U(m different pairs {a, b} with c_a ≠ c_b)

        redrawn until there are m such pairs and the problem is not held out.

        Args:
          seed: i32, may be traced.
          step: i32, may be traced.
          count: P, static.

        Returns:
          P demonstrations, tokens [P, max_completion].
        """
        keys = draw_keys(seed, DEMONSTRATIONS, step, count)
        edges, colors = jax.vmap(partial(self._draw_problem, False))(keys)
        end = jnp.full((count, 1), self.eos_id, jnp.int32)
        tokens = jnp.concatenate([colors + self.nodes, end], axis=1)
        return Demonstrations(self._prompts(edges), tokens, jnp.ones(tokens.shape, jnp.float32))

    def verify(
        self, verifier_inputs: jax.Array, tokens: jax.Array, token_mask: jax.Array
    ) -> jax.Array:
        """Rewards answers: 1 for a colour of every node, neighbours with different ones.

        Args:
          verifier_inputs: edges of P prompts, i32 [P, m, 2].
          tokens: i32 [P, G, T] answers, T at least max_completion.
          token_mask: [P, G, T], 1 up to and including the first EOS.

        Returns:
          f32 [P, G] of zeros and ones.
        """
        colors = tokens[..., : self.nodes]
        are_colors = jnp.all((colors >= self.nodes) & (colors < self.eos_id), axis=-1)
        last = tokens[..., self.nodes] == self.eos_id
        ends = last & token_mask[..., self.nodes].astype(bool)
        a, b = (jax.vmap(lambda c, e: c[:, e])(colors, verifier_inputs[..., end]) for end in (0, 1))
        return (are_colors & ends & jnp.all(a != b, axis=-1)).astype(jnp.float32)

    def _prompts(self, verifier_inputs: jax.Array) -> Prompts:
        flat = verifier_inputs.reshape(verifier_inputs.shape[0], -1)
        return fixed_length_prompts(self.pad_id + 1, flat, verifier_inputs=verifier_inputs)

    def _draw_answer(
        self, held_out: bool, key: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        color_key, edge_key = jax.random.split(key)
        colors = jax.random.randint(color_key, (self.nodes,), 0, self.colors)
        pairs = jnp.asarray(np.stack(np.triu_indices(self.nodes, 1), axis=1), jnp.int32)
        joins = colors[pairs[:, 0]] != colors[pairs[:, 1]]
        score = jnp.where(joins, jax.random.uniform(edge_key, joins.shape), -1.0)
        edges = pairs[jnp.sort(jax.lax.top_k(score, self.edges)[1])]
        enough = jnp.sum(joins) >= self.edges
        in_split = is_held_out(self.held_out, self.seed, *edges.ravel()) == held_out
        return (edges, colors), enough & in_split


def make(
    tokenizer: None = None,
    seed: int = 0,
    nodes: int = 8,
    edges: int = 10,
    colors: int = 3,
    held_out: float = 0.2,
) -> ColoringTask:
    """Makes the task from a config's `task.kwargs`.

    Args:
      tokenizer: not used; the task has its own vocabulary.
      seed: of the split and of the evaluation prompts.
      nodes: N.
      edges: of every prompt, m.
      colors: how many there are.
      held_out: fraction of the problems kept for evaluation.

    Returns:
      The task.

    Raises:
      ValueError: for impossible values, naming the field and its value.
    """
    del tokenizer
    check_seed(seed)
    check_at_least("nodes", nodes, 2)
    check_at_most("nodes", nodes, 64)
    check_at_least("colors", colors, 2)
    check_at_most("colors", colors, 64)
    check_at_least("edges", edges, 1)
    check_fraction("held_out", held_out)
    check_at_most("edges", edges, nodes * (nodes - 1) // 2)
    task = ColoringTask(seed, nodes, edges, colors, held_out)
    task.check_problems("edges and held_out", f"{edges} and {held_out}")
    return task
