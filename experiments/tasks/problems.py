r"""Anyone's problems: JSON lines with any fields, and rewards by name or import path.

    config.task.name = "problems"
    config.task.kwargs = {
        "path": "mine.jsonl",
        "prompt": "{question} Put the answer in \\boxed{{}}.",
        "rewards": (("math", 0.9), ("my_rewards.brief", 0.1)),
    }

On the command line:

    --config.task.name=problems
    --config.task.kwargs="{'path': 'mine.jsonl', 'prompt': '{question}', 'reward': 'math'}"

A row's fields fill the prompt. A reward is one of rewards.REWARDS, which compares with the field
named by `answer`, or the import path of a function (completion: str, row: dict) -> float in [0, 1].
"""

import functools
import hashlib
import math
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments.tasks.base import check_at_least, check_fraction, check_seed, eos_ids
from experiments.tasks.chats import prompt_style
from experiments.tasks.questions import drop_repeats, json_objects, normalize
from experiments.tasks.rewards import REWARDS, check_rewards, open_row_checker
from experiments.tasks.text_task import Problem, TextTask, require_tokenizer, text_task

BOXED = r"Reason step by step, and put the final answer in \boxed{}."


def make(
    tokenizer: Any,
    path: str = "",
    evaluation_path: str = "",
    prompt: str = "{question}",
    answer: str = "answer",
    demonstration: str = "",
    reward: str = "",
    rewards: Mapping[str, float] | Sequence[tuple[str, float]] | None = None,
    solved_at: float = 1.0,
    system: str = BOXED,
    template: str = "chat",
    template_kwargs: Mapping = MappingProxyType({}),
    held_out: float = 0.1,
    seed: int = 0,
    max_prompt: int = 512,
    max_completion: int = 512,
) -> TextTask:
    """Makes the task from a config's `task.kwargs`: reads the problems.

    Args:
      tokenizer: encode, decode, eos_id, pad_id, vocab_size; for a chat see chats.Chat.
      path: JSON lines, .jsonl or .jsonl.gz.
      evaluation_path: likewise; if empty, a fraction of the problems of `path` is held out.
      prompt: a format string over the fields of a row.
      answer: the field that holds the right answer; "" where no reward reads one.
      demonstration: a field with a completion to imitate in the warm start; "" for none.
      reward: a reward by name or import path; "math" if there are no `rewards` either.
      rewards: in its place, several: (name, weight) of each. Every one has processes of its own.
      solved_at: the least reward that counts as solved in an evaluation.
      system: the system prompt of a chat; "" for none.
      template: "chat", by the model's own chat template, or "plain".
      template_kwargs: variables of the model's template, such as {"enable_thinking": False}.
      held_out: fraction of the problems, chosen by the hash of their prompts.
      seed: of the order of the evaluation prompts.
      max_prompt: tokens of the longest prompt kept.
      max_completion: tokens of the longest answer that counts, EOS included.

    Raises:
      ValueError: for impossible values, naming the field and its value.
      FileNotFoundError: naming the path and the config field.
    """
    require_tokenizer(tokenizer, "problems")
    check_seed(seed)
    check_fraction("held_out", held_out)
    check_at_least("max_completion", max_completion, 2)
    if not 0 < solved_at <= 1:
        raise ValueError(f"solved_at must lie in (0, 1], got {solved_at}")
    if reward and rewards is not None:
        raise ValueError(f"reward must be empty where there are rewards, got {reward!r}")
    weights = check_rewards({reward or "math": 1.0} if rewards is None else rewards)
    style = prompt_style(tokenizer, template, system, template_kwargs)
    compared = [name for name in weights if name in REWARDS]

    def read(path: str, argument: str) -> tuple[list[tuple[str, dict[str, Any]]], int]:
        needed = {answer} if compared else set()
        rows = filled_rows(path, argument, prompt, needed | {demonstration} - {""})
        kept = [(text, row) for text, row, place in rows if check_answer(row, place)]
        return kept, len(rows) - len(kept)

    def check_answer(row: dict[str, Any], place: str) -> bool:
        """Tells whether there is an answer, and refuses one that no reward can read."""
        value = row[answer] if compared else True
        if value is None or value == "":
            return False
        if {"number", "integer"} & {*compared} and not _is_number(value):
            raise ValueError(f"{place}: {answer} must be a number, got {str(value)[:100]!r}")
        return True

    rows, unanswered = read(path, "path")
    if evaluation_path:
        train = rows
        held, more = read(evaluation_path, "evaluation_path")
        unanswered += more
    else:
        held = [(text, row) for text, row in rows if is_held_out(text, held_out)]
        train = [(text, row) for text, row in rows if not is_held_out(text, held_out)]
        if not held or not train:
            raise ValueError(
                f"held_out must leave problems on both sides, got {held_out} of {len(rows)}"
            )
    seen: set[str] = set()
    evaluation, repeats = drop_repeats(held, seen)
    training, seen_before = drop_repeats(train, seen)
    if not training:
        raise ValueError(f"path must have problems that evaluation_path has not, got {path!r}")

    def problem(text: str, row: dict[str, Any]) -> Problem:
        imitated = str(row[demonstration]) if demonstration else None
        return Problem(style.prompt(text), row, imitated)

    return text_task(
        tokenizer,
        train=[[problem(*pair) for pair in training]],
        evaluation=[[problem(*pair) for pair in evaluation]],
        pattern=(0,),
        evaluation_pattern=(0,),
        open_checker=functools.partial(open_row_checker, weights, answer, solved_at),
        eos_id=style.eos_id,
        eos_ids=eos_ids(tokenizer),
        max_prompt=max_prompt,
        max_completion=max_completion,
        seed=seed,
        dropped={
            "problems without an answer": unanswered,
            "training problems that repeat or are evaluated": seen_before,
            "evaluation problems that repeat": repeats,
        },
        solved_at=solved_at,
    )


def filled_rows(
    path: str, argument: str, prompt: str, needed: set[str]
) -> list[tuple[str, dict[str, Any], str]]:
    """Reads JSON lines, and fills a prompt with the fields of each.

    Args:
      path: .jsonl or .jsonl.gz.
      argument: of the config that named it.
      prompt: a format string over the names of fields alone: "{question}".
      needed: further fields of every row.

    Returns:
      (prompt, row, place) of each line.

    Raises:
      ValueError, FileNotFoundError: naming the file, the line and the field.
    """
    names = prompt_fields(prompt)
    file = Path(path).expanduser()
    if not path or not file.is_file():
        raise FileNotFoundError(f"config.task.kwargs.{argument} must be a file, got {path!r}")
    rows = []
    for place, row in json_objects(file):
        if missing := sorted((names | needed) - row.keys()):
            found = ", ".join(row)[:200]
            raise ValueError(f"{place} must have the field {missing[0]!r}, got {found}")
        if empty := sorted(name for name in names if row[name] is None):
            raise ValueError(f"{place}: {empty[0]} must have a value for the prompt, got None")
        try:
            rows.append((prompt.format_map(row), row, place))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{place} does not fill prompt = {prompt!r}: {error}") from error
    return rows


def prompt_fields(prompt: str) -> set[str]:
    """Returns the fields of a row that a format string names.

    Raises:
      ValueError: if it is none, or does more than to name fields.
    """
    try:
        parts = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise ValueError(f"prompt must be a format string, got {prompt!r}: {error}") from error
    names = {name for _, name, _, _ in parts if name is not None}
    nested = any("{" in (form or "") for _, _, form, _ in parts)
    if nested or any(not name or name.isdigit() or set(name) & set(".[]") for name in names):
        raise ValueError(
            "prompt must name fields alone, as in '{question}', without positions, attributes or"
            f" indices, got {prompt!r}"
        )
    if not names:
        raise ValueError(f"prompt must name a field, as in '{{question}}', got {prompt!r}")
    return names


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def is_held_out(prompt: str, fraction: float) -> bool:
    """Tells whether a problem is held out, by the hash of its prompt's words."""
    digest = hashlib.sha256(normalize(prompt).encode()).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32
