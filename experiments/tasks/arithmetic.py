"""Arithmetic in plain text: four worked lines, then a problem whose line is to be finished.

    3 + 4 = 7
    58 + 27 = 85
    81 - 36 = 45
    23 x 4 = 92
    46 + 35 =

The answer is a few digits and a newline, which ends the completion, and is checked exactly. A
quarter each of the problems are one digit with one digit (+ - x), two digits + two digits, two
digits - two digits, and two digits x one digit; no result is negative. (Spaces cost nine tokens of
a prompt and are worth it: without them SmolLM2-135M-Instruct solves about half as many.)

A problem is held out by a hash of it (a + b and b + a together); the four worked lines are the same
in every prompt and are neither trained on nor evaluated.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.tasks.base import check_at_least, check_fraction, check_seed, eos_ids, is_held_out
from experiments.tasks.text_task import Problem, TextTask, newline_id, require_tokenizer, text_task


class Operation(NamedTuple):
    """The problem `left ∘ right`, with ∘ one of + - x."""

    left: int
    symbol: str
    right: int

    @property
    def question(self) -> str:
        """The problem as text, up to its answer."""
        return f"{self.left} {self.symbol} {self.right} ="

    @property
    def result(self) -> int:
        """The value."""
        match self.symbol:
            case "+":
                return self.left + self.right
            case "-":
                return self.left - self.right
        return self.left * self.right

    @property
    def name(self) -> tuple[int, int, int]:
        """The same three integers for a problem and its mirror image."""
        pair = (self.left, self.right)
        if self.symbol != "-":
            pair = tuple(sorted(pair))
        return (pair[0], "+-x".index(self.symbol), pair[1])


SHOTS = (
    Operation(3, "+", 4),
    Operation(58, "+", 27),
    Operation(81, "-", 36),
    Operation(23, "x", 4),
)


def score(text: str, answer: float) -> float:
    """1 if the text is the answer's digits and nothing but spaces around them, else 0."""
    return float(text.strip(" ") == str(int(answer)))


def make(
    tokenizer: Any, seed: int = 0, max_completion: int = 6, held_out: float = 0.25
) -> TextTask:
    """Makes the task from a config's `task.kwargs`: enumerates all problems.

    Args:
      tokenizer: encode, decode, eos_id, pad_id, vocab_size; one token for a newline.
      seed: of the split and of the order of the evaluation prompts.
      max_completion: tokens of the longest answer that counts, newline included.
      held_out: fraction of the problems kept for evaluation.

    Returns:
      The task.

    Raises:
      ValueError: for impossible values, naming the field and its value.
    """
    require_tokenizer(tokenizer, "arithmetic")
    check_seed(seed)
    check_at_least("max_completion", max_completion, 5)
    check_fraction("held_out", held_out)
    shots = "".join(f"{shot.question} {shot.result}\n" for shot in SHOTS)
    reserved = {shot.name for shot in SHOTS}
    train, evaluation = [], []
    for kind in _kinds():
        usable = [operation for operation in kind if operation.name not in reserved]
        names = np.array([operation.name for operation in usable], np.int32)
        marks = is_held_out(held_out, seed, *names.T).tolist()
        problems = [
            Problem(shots + operation.question, operation.result, f" {operation.result}")
            for operation in usable
        ]
        train.append([problem for problem, mark in zip(problems, marks) if not mark])
        evaluation.append([problem for problem, mark in zip(problems, marks) if mark])
    return text_task(
        tokenizer,
        train=train,
        evaluation=evaluation,
        pattern=(0, 1, 2, 3),
        evaluation_pattern=(0, 1, 2, 3),
        score=score,
        eos_id=newline_id(tokenizer),
        eos_ids=eos_ids(tokenizer),
        max_prompt=len(tokenizer.encode(shots)) + 32,
        max_completion=max_completion,
        seed=seed,
        dropped={},
    )


def _kinds() -> Iterator[list[Operation]]:
    one, two = range(10), range(10, 100)
    yield [
        Operation(a, symbol, b)
        for symbol in "+-x"
        for a in one
        for b in one
        if symbol != "-" or a >= b
    ]
    yield [Operation(a, "+", b) for a in two for b in two]
    yield [Operation(a, "-", b) for a in two for b in two if a >= b]
    yield [Operation(a, "x", b) for a in two for b in range(2, 10)]
