"""Evaluation suites: named sets of problems that are never trained on, with their checkers.

Below: programming, problems, rewards. Above: evaluate_suites.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.tasks.livecodebench import read_livecodebench
from experiments.tasks.problems import BOXED
from experiments.tasks.program_files import (
    read_code_contests,
    read_humaneval,
    read_mbpp,
    read_problems,
)
from experiments.tasks.programming import open_program_checker
from experiments.tasks.questions import json_objects
from experiments.tasks.rewards import open_row_checker
from experiments.tasks.verdict import Checker


class SuiteProblem(NamedTuple):
    """A problem of a suite.

    Attributes:
      id: unique in the suite.
      prompt: the user's message.
      answer: what the checker needs.
      solution: a right completion, where the data set brings one.
    """

    id: str
    prompt: str
    answer: Any
    solution: str = ""


class Suite(NamedTuple):
    """A set of problems and what scores them.

    Attributes:
      name: as it was asked for.
      problems: in the order of the file.
      open_checker: (workers, timeout_seconds) -> Checker.
      system: the system message that the suite is asked with by default.
    """

    name: str
    problems: list[SuiteProblem]
    open_checker: Callable[[int, float], Checker]
    system: str


# A name -> (place in the data directory, "" where a file must be named; how it is read).
_PROGRAMS: dict[str, tuple[str, Callable[..., list]]] = {
    "humaneval": ("humaneval/HumanEval.jsonl.gz", read_humaneval),
    "mbpp": ("programming/mbpp.jsonl", functools.partial(read_mbpp, split="test")),
    "code_contests": ("programming/code_contests.jsonl", read_code_contests),
    "livecodebench": ("", read_livecodebench),
    "programs": ("", read_problems),
}
# A name -> (place, fields of question and answer, reward).
_QUESTIONS: dict[str, tuple[str, tuple[str, str], str]] = {
    "math500": ("math_eval/math500.jsonl", ("problem", "answer"), "math"),
    "aime24": ("math_eval/aime24.jsonl", ("problem", "answer"), "integer"),
    "aime25": ("math_eval/aime25.jsonl", ("problem", "answer"), "integer"),
    "amc23": ("math_eval/amc23.jsonl", ("problem", "answer"), "math"),
    "gsm8k": ("gsm8k/test.jsonl", ("question", "answer"), "number"),
    "questions": ("", ("question", "answer"), "math"),
}
SUITES = (*_PROGRAMS, *_QUESTIONS)


def read_suite(text: str, data_dir: str, sandbox: str = "bubblewrap") -> Suite:
    """Reads a suite.

    Args:
      text: NAME or NAME:FILE.
      data_dir: where the files are that have no FILE.
      sandbox: backend for programs.

    Raises:
      ValueError: for an unknown name, or a file that is not of the suite's format.
      FileNotFoundError: naming the path.
    """
    name, _, file = text.partition(":")
    if name not in SUITES:
        raise ValueError(f"--suite must name {', '.join(SUITES)}, got {name!r}")
    place = (_PROGRAMS.get(name) or _QUESTIONS[name])[0]
    if not file and not place:
        raise ValueError(f"--suite={name} needs a file: --suite={name}:FILE")
    path = Path(file).expanduser() if file else Path(data_dir).expanduser() / place
    if not path.is_file():
        hint = "" if file else f"; give --data_dir, or --suite={name}:FILE"
        raise FileNotFoundError(f"--suite={name}: {path} does not exist{hint}")
    if name in _PROGRAMS:
        problems = [
            SuiteProblem(p.id, p.prompt, p, f"```python\n{p.solution}\n```" if p.solution else "")
            for p in _PROGRAMS[name][1](path)
        ]
        return Suite(text, problems, functools.partial(open_program_checker, sandbox), "")
    _, fields, reward = _QUESTIONS[name]
    checker = functools.partial(open_row_checker, {reward: 1.0}, "answer", 1.0)
    return Suite(text, _questions(path, fields), checker, BOXED)


def _questions(path: Path, fields: tuple[str, str]) -> list[SuiteProblem]:
    problems, seen = [], set()
    for number, (place, row) in enumerate(json_objects(path), 1):
        for field in fields:
            if not isinstance(row.get(field), (str, int, float)) or row[field] == "":
                raise ValueError(
                    f"{place}: {field} must be a text or a number, got {row.get(field)!r}"
                )
        question, answer = (row[field] for field in fields)
        if isinstance(answer, str) and "####" in answer:  # GSM8K's worked solutions
            answer = float(answer.rpartition("####")[2].replace(",", ""))
        name = str(row.get("id", number))
        if name in seen:
            raise ValueError(f"{place}: id must be unique, got {name!r}")
        seen.add(name)
        problems.append(SuiteProblem(name, str(question), {"answer": answer}))
    return problems


def by_id(problems: Sequence[SuiteProblem]) -> dict[str, SuiteProblem]:
    """Returns the problems by their ids."""
    return {problem.id: problem for problem in problems}
