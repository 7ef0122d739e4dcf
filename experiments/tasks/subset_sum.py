"""Subset sum: choose some of the given numbers so that they add up to a target.

A prompt gives the target and the numbers, all different, in ascending order,

    TO target FROM n₁ … n_k

and an answer is the chosen numbers in ascending order, then EOS: `3 17 28 EOS` for 48.

    reward = 1  iff  the answer is an ascending selection of the prompt's numbers, their sum is the
                     target, and it ends with EOS; else 0

Imitation soon teaches to select, and hardly to add: from a warm start nearly all prompts have a
solve rate near that of a random selection, about 1%, so that rewards are sparse. Problems are drawn
by drawing an answer, so each can be solved. A problem (numbers, target) is held out by a hash of
it: training prompts and demonstrations never contain a held-out problem, evaluation prompts contain
nothing else.

Everything is traceable in JAX, seed and step included.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

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


class SubsetInputs(NamedTuple):
    """The verifier inputs: numbers i32 [P, k] in ascending order, target i32 [P]."""

    numbers: jax.Array
    target: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[],
    meta_fields=["seed", "numbers", "max_number", "min_chosen", "max_chosen", "held_out"],
)
@dataclasses.dataclass(frozen=True)
class SubsetSumTask(AnswerFirstTask):
    """Subset sum problems; made by `make`.

    Tokens: the numbers 0..M with M = max_chosen · max_number, then EOS, PAD, TO, FROM.
    """

    seed: int
    numbers: int
    max_number: int
    min_chosen: int
    max_chosen: int
    held_out: float

    @property
    def eos_id(self) -> int:
        """The token that ends an answer."""
        return self.max_chosen * self.max_number + 1

    @property
    def pad_id(self) -> int:
        """The token after the end."""
        return self.eos_id + 1

    @property
    def vocab_size(self) -> int:
        """Numbers, EOS, PAD and the words TO and FROM."""
        return self.eos_id + 4

    @property
    def max_prompt(self) -> int:
        """Every prompt has this length."""
        return self.numbers + 3

    @property
    def max_completion(self) -> int:
        """Tokens of the longest answer that counts, EOS included."""
        return self.numbers + 1

    @jit_by_count
    def demonstrations(
        self, seed: jax.Array | int, step: jax.Array | int, count: int
    ) -> Demonstrations:
        """Draws right answers: the selection comes first, the target is its sum.

            {n_i} ~ U(k different numbers of 1..max_number)
            L ~ U{min_chosen..max_chosen};   chosen ~ U(L of them);   target := Σ chosen

        redrawn until the problem is not held out.

        Args:
          seed: i32, may be traced.
          step: i32, may be traced.
          count: P, static.

        Returns:
          P demonstrations, tokens [P, max_completion].
        """
        keys = draw_keys(seed, DEMONSTRATIONS, step, count)
        verifier_inputs, chosen = jax.vmap(partial(self._draw_problem, False))(keys)
        length = jnp.sum(chosen, axis=1, keepdims=True)
        first = jnp.argsort(~chosen, axis=1, stable=True)  # the chosen ones, still in order
        tokens = jnp.take_along_axis(verifier_inputs.numbers, first, axis=1)
        tokens = jnp.pad(tokens, ((0, 0), (0, 1)))
        place = jnp.arange(self.max_completion)
        tokens = jnp.where(place < length, tokens, self.pad_id)
        tokens = jnp.where(place == length, self.eos_id, tokens)
        mask = (place <= length).astype(jnp.float32)
        return Demonstrations(self._prompts(verifier_inputs), tokens.astype(jnp.int32), mask)

    def verify(
        self, verifier_inputs: SubsetInputs, tokens: jax.Array, token_mask: jax.Array
    ) -> jax.Array:
        """Rewards answers: 1 for an ascending selection of the given numbers with the right sum.

        Args:
          verifier_inputs: of P prompts.
          tokens: i32 [P, G, T] answers.
          token_mask: [P, G, T], 1 up to and including the first EOS.

        Returns:
          f32 [P, G] of zeros and ones.
        """
        chosen = token_mask.astype(bool)
        is_eos = chosen & (tokens == self.eos_id)
        is_number = chosen & ~is_eos
        before = jnp.pad(tokens, ((0, 0), (0, 0), (1, 0)), constant_values=-1)[..., :-1]
        is_given = jnp.any(tokens[..., None] == verifier_inputs.numbers[:, None, None, :], axis=-1)
        valid = jnp.all(~is_number | (is_given & (tokens > before)), axis=-1)
        total = jnp.sum(jnp.where(is_number, tokens, 0), axis=-1)
        hits = total == verifier_inputs.target[:, None]
        return (valid & hits & jnp.any(is_eos, axis=-1)).astype(jnp.float32)

    def _prompts(self, verifier_inputs: SubsetInputs) -> Prompts:
        numbers, target = verifier_inputs
        to, from_ = self.pad_id + 1, self.pad_id + 2
        return fixed_length_prompts(to, target, from_, numbers, verifier_inputs=verifier_inputs)

    def _draw_answer(
        self, held_out: bool, key: jax.Array
    ) -> tuple[tuple[SubsetInputs, jax.Array], jax.Array]:
        number_key, length_key, choice_key = jax.random.split(key, 3)
        every = jnp.arange(1, self.max_number + 1, dtype=jnp.int32)
        numbers = jnp.sort(jax.random.permutation(number_key, every)[: self.numbers])
        length = jax.random.randint(length_key, (), self.min_chosen, self.max_chosen + 1)
        chosen = jax.random.permutation(choice_key, jnp.arange(self.numbers)) < length
        verifier_inputs = SubsetInputs(numbers, jnp.sum(jnp.where(chosen, numbers, 0)))
        in_split = is_held_out(self.held_out, self.seed, *numbers, verifier_inputs.target)
        return (verifier_inputs, chosen), in_split == held_out


def make(
    tokenizer: None = None,
    seed: int = 0,
    numbers: int = 8,
    max_number: int = 30,
    min_chosen: int = 2,
    max_chosen: int = 4,
    held_out: float = 0.2,
) -> SubsetSumTask:
    """Makes the task from a config's `task.kwargs`.

    Args:
      tokenizer: not used; the task has its own vocabulary.
      seed: of the split and of the evaluation prompts.
      numbers: how many are given, k.
      max_number: the largest given; the smallest is 1.
      min_chosen: fewest numbers of the answer that the target is drawn by.
      max_chosen: most of them; any number counts in an answer.
      held_out: fraction of the problems kept for evaluation.

    Returns:
      The task.

    Raises:
      ValueError: for impossible values, naming the field and its value.
    """
    del tokenizer
    check_seed(seed)
    check_at_least("numbers", numbers, 2)
    check_at_most("numbers", numbers, 64)
    check_at_least("max_number", max_number, numbers)
    check_at_most("max_number", max_number, 1024)
    check_at_least("min_chosen", min_chosen, 1)
    check_at_least("max_chosen", max_chosen, min_chosen)
    check_at_most("max_chosen", max_chosen, numbers)
    check_fraction("held_out", held_out)
    task = SubsetSumTask(seed, numbers, max_number, min_chosen, max_chosen, held_out)
    task.check_problems("held_out and numbers", f"{held_out} and {numbers}")
    return task
