r"""Puzzles of the library Reasoning Gym (arXiv 2505.24760): a hundred generators with scorers.

    config.task.name = "reasoning_gym"
    config.task.kwargs = {"generator": "leg_counting", "arguments": {"max_animals": 5}}

Needs the package reasoning-gym: pip install '.[reasoning_gym]'.
"""

import functools
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from experiments.tasks.answers import stated_answer
from experiments.tasks.base import check_at_least, check_at_most, check_seed, eos_ids
from experiments.tasks.chats import prompt_style
from experiments.tasks.problems import BOXED
from experiments.tasks.text_task import Problem, TextTask, require_tokenizer, text_task
from experiments.tasks.verdict import Verdict

ANSWERS = ("stated", "whole")
_MOST = 2**20  # problems; the library seeds problem i by seed + i


def make(
    tokenizer: Any,
    generator: str = "leg_counting",
    arguments: Mapping = MappingProxyType({}),
    size: int = 1000,
    evaluation_size: int = 256,
    answer: str = "stated",
    solved_at: float = 1.0,
    system: str = BOXED,
    template: str = "chat",
    template_kwargs: Mapping = MappingProxyType({}),
    seed: int = 0,
    max_prompt: int = 512,
    max_completion: int = 512,
) -> TextTask:
    r"""Makes the task from a config's `task.kwargs`: generates the problems.

    Args:
      tokenizer: encode, decode, eos_id, pad_id, vocab_size; for a chat see chats.Chat.
      generator: a name of reasoning_gym.factory.DATASETS.
      arguments: of the generator, without its seed and size.
      size: problems to train on, less those that repeat.
      evaluation_size: likewise, by another seed; questions of these are not trained on.
      answer: "stated", in `\boxed{}`, after `####` or after "the answer is", if there is one, or
        "whole": the completion.
      solved_at: the least reward that counts as solved in an evaluation; some scorers give a part
        of 1 to answers that are nearly right.
      system: the system prompt of a chat; "" for none.
      template: "chat", by the model's own chat template, or "plain".
      template_kwargs: variables of the model's template.
      seed: of the problems, and of the order of the evaluation prompts.
      max_prompt: tokens of the longest prompt kept.
      max_completion: tokens of the longest answer that counts, EOS included.

    Raises:
      ValueError: for impossible values, naming the field and its value, or without the library.
    """
    require_tokenizer(tokenizer, "reasoning_gym")
    check_seed(seed)
    for name, value in (("size", size), ("evaluation_size", evaluation_size)):
        check_at_least(name, value, 1)
        check_at_most(name, value, _MOST)
    check_at_least("max_completion", max_completion, 2)
    if answer not in ANSWERS:
        raise ValueError(f"answer must be one of {', '.join(ANSWERS)}, got {answer!r}")
    if not 0 < solved_at <= 1:
        raise ValueError(f"solved_at must lie in (0, 1], got {solved_at}")
    style = prompt_style(tokenizer, template, system, template_kwargs)
    given = _as_text(arguments)
    seen: set[str] = set()
    held_out, repeats = _entries(generator, given, (seed + 2**30) % 2**31, evaluation_size, seen)
    training, seen_before = _entries(generator, given, seed, size, seen)
    if not training:
        raise ValueError(
            f"generator {generator!r} has no question that is not evaluated, with size = {size}"
            f" and evaluation_size = {evaluation_size}"
        )

    def problem(entry: dict[str, Any]) -> Problem:
        right = entry["answer"]
        shown = rf"\boxed{{{right}}}" if answer == "stated" else right
        question = entry["question"]
        return Problem(style.prompt(question), entry, right and shown)

    return text_task(
        tokenizer,
        train=[[problem(entry) for entry in training]],
        evaluation=[[problem(entry) for entry in held_out]],
        pattern=(0,),
        evaluation_pattern=(0,),
        score=Score(generator, given, answer),
        eos_id=style.eos_id,
        eos_ids=eos_ids(tokenizer),
        max_prompt=max_prompt,
        max_completion=max_completion,
        seed=seed,
        dropped={
            "training problems that repeat or are evaluated": seen_before,
            "evaluation problems that repeat": repeats,
        },
        solved_at=solved_at,
    )


class Score:
    """Scores a completion by the generator's own score_answer; sent to processes by its names."""

    def __init__(self, generator: str, arguments: str, answer: str):
        """Opens the generator, so that its import is no part of a check.

        Args:
          generator: its name.
          arguments: of the generator, as JSON.
          answer: "stated" or "whole"; see `make`.
        """
        self._names = generator, arguments, answer
        self._data = _data_set(generator, arguments, seed=0, size=1)

    def __reduce__(self):
        return Score, self._names

    def __call__(self, completion: str, entry: dict[str, Any]) -> Verdict:
        """Returns the verdict of a completion, given the entry of its problem."""
        stated = stated_answer(completion) if self._names[2] == "stated" else None
        found = (completion if stated is None else stated).strip()
        if not found:
            return Verdict(0.0, "no answer")
        reward = float(self._data.score_answer(found, entry))
        return Verdict(reward, "right" if reward >= 1 else "wrong", f"answer: {found[:200]}")


def _as_text(arguments: Mapping) -> str:
    try:
        return json.dumps(dict(arguments), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"arguments must be plain values by name, got {arguments!r}") from error


@functools.cache
def _data_set(generator: str, arguments: str, seed: int, size: int) -> Any:
    try:
        from reasoning_gym.factory import (  # type: ignore[import-not-found]
            DATASETS,
            create_dataset,
        )
    except ImportError as error:
        raise ValueError(
            "task.name = 'reasoning_gym' needs the package reasoning-gym:"
            f" pip install '.[reasoning_gym]' ({error})"
        ) from error
    if generator not in DATASETS:
        raise ValueError(
            f"generator must be one of {', '.join(sorted(DATASETS))}, got {generator!r}"
        )
    given = json.loads(arguments)
    if taken := sorted({"seed", "size"} & given.keys()):
        raise ValueError(f"arguments must not have {taken[0]}, which is a field of the task")
    try:
        return create_dataset(generator, **given, seed=seed, size=size)
    except Exception as error:  # it checks by assertions, among others
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"arguments of {generator!r} must be such that it starts, got {given}: {text}"
        ) from error


def _entries(
    generator: str, arguments: str, seed: int, size: int, seen: set[str]
) -> tuple[list[dict[str, Any]], int]:
    """Returns the entries whose questions are not in `seen`, and how many others there are."""
    data, entries = _data_set(generator, arguments, seed, size), []
    for i in range(size):
        entry = data[i]
        if entry["question"] not in seen:
            seen.add(entry["question"])
            entries.append(entry)
    return entries, size - len(entries)
