r"""Anyone's problems: JSON lines with any fields, and rewards by name or import path.

    --config.task.name=problems
    --config.task.kwargs="{'path': 'mine.jsonl', 'prompt': '{question}', 'reward': 'math'}"

A row's fields fill the prompt. A reward is one of rewards.REWARDS, which compares with the field
named by `answer`, or the import path of a function (completion: str, row: dict) -> float in [0, 1].
"""

import functools
import hashlib
import string
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments.tasks.base import check_at_least, check_fraction, check_seed, eos_ids
from experiments.tasks.chats import Chat, check_template
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
    reward: str = "math",
    rewards: Mapping[str, float] | None = None,
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
      reward: a reward by name or import path.
      rewards: in its place, several with weights.
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
    weights = check_rewards({reward: 1.0} if rewards is None else rewards)
    check_template(template)
    chat = Chat(tokenizer, system, template_kwargs) if template == "chat" else None
    needed = {name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None}
    if "" in needed or any(name.isdigit() for name in needed):
        raise ValueError(f"prompt must name its fields, as in '{{question}}', got {prompt!r}")
    needed |= {answer} if any(name in REWARDS for name in weights) else set()
    needed |= {demonstration} - {""}
    rows = read_rows(path, "path", needed)
    if evaluation_path:
        train, held = rows, read_rows(evaluation_path, "evaluation_path", needed)
    else:
        held = [row for row in rows if is_held_out(prompt.format_map(row), held_out)]
        train = [row for row in rows if not is_held_out(prompt.format_map(row), held_out)]
        if not held or not train:
            raise ValueError(
                f"held_out must leave problems on both sides, got {held_out} of {len(rows)}"
            )
    seen: set[str] = set()
    evaluation, repeats = drop_repeats([(prompt.format_map(row), row) for row in held], seen)
    training, seen_before = drop_repeats([(prompt.format_map(row), row) for row in train], seen)

    def problem(text: str, row: dict[str, Any]) -> Problem:
        imitated = str(row[demonstration]) if demonstration else None
        return Problem(chat.prompt(text) if chat else text, row, imitated)

    return text_task(
        tokenizer,
        train=[[problem(*pair) for pair in training]],
        evaluation=[[problem(*pair) for pair in evaluation]],
        pattern=(0,),
        evaluation_pattern=(0,),
        checker=functools.partial(open_row_checker, weights, answer, solved_at),
        eos_id=chat.eos_id if chat else tokenizer.eos_id,
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


def read_rows(path: str, argument: str, needed: set[str]) -> list[dict[str, Any]]:
    """Reads JSON lines whose objects have the needed fields.

    Args:
      path: .jsonl or .jsonl.gz.
      argument: of the config that named it.
      needed: fields of every row.

    Raises:
      ValueError, FileNotFoundError: naming the file, the line and the field.
    """
    file = Path(path).expanduser()
    if not path or not file.is_file():
        raise FileNotFoundError(f"config.task.kwargs.{argument} must be a file, got {path!r}")
    rows = []
    for place, row in json_objects(file):
        if missing := sorted(needed - row.keys()):
            found = ", ".join(row)[:200]
            raise ValueError(f"{place} must have the field {missing[0]!r}, got {found}")
        rows.append(row)
    return rows


def is_held_out(prompt: str, fraction: float) -> bool:
    """Tells whether a problem is held out, by the hash of its prompt's words."""
    digest = hashlib.sha256(normalize(prompt).encode()).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32
