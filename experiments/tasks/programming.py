"""Programming problems as a task: completions are run in sandboxes.

    config.task.name = "programming"
    config.task.kwargs = {"path": "mine.jsonl"}  # or {"path": "mbpp.jsonl", "format": "mbpp"}

On the command line:

    --config.task.name=programming --config.task.kwargs="{'path': 'mine.jsonl'}"
    --config.task.kwargs="{'path': 'mbpp.jsonl', 'format': 'mbpp', 'max_completion': 256}"

Formats: "problems" (docs/problems.md), "mbpp", "humaneval", "livecodebench", "code_contests".
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments.sandbox import Limits
from experiments.sandbox.backends import BACKENDS
from experiments.tasks.base import check_at_least, check_fraction, check_seed, eos_ids
from experiments.tasks.chats import prompt_style
from experiments.tasks.livecodebench import read_livecodebench
from experiments.tasks.problems import is_held_out
from experiments.tasks.program_files import (
    read_code_contests,
    read_humaneval,
    read_mbpp,
    read_problems,
)
from experiments.tasks.program_verifier import ProgramVerifier
from experiments.tasks.programs import Problem as ProgrammingProblem
from experiments.tasks.questions import drop_repeats
from experiments.tasks.text_task import Problem, TextTask, require_tokenizer, text_task

READERS: dict[str, Callable[..., list[ProgrammingProblem]]] = {
    "problems": read_problems,
    "mbpp": functools.partial(read_mbpp, split="train"),
    "humaneval": read_humaneval,
    "livecodebench": read_livecodebench,
    "code_contests": read_code_contests,
}


def make(
    tokenizer: Any,
    path: str = "",
    evaluation_path: str = "",
    format: str = "problems",
    held_out: float = 0.1,
    held_out_by: str = "",
    seconds: float = 5.0,
    memory_bytes: int = 1 << 30,
    sandbox: str = "bubblewrap",
    system: str = "",
    template: str = "chat",
    template_kwargs: Mapping = MappingProxyType({}),
    seed: int = 0,
    max_prompt: int = 512,
    max_completion: int = 512,
) -> TextTask:
    """Makes the task from a config's `task.kwargs`: reads the problems.

    Solutions that come with the problems are the demonstrations of the warm start.

    Args:
      tokenizer: encode, decode, eos_id, pad_id, vocab_size; for a chat see chats.Chat.
      path: of the problems to train on.
      evaluation_path: likewise; if empty, problems of `path` are held out. MBPP's are its training
        split, and held out its validation split.
      format: of both files, a key of READERS.
      held_out: fraction of the problems, chosen by the hash of their prompts.
      held_out_by: a field of the problems' metadata; with it, whole values of that field are held
        out, as kinds of problems, chosen by their hash.
      seconds: processor time of a program, where the problem names no limit of its own.
      memory_bytes: likewise.
      sandbox: backend, a key of experiments.sandbox.backends.BACKENDS.
      system: the system prompt of a chat; "" for none.
      template: "chat", by the model's own chat template, or "plain".
      template_kwargs: variables of the model's template, such as {"enable_thinking": False}.
      seed: of the order of the evaluation prompts.
      max_prompt: tokens of the longest prompt kept.
      max_completion: tokens of the longest answer that counts, EOS included.

    Raises:
      ValueError: for impossible values, naming the field and its value.
      FileNotFoundError: naming the path and the config field.
    """
    require_tokenizer(tokenizer, "programming")
    check_seed(seed)
    check_fraction("held_out", held_out)
    check_at_least("max_completion", max_completion, 2)
    if format not in READERS:
        raise ValueError(f"format must be one of {', '.join(READERS)}, got {format!r}")
    check_sandbox(sandbox)
    limits = Limits(seconds=seconds, memory_bytes=memory_bytes)
    style = prompt_style(tokenizer, template, system, template_kwargs)
    problems = _read(path, "path", format, limits)
    if evaluation_path:
        train, held = problems, _read(evaluation_path, "evaluation_path", format, limits)
    elif format == "mbpp":
        train, held = problems, read_mbpp(_file(path, "path"), split="validation", limits=limits)
    else:
        train, held = split_held_out(problems, held_out, held_out_by)
    seen: set[str] = set()
    evaluation, repeats = drop_repeats([(problem.prompt, problem) for problem in held], seen)
    training, seen_before = drop_repeats([(problem.prompt, problem) for problem in train], seen)
    if not training:
        raise ValueError(f"path must have problems that evaluation_path has not, got {path!r}")

    def encoded(pairs: Sequence[tuple[str, ProgrammingProblem]]) -> list[Problem]:
        return [
            Problem(
                style.prompt(text),
                problem,
                f"```python\n{problem.solution.strip()}\n```" if problem.solution else None,
            )
            for text, problem in pairs
        ]

    return text_task(
        tokenizer,
        train=[encoded(training)],
        evaluation=[encoded(evaluation)],
        pattern=(0,),
        evaluation_pattern=(0,),
        open_checker=functools.partial(open_program_checker, sandbox),
        eos_id=style.eos_id,
        eos_ids=eos_ids(tokenizer),
        max_prompt=max_prompt,
        max_completion=max_completion,
        seed=seed,
        dropped={
            "training problems that repeat or are evaluated": seen_before,
            "evaluation problems that repeat": repeats,
        },
    )


def open_program_checker(backend: str, workers: int, timeout_seconds: float) -> ProgramVerifier:
    """Opens sandboxes; the time limits are those of the problems."""
    del timeout_seconds
    return ProgramVerifier(max(workers, 1), backend)


def check_sandbox(sandbox: str) -> None:
    """Raises ValueError unless `sandbox` names a backend."""
    if sandbox not in BACKENDS:
        raise ValueError(f"sandbox must be one of {', '.join(BACKENDS)}, got {sandbox!r}")


def split_held_out(
    problems: Sequence[ProgrammingProblem], fraction: float, by: str
) -> tuple[list[ProgrammingProblem], list[ProgrammingProblem]]:
    """Splits problems, or whole kinds of them, by hash.

    Args:
      problems: to split.
      fraction: to hold out, of the problems or of the kinds.
      by: the field of their metadata that holds the kind; "" for none.

    Returns:
      (to train on, held out).

    Raises:
      ValueError: if one side is empty, or a problem has no such field.
    """
    if by and (without := [p.id for p in problems if by not in p.metadata]):
        raise ValueError(f"held_out_by must be a field of every metadata, {without[0]} has no {by}")
    names = [str(p.metadata[by]) if by else p.prompt for p in problems]
    held = [is_held_out(name, fraction) for name in names]
    if all(held) or not any(held):
        raise ValueError(
            f"held_out must leave problems on both sides, got {fraction} of {len(set(names))}"
        )
    return (
        [problem for problem, out in zip(problems, held) if not out],
        [problem for problem, out in zip(problems, held) if out],
    )


def _read(path: str, argument: str, format: str, limits: Limits) -> list[ProgrammingProblem]:
    return READERS[format](_file(path, argument), limits=limits)


def _file(path: str, argument: str) -> Path:
    file = Path(path).expanduser()
    if not path or not file.is_file():
        raise FileNotFoundError(f"config.task.kwargs.{argument} must be a file, got {path!r}")
    return file
