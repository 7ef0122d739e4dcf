"""Countdown: reach a target with four given numbers and + - *, evaluated from left to right.

A prompt gives the target and the numbers in ascending order,

    TO target FROM n₁ n₂ n₃ n₄

and an answer puts all the numbers, each exactly once and in any order, between operators:
`7 - 2 * 5 + 1 EOS` is ((7 - 2) * 5) + 1 = 26: no operator binds tighter than another. (The
television game lets numbers go unused; the rule here is the usual one in work on RL.) On the way
the value may be negative or pass the target. Every number is one token.

    reward = 1  iff  the answer has this form, its numbers are the prompt's, its value is the
                     target, and it ends with EOS; else 0

Problems are drawn by drawing an answer, so each can be solved. A problem (sorted numbers, target)
is held out by a hash of it: training prompts and demonstrations never contain a held-out problem,
evaluation prompts contain nothing else.

Everything is traceable in JAX, seed and step included.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from experiments.tasks.base import (
    DEMONSTRATIONS,
    AnswerFirstTask,
    Demonstrations,
    Prompts,
    check_at_least,
    check_fraction,
    check_seed,
    draw_keys,
    fixed_length_prompts,
    is_held_out,
    jit_by_count,
)

_ADD, _SUBTRACT, _MULTIPLY = 0, 1, 2


class CountdownInputs(NamedTuple):
    """The verifier inputs: numbers i32 [P, n] in ascending order, target i32 [P]."""

    numbers: jax.Array
    target: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[],
    meta_fields=["seed", "numbers", "max_number", "max_target", "held_out"],
)
@dataclasses.dataclass(frozen=True)
class CountdownTask(AnswerFirstTask):
    """Countdown problems; made by `make`.

    Tokens: the numbers 0..M with M = max(max_number, max_target), then + - *, EOS, PAD, TO, FROM.
    """

    seed: int
    numbers: int
    max_number: int
    max_target: int
    held_out: float

    @property
    def first_operator(self) -> int:
        """The token of +, which those of - and * follow."""
        return max(self.max_number, self.max_target) + 1

    @property
    def eos_id(self) -> int:
        """The token that ends an answer."""
        return self.first_operator + 3

    @property
    def pad_id(self) -> int:
        """The token after the end."""
        return self.first_operator + 4

    @property
    def vocab_size(self) -> int:
        """Numbers, operators, EOS, PAD and the words TO and FROM."""
        return self.first_operator + 7

    @property
    def max_prompt(self) -> int:
        """Every prompt has this length."""
        return self.numbers + 3

    @property
    def max_completion(self) -> int:
        """Tokens of every right answer: numbers, operators between them, EOS."""
        return 2 * self.numbers

    @jit_by_count
    def demonstrations(
        self, seed: jax.Array | int, step: jax.Array | int, count: int
    ) -> Demonstrations:
        """Draws random right answers: the expression comes first, the target is its value.

            n_i ~ U{1..max_number};   ∘_i ~ U{+, -, *};   target := (… (n₁ ∘₁ n₂) …) ∘₃ n₄

        redrawn until the target lies in 1..max_target and the problem is not held out.

        Args:
          seed: i32, may be traced.
          step: i32, may be traced.
          count: P, static.

        Returns:
          P demonstrations, tokens [P, max_completion].
        """
        keys = draw_keys(seed, DEMONSTRATIONS, step, count)
        draw = jax.vmap(partial(self._draw_problem, False))
        verifier_inputs, numbers, operators = draw(keys)
        end = jnp.full((count, 1), self.eos_id, jnp.int32)
        operators = jnp.concatenate([operators + self.first_operator, end], axis=1)
        tokens = jnp.stack([numbers, operators], axis=2).reshape(count, self.max_completion)
        return Demonstrations(
            self._prompts(verifier_inputs), tokens, jnp.ones(tokens.shape, jnp.float32)
        )

    def verify(
        self, verifier_inputs: CountdownInputs, tokens: jax.Array, token_mask: jax.Array
    ) -> jax.Array:
        """Rewards answers: 1 for an expression of exactly the given numbers with the right value.

        Args:
          verifier_inputs: of P prompts.
          tokens: i32 [P, G, T] answers, T at least max_completion.
          token_mask: [P, G, T], 1 up to and including the first EOS.

        Returns:
          f32 [P, G] of zeros and ones.
        """
        chex.assert_axis_dimension_gteq(tokens, -1, self.max_completion)
        last = self.max_completion - 1
        numbers = tokens[..., 0:last:2]
        operators = tokens[..., 1:last:2] - self.first_operator
        ends = (tokens[..., last] == self.eos_id) & token_mask[..., last].astype(bool)
        operates = jnp.all((operators >= 0) & (operators < 3), axis=-1)
        given = jnp.all(jnp.sort(numbers, axis=-1) == verifier_inputs.numbers[:, None, :], axis=-1)
        hits = _left_to_right(numbers, operators) == verifier_inputs.target[:, None]
        return (ends & operates & given & hits).astype(jnp.float32)

    def _prompts(self, verifier_inputs: CountdownInputs) -> Prompts:
        numbers, target = verifier_inputs
        to, from_ = self.pad_id + 1, self.pad_id + 2
        return fixed_length_prompts(to, target, from_, numbers, verifier_inputs=verifier_inputs)

    def _draw_answer(
        self, held_out: bool, key: jax.Array
    ) -> tuple[tuple[CountdownInputs, jax.Array, jax.Array], jax.Array]:
        number_key, operator_key = jax.random.split(key)
        numbers = jax.random.randint(number_key, (self.numbers,), 1, self.max_number + 1)
        operators = jax.random.randint(operator_key, (self.numbers - 1,), 0, 3)
        target = _left_to_right(numbers, operators)
        verifier_inputs = CountdownInputs(jnp.sort(numbers), target)
        in_range = (target >= 1) & (target <= self.max_target)
        in_split = (
            is_held_out(self.held_out, self.seed, *verifier_inputs.numbers, target) == held_out
        )
        return (verifier_inputs, numbers, operators), in_range & in_split


def make(
    tokenizer: None = None,
    seed: int = 0,
    numbers: int = 4,
    max_number: int = 10,
    max_target: int = 50,
    held_out: float = 0.2,
) -> CountdownTask:
    """Makes the task from a config's `task.kwargs`.

    Args:
      tokenizer: not used; the task has its own vocabulary.
      seed: of the split and of the evaluation prompts.
      numbers: how many are given, n.
      max_number: the largest given; the smallest is 1.
      max_target: the largest target; the smallest is 1.
      held_out: fraction of the problems kept for evaluation.

    Returns:
      The task.

    Raises:
      ValueError: for impossible values, naming the field and its value.
    """
    del tokenizer
    check_seed(seed)
    check_at_least("numbers", numbers, 2)
    check_at_least("max_number", max_number, 2)
    check_at_least("max_target", max_target, 1)
    check_fraction("held_out", held_out)
    if numbers > 31 or max_number**numbers >= 2**31:
        raise ValueError(
            f"max_number must keep every product of {numbers} numbers below 2^31, got {max_number}"
        )
    task = CountdownTask(seed, numbers, max_number, max_target, held_out)
    task.check_problems("held_out and max_target", f"{held_out} and {max_target}")
    return task


def _left_to_right(numbers: jax.Array, operators: jax.Array) -> jax.Array:
    """Evaluates (… (n₁ ∘₁ n₂) ∘₂ …) ∘ₙ₋₁ nₙ.

    Args:
      numbers: i32 [..., n].
      operators: i32 [..., n-1]; 0 adds, 1 subtracts, 2 multiplies.

    Returns:
      i32 [...]; meaningless where an operator is none of the three.
    """
    value = numbers[..., 0]
    for i in range(operators.shape[-1]):
        number, operator = numbers[..., i + 1], operators[..., i]
        value = jnp.select(
            [operator == _ADD, operator == _SUBTRACT, operator == _MULTIPLY],
            [value + number, value - number, value * number],
            value,
        )
    return value
