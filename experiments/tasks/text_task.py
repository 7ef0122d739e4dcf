"""Text tasks: tokenized questions, answered in words or programs, verified on the host."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from experiments.tasks.base import Demonstrations, Prompts, check_at_most
from experiments.tasks.check_processes import CheckProcesses, Score
from experiments.tasks.questions import draws, one_epoch
from experiments.tasks.verdict import Checker
from experiments.tasks.verifier import Verifier

# Stream ids: train, eval and demonstration order differ.
_TRAIN, _EVAL, _DEMONSTRATIONS = 0, 1, 2


class Problem(NamedTuple):
    """A prompt, its answer, and a completion to imitate (without EOS; None if there is none).

    The prompt is a text, or token ids: of a chat, say (`tokenizer.encode_chat`). The answer is a
    number, or whatever else the checker of the task needs.
    """

    prompt: str | Sequence[int]
    answer: Any
    demonstration: str | None


class Encoded(NamedTuple):
    """Problems of one kind as arrays.

    tokens: i32 [N, S], right-padded.
    length: i32 [N].
    answer: f64 [N] where all answers are numbers, else objects [N].
    demonstration: i32 [N, T], EOS included, right-padded; all padding where there is none.
    demonstration_length: i32 [N], 0 where there is none.
    """

    tokens: np.ndarray
    length: np.ndarray
    answer: np.ndarray
    demonstration: np.ndarray
    demonstration_length: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TextTask:
    """Problems in words; made by `text_task`.

    tokenizer: encode, decode, eos_id, pad_id, vocab_size.
    train, demonstrated, evaluation: problems by kind.
    pattern: the kinds of consecutive training problems; evaluation_pattern likewise.
    open_checker: (workers, timeout_seconds) -> what scores completions; the caller closes it.
    eos_id: ends a demonstration; a newline for tasks with one-line answers.
    eos_ids: the tokens that end a completion, `eos_id` among them.
    max_prompt: tokens of the longest prompt.
    max_completion: tokens of the longest answer that counts, EOS included.
    seed: of the order of the evaluation prompts.
    dropped: how many problems were left out, by reason.
    solved_at: the least reward that counts as solved in an evaluation.
    """

    tokenizer: Any
    train: tuple[Encoded, ...]
    demonstrated: tuple[Encoded, ...]
    evaluation: tuple[Encoded, ...]
    pattern: tuple[int, ...]
    evaluation_pattern: tuple[int, ...]
    open_checker: Callable[[int, float], Checker]
    eos_id: int
    eos_ids: tuple[int, ...]
    max_prompt: int
    max_completion: int
    seed: int
    dropped: dict[str, int]
    solved_at: float = 1.0

    on_device: ClassVar[bool] = False

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer."""
        return self.tokenizer.vocab_size

    @property
    def pad_id(self) -> int:
        """Of the tokenizer."""
        return self.tokenizer.pad_id

    @property
    def num_prompts(self) -> int:
        """Number of training prompts."""
        return sum(_sizes(self.train))

    def describe(self) -> str:
        """Returns one line for people: how many problems there are, and what was left out."""
        train, held = self.num_prompts, sum(_sizes(self.evaluation))
        out = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        kept = f"{train} problems to train on, {held} held out"
        return f"{kept}; left out: {out}" if out else kept

    def train_prompts(self, seed: int, step: int, count: int) -> Prompts:
        """Returns the training prompts of one step, drawn in epochs without replacement.

        Args:
          seed: of the order.
          step: counts from 0; epochs are whole if every step has the same `count`.
          count: P.

        Returns:
          P prompts as numpy arrays; verifier_inputs are the answers [P].
        """
        sizes = _sizes(self.train)
        first = np.cumsum((0, *sizes))
        drawn = _drawn(sizes, self.pattern, seed, _TRAIN, step * count, count)
        return self.prompts_at([first[kind] + i for kind, i in drawn])

    def prompts_at(self, index: Sequence[int] | np.ndarray) -> Prompts:
        """Returns training prompts by their index.

        Args:
          index: [P], in 0..num_prompts-1; the kinds come one after another.
        """
        index, first = np.asarray(index, np.int32), np.cumsum((0, *_sizes(self.train)))
        kinds = np.searchsorted(first, index, side="right") - 1
        rows = _take(self.train, list(zip(kinds.tolist(), (index - first[kinds]).tolist())))
        return _prompts(rows)._replace(index=index)

    def eval_prompts(self, count: int) -> Prompts:
        """Returns the first `count` prompts of the fixed evaluation order, without repeats.

        Raises:
          ValueError: if there are fewer.
        """
        most = one_epoch(_sizes(self.evaluation), self.evaluation_pattern)
        if count > most:
            raise ValueError(
                f"config.evaluation.prompts must be at most {most} for this task, got {count}"
            )
        pattern = self.evaluation_pattern
        return _prompts(_pick(self.evaluation, pattern, self.seed, _EVAL, 0, count))

    def demonstrations(self, seed: int, step: int, count: int) -> Demonstrations:
        """Returns training problems with their worked answers, drawn in epochs.

        Args:
          seed: of the order.
          step: counts from 0.
          count: P.

        Returns:
          P demonstrations as numpy arrays, tokens [P, max_completion].

        Raises:
          ValueError: if every worked answer of a kind is longer than max_completion.
        """
        if any(len(kind.length) == 0 for kind in self.demonstrated):
            raise ValueError(f"max_completion keeps no demonstration, got {self.max_completion}")
        rows = _pick(self.demonstrated, self.pattern, seed, _DEMONSTRATIONS, step * count, count)
        mask = np.arange(self.max_completion) < rows.demonstration_length[:, None]
        return Demonstrations(_prompts(rows), rows.demonstration, mask.astype(np.float32))

    def decoded(
        self, tokens: np.ndarray, token_mask: np.ndarray
    ) -> tuple[list[list[str]], np.ndarray]:
        """Decodes completions; see `decode_completions`."""
        return decode_completions(self.tokenizer, self.eos_ids, tokens, token_mask)

    def texts(self, tokens: np.ndarray, token_mask: np.ndarray) -> list[list[str | None]]:
        """Decodes completions, as `decoded` does, but with None for one without EOS.

        A completion that was cut off may be the beginning of another answer.
        """
        texts, ended = self.decoded(tokens, token_mask)
        return [
            [text if ok else None for text, ok in zip(*pair)] for pair in zip(texts, ended.tolist())
        ]

    def verify(self, verifier_inputs: Any, tokens: Any, token_mask: Any) -> np.ndarray:
        """Scores completions with a checker of its own; see verifier.Verifier.

        Args:
          verifier_inputs: [P], the answers.
          tokens: i32 [P, G, T].
          token_mask: [P, G, T].

        Returns:
          f32 [P, G].
        """
        with closing(Verifier(self)) as verifier:
            return verifier.verify(verifier_inputs, tokens, token_mask).rewards


def text_task(
    tokenizer: Any,
    *,
    train: Sequence[Sequence[Problem]],
    evaluation: Sequence[Sequence[Problem]],
    pattern: tuple[int, ...],
    evaluation_pattern: tuple[int, ...],
    eos_id: int,
    max_prompt: int,
    max_completion: int,
    seed: int,
    dropped: dict[str, int],
    score: Score | None = None,
    open_checker: Callable[[int, float], Checker] | None = None,
    eos_ids: Sequence[int] = (),
    solved_at: float = 1.0,
) -> TextTask:
    """Encodes problems, leaving out those that are too long, and says how many.

    A problem whose prompt exceeds max_prompt is left out; one whose demonstration exceeds
    max_completion is still trained on, but not demonstrated.

    Args:
      tokenizer: encode, decode, eos_id, pad_id, vocab_size.
      train: training problems by kind.
      evaluation: evaluation problems by kind.
      pattern: the kinds of consecutive training problems.
      evaluation_pattern: the kinds of consecutive evaluation problems.
      score: (text, answer) -> reward in [0, 1] or Verdict, a function of a module, so that
        processes find it.
      open_checker: in place of `score`: (workers, timeout_seconds) -> Checker.
      eos_id: ends a demonstration, and a completion.
      max_prompt: tokens of the longest prompt kept.
      max_completion: tokens of the longest completion, EOS included.
      seed: of the order of the evaluation prompts.
      dropped: what the caller left out, by reason.
      eos_ids: further tokens that end a completion.
      solved_at: the least reward that counts as solved in an evaluation.

    Returns:
      The task; its max_prompt is the longest prompt kept.

    Raises:
      ValueError: if a kind keeps no problem.
    """
    dropped = dict(dropped)
    if (score is None) == (open_checker is None):
        raise ValueError("a text task needs either a score or a checker")

    check_at_most("max_completion", max_completion, 2**17)

    def ids(prompt: str | Sequence[int]) -> list[int]:
        return tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def keep(name: str, problems: Sequence[Problem]) -> list[tuple[list[int], Problem]]:
        rows = [(ids(problem.prompt), problem) for problem in problems]
        kept = [(tokens, problem) for tokens, problem in rows if len(tokens) <= max_prompt]
        reason = f"{name} prompts over {max_prompt} tokens"
        dropped[reason] = dropped.get(reason, 0) + len(rows) - len(kept)
        if not kept:
            raise ValueError(
                f"max_prompt keeps none of {len(rows)} {name} prompts, got {max_prompt}; "
                f"the shortest has {min((len(tokens) for tokens, _ in rows), default=0)} tokens"
            )
        return kept

    kept_train = [keep("training", kind) for kind in train]
    kept_evaluation = [keep("evaluation", kind) for kind in evaluation]
    width = max(len(tokens) for kind in kept_train + kept_evaluation for tokens, _ in kind)

    def encode(rows: list[tuple[list[int], Problem]], demonstrations: list[list[int]]) -> Encoded:
        answers = _column([problem.answer for _, problem in rows])
        prompts, lengths = _padded([tokens for tokens, _ in rows], width, tokenizer.pad_id)
        demonstrated = _padded(demonstrations, max_completion, tokenizer.pad_id)
        return Encoded(prompts, lengths, answers, *demonstrated)

    def encode_demonstrated(rows: list[tuple[list[int], Problem]]) -> Encoded:
        pairs = [
            ((tokens, problem), [*tokenizer.encode(problem.demonstration), eos_id])
            for tokens, problem in rows
            if problem.demonstration is not None
        ]
        fits = [pair for pair in pairs if len(pair[1]) <= max_completion]
        reason = f"demonstrations over {max_completion} tokens"
        dropped[reason] = dropped.get(reason, 0) + len(pairs) - len(fits)
        return encode([row for row, _ in fits], [demonstration for _, demonstration in fits])

    task = TextTask(
        tokenizer=tokenizer,
        train=tuple(encode(rows, [[]] * len(rows)) for rows in kept_train),
        demonstrated=tuple(encode_demonstrated(rows) for rows in kept_train),
        evaluation=tuple(encode(rows, [[]] * len(rows)) for rows in kept_evaluation),
        pattern=pattern,
        evaluation_pattern=evaluation_pattern,
        open_checker=open_checker or partial(_processes, cast("Score", score)),
        eos_id=eos_id,
        eos_ids=(*dict.fromkeys((eos_id, *eos_ids)),),
        max_prompt=width,
        max_completion=max_completion,
        seed=seed,
        dropped={reason: count for reason, count in dropped.items() if count},
        solved_at=solved_at,
    )
    for reason, count in task.dropped.items():
        logging.getLogger(__name__).info("left out: %d %s", count, reason)
    return task


def decode_completions(
    tokenizer: Any, end_ids: Sequence[int], tokens: np.ndarray, token_mask: np.ndarray
) -> tuple[list[list[str]], np.ndarray]:
    """Decodes completions.

    Args:
      tokenizer: decode.
      end_ids: the tokens that end a completion.
      tokens: i32 [P, G, T].
      token_mask: [P, G, T], 1 up to and including the first EOS.

    Returns:
      [P][G] texts without their EOS, and bool [P, G], whether they have one.
    """
    tokens, token_mask = np.asarray(tokens), np.asarray(token_mask, bool)
    length = token_mask.sum(axis=-1)
    last = np.take_along_axis(tokens, np.maximum(length, 1)[..., None] - 1, axis=-1)[..., 0]
    ended = np.isin(last, end_ids) & (length > 0)
    texts = [
        [tokenizer.decode(row[:end].tolist()) for row, end in zip(group, ends)]
        for group, ends in zip(tokens, length - ended)
    ]
    return texts, ended


def require_tokenizer(tokenizer: Any, name: str) -> None:
    """Raises ValueError if there is no tokenizer."""
    if tokenizer is None:
        raise ValueError(f"task.name = {name!r} needs a model with a tokenizer: set model.path")


def newline_id(tokenizer: Any) -> int:
    """Returns the token of a newline, which ends one-line answers.

    Raises:
      ValueError: if the tokenizer has no single token for it.
    """
    tokens = tokenizer.encode("\n")
    if len(tokens) != 1:
        raise ValueError(f"the tokenizer must have one token for a newline, got {tokens}")
    return tokens[0]


def _processes(score: Score, workers: int, timeout_seconds: float) -> CheckProcesses:
    return CheckProcesses(score, workers=workers, timeout_seconds=timeout_seconds)


def _column(answers: Sequence[Any]) -> np.ndarray:
    if all(isinstance(answer, (int, float)) for answer in answers):
        return np.array(answers, np.float64)
    column = np.empty(len(answers), object)
    for i, answer in enumerate(answers):  # an answer may itself be a sequence
        column[i] = answer
    return column


def _padded(rows: list[list[int]], width: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.full((len(rows), width), pad_id, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return tokens, np.array([len(row) for row in rows], np.int32)


def _sizes(kinds: tuple[Encoded, ...]) -> tuple[int, ...]:
    return tuple(len(kind.length) for kind in kinds)


def _drawn(
    sizes: tuple[int, ...], pattern: tuple[int, ...], seed: int, stream: int, start: int, count: int
) -> list[tuple[int, int]]:
    order = np.random.SeedSequence([seed, stream]).generate_state(1)[0]
    return draws(int(order), sizes, pattern, start, count)


def _pick(kinds: tuple[Encoded, ...], pattern: tuple[int, ...], *order: int) -> Encoded:
    """The problems of (seed, stream, start, count)."""
    return _take(kinds, _drawn(_sizes(kinds), pattern, *order))


def _take(kinds: tuple[Encoded, ...], drawn: Sequence[tuple[int, int]]) -> Encoded:
    rows = [Encoded(*(field[i] for field in kinds[kind])) for kind, i in drawn]
    tokens, length, answers, demonstration, demonstration_length = zip(*rows)
    return Encoded(
        np.stack(tokens),
        np.stack(length),
        _column(answers),
        np.stack(demonstration),
        np.stack(demonstration_length),
    )


def _prompts(rows: Encoded) -> Prompts:
    return Prompts(rows.tokens, rows.length, rows.answer)
