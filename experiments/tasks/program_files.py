"""Readers of files of programming problems: HumanEval, MBPP, code_contests, and a format of ours.

Ours is described in docs/problems.md. LiveCodeBench has a module of its own.

Below: programs, program_prompts, questions.
"""

import ast
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.sandbox import Limits
from experiments.tasks.program_prompts import (
    asserts_prompt,
    docstring_prompt,
    starter_prompt,
    stdin_prompt,
)
from experiments.tasks.programs import (
    CallTests,
    Problem,
    ProgramTests,
    StdinTests,
    program_tests,
)
from experiments.tasks.questions import json_objects

MBPP_SPLITS = {
    "prompt": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}
# Limits of contests are those of compiled languages; Python gets this many times as much.
_CONTEST_SLACK = 3.0

_KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": lambda x: isinstance(x, str),
    "a text that is not empty": lambda x: isinstance(x, str) and x.strip() != "",
    "a list": lambda x: isinstance(x, list),
    "a list that is not empty": lambda x: isinstance(x, list) and x != [],
    "a list of texts": lambda x: isinstance(x, list) and all(isinstance(y, str) for y in x),
    "an object": lambda x: isinstance(x, dict),
    "a positive number": lambda x: _is_number(x) and 0 < x < 1e300,
    "a number from 0 to 1": lambda x: _is_number(x) and 0 <= x <= 1,
    "true or false": lambda x: isinstance(x, bool),
}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def field(place: str, row: Mapping[str, Any], name: str, kind: str, default: Any = None) -> Any:
    """Returns a field of a row.

    Args:
      place: for the message: the file and the line.
      row: the JSON object.
      name: of the field.
      kind: one of _KINDS, in words.
      default: if given, the value of a field that is not there.

    Raises:
      ValueError: naming place, field, value and what is allowed.
    """
    if name not in row and default is not None:
        return default
    if not _KINDS[kind](row.get(name)):
        raise ValueError(f"{place}: {name} must be {kind}, got {str(row.get(name))[:100]!r}")
    return row[name]


def read_humaneval(path: Path, limits: Limits = Limits()) -> list[Problem]:  # noqa: B008  # frozen
    """Reads HumanEval.jsonl or HumanEval.jsonl.gz (arXiv 2107.03374).

    A helper that a prompt defines before the function is given to the test too, not taken from the
    completion.

    Raises:
      OSError: if there is no such file.
      ValueError: naming the file, the line, the field and its value.
    """
    problems = []
    for place, row in json_objects(path):
        names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
        name, prompt, entry, body, test = (
            field(place, row, key, "a text that is not empty") for key in names
        )
        before = _before_function(place, prompt, entry)
        problems.append(
            Problem(
                id=name,
                prompt=docstring_prompt(prompt),
                tests=_program_tests(place, f"{before}{test}\ncheck({entry})\n", [entry]),
                limits=limits,
                before=before,
                unfinished=prompt,
                entry_point=entry,
                starter_code=prompt,
                solution=prompt + body,
                metadata={"split": "test"},
            )
        )
    return problems


def _before_function(place: str, prompt: str, name: str) -> str:
    """Returns what a prompt has before the function of this name."""
    try:
        nodes = ast.parse(prompt.rstrip() + "\n    pass\n").body
    except SyntaxError as error:
        raise ValueError(f"{place}: prompt must be Python, got {error}") from error
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return "".join(prompt.splitlines(keepends=True)[: node.lineno - 1])
    raise ValueError(f"{place}: entry_point must be a function of the prompt, got {name!r}")


def _program_tests(place: str, text: str, functions: Sequence[str]) -> ProgramTests:
    try:
        with warnings.catch_warnings(action="ignore"):  # about texts of others, as "\\d"
            return program_tests(text, functions)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{place}: the test must be Python, got {error}") from error


def read_mbpp(
    path: Path,
    split: str = "test",
    asserts: int = 3,
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> list[Problem]:
    """Reads mbpp.jsonl (arXiv 2108.07732).

    Args:
      path: of the file.
      split: one of MBPP_SPLITS, by task_id as its authors split it; or "all".
      asserts: how many of the three assertions the prompt shows. The authors show all; with 1 it
        is the function's name and signature by example, and two are held back.
      limits: of a program.

    Raises:
      OSError: if there is no such file.
      ValueError: naming the file, the line, the field and its value; for an unknown split.
    """
    if split not in (*MBPP_SPLITS, "all"):
        raise ValueError(f"split must be one of {', '.join(MBPP_SPLITS)}, all, got {split!r}")
    if asserts not in (1, 2, 3):
        raise ValueError(f"asserts must be 1, 2 or 3, got {asserts!r}")
    problems = []
    for place, row in json_objects(path):
        number = field(place, row, "task_id", "a positive number")
        in_split = [name for name, numbers in MBPP_SPLITS.items() if number in numbers]
        if split != "all" and split not in in_split:
            continue
        statement = field(place, row, "text", "a text that is not empty")
        code = field(place, row, "code", "a text").replace("\r\n", "\n")
        setup = field(place, row, "test_setup_code", "a text", "").replace("\r\n", "\n")
        tests = field(place, row, "test_list", "a list of texts")
        if not tests:
            raise ValueError(f"{place}: test_list must not be empty")
        text = "\n".join([setup, *tests]).strip("\n") + "\n"
        problems.append(
            Problem(
                id=f"MBPP/{number}",
                prompt=asserts_prompt(statement, tests[:asserts]),
                tests=_program_tests(place, text, _tested_functions(place, code, text)),
                limits=limits,
                solution=code,
                metadata={"split": in_split[0] if in_split else ""},
            )
        )
    return problems


def _tested_functions(place: str, code: str, tests: str) -> list[str]:
    """Names the functions of the reference code that the tests mention."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(code)
            mentioned = {n.id for n in ast.walk(ast.parse(tests)) if isinstance(n, ast.Name)}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{place}: code and test_list must be Python, got {error}") from error
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = [name for name in dict.fromkeys(names) if name in mentioned]
    if not found:
        raise ValueError(f"{place}: test_list must mention a function of code, got {tests[:100]!r}")
    return found


def read_code_contests(
    path: Path,
    several_answers: bool = False,
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> list[Problem]:
    """Reads JSON lines of code_contests (arXiv 2203.07814) with problem, inputs and outputs.

    The time limit of the statement, if it has one, is stretched for Python; the tolerance and
    whether case counts are read from the statement as well.

    Args:
      path: of the file.
      several_answers: whether to keep problems that accept any of several answers, of which the
        file knows one: right programs are then called wrong.
      limits: of a program; the statement's time limit goes first.

    Raises:
      OSError: if there is no such file.
      ValueError: naming the file, the line, the field and its value.
    """
    problems = []
    for number, (place, row) in enumerate(json_objects(path), 1):
        statement = field(place, row, "problem", "a text that is not empty")
        inputs = field(place, row, "inputs", "a list of texts")
        outputs = field(place, row, "outputs", "a list of texts")
        if not inputs or len(inputs) != len(outputs):
            sizes = f"{len(inputs)} and {len(outputs)}"
            raise ValueError(f"{place}: inputs and outputs must be equally many, got {sizes}")
        if not several_answers and _ANY_ANSWER.search(statement.lower()):
            continue
        seconds = _time_limit(statement)
        problems.append(
            Problem(
                id=f"code_contests/{number}",
                prompt=stdin_prompt(statement),
                tests=stdin_tests(statement, list(zip(inputs, outputs))),
                limits=dataclasses.replace(limits, seconds=seconds) if seconds else limits,
            )
        )
    return problems


def _time_limit(statement: str) -> float:
    found = re.search(r"Time Limit: \{'seconds': (\d{1,3}), 'nanos': (\d{1,9})\}", statement)
    return _CONTEST_SLACK * (int(found[1]) + int(found[2]) / 1e9) if found else 0.0


_ERROR = re.compile(r"\berrors?\b[^.]{0,120}?(?:10\s*\^?\s*\{?\s*[-−–]\s*|1e-)(\d{1,2})")
_ANY_ANSWER = re.compile(r"\bany of them\b|\b(?:print|output|find|reconstruct) any\b")
_ANY_CASE = re.compile(r"\bin any (?:letter )?case\b|\bupper or lower\b|\bany register\b")


def stdin_tests(statement: str, cases: Sequence[tuple[str, str]]) -> StdinTests:
    """Makes tests; the statement tells the tolerance and whether upper and lower case differ."""
    errors = [10.0 ** -int(exponent) for exponent in _ERROR.findall(statement)]
    tolerance = max((error for error in errors if error < 0.1), default=0.0)
    return StdinTests(tuple(cases), tolerance, _ANY_CASE.search(statement.lower()) is not None)


def read_problems(path: Path, limits: Limits = Limits()) -> list[Problem]:  # noqa: B008  # frozen
    """Reads a file in the format of docs/problems.md.

    Raises:
      OSError: if there is no such file.
      ValueError: naming the file, the line, the field and its value.
    """
    problems = []
    seen: set[str] = set()
    for place, row in json_objects(path):
        unknown = sorted(row.keys() - set(_FIELDS))
        if unknown:
            allowed = ", ".join(_FIELDS)
            raise ValueError(f"{place}: the fields are {allowed}, got {unknown[0]!r}")
        name = field(place, row, "id", "a text that is not empty")
        if name in seen:
            raise ValueError(f"{place}: id must be unique, got {name!r}")
        seen.add(name)
        question = field(place, row, "question", "a text that is not empty")
        starter = field(place, row, "starter_code", "a text", "")
        tests = _own_tests(f"{place}, tests", field(place, row, "tests", "an object"))
        if isinstance(tests, ProgramTests) and not (starter or tests.functions):
            raise ValueError(f"{place}: starter_code must tell the names that the tests use")
        if isinstance(tests, StdinTests):
            prompt = stdin_prompt(question)
        else:
            prompt = starter_prompt(question, starter or _stubs(tests))
        seconds = field(place, row, "seconds", "a positive number", limits.seconds)
        memory = field(place, row, "memory_bytes", "a positive number", limits.memory_bytes)
        problems.append(
            Problem(
                id=name,
                prompt=prompt,
                tests=tests,
                limits=dataclasses.replace(limits, seconds=seconds, memory_bytes=int(memory)),
                before=field(place, row, "before", "a text", ""),
                starter_code=starter,
                solution=field(place, row, "solution", "a text", ""),
                metadata=field(place, row, "metadata", "an object", {}),
            )
        )
    return problems


_FIELDS = (
    *("id", "question", "tests", "starter_code", "before", "solution"),
    *("seconds", "memory_bytes", "metadata"),
)
_TESTS = {
    "stdin": {"stdin", "tolerance", "ignore_case"},
    "calls": {"calls", "function", "tolerance"},
    "program": {"program", "functions"},
}
_FUNCTION = re.compile(r"(?:[^\W\d]\w*\(\)\.)?[^\W\d]\w*")


def _own_tests(place: str, tests: Mapping[str, Any]) -> StdinTests | CallTests | ProgramTests:
    kinds = [kind for kind in _TESTS if kind in tests]
    if len(kinds) != 1 or tests.keys() - _TESTS[kinds[0]]:
        rules = "; ".join(", ".join(sorted(names)) for names in _TESTS.values())
        raise ValueError(f"{place} must have one of these sets of fields: {rules};"
                         f" got {', '.join(sorted(tests)) or 'none'}")  # fmt: skip
    tolerance = field(place, tests, "tolerance", "a number from 0 to 1", 0.0)
    if kinds == ["stdin"]:
        ignore_case = field(place, tests, "ignore_case", "true or false", False)
        cases = [
            (field(at, case, "input", "a text"), field(at, case, "output", "a text"))
            for at, case in _cases(place, tests, "stdin")
        ]
        return StdinTests(tuple(cases), tolerance, ignore_case)
    if kinds == ["calls"]:
        function = field(place, tests, "function", "a text")
        if not _FUNCTION.fullmatch(function):
            raise ValueError(f"{place}: function must be f or Class().f, got {function!r}")
        calls = []
        for at, case in _cases(place, tests, "calls"):
            if "output" not in case:
                raise ValueError(f"{at}: output is missing")
            calls.append((tuple(field(at, case, "args", "a list")), case["output"]))
        return CallTests(function, tuple(calls), tolerance)
    functions = field(place, tests, "functions", "a list of texts")
    text = field(place, tests, "program", "a text")
    made = _program_tests(place, text, functions)
    if not functions and not made.inside:
        raise ValueError(f"{place}: program must use something that is not its own, got {text!r}")
    return made


def _cases(
    place: str, tests: Mapping[str, Any], name: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, case in enumerate(field(place, tests, name, "a list that is not empty"), 1):
        at = f"{place}.{name}, case {number}"
        if not isinstance(case, dict):
            raise ValueError(f"{at} must be an object, got {str(case)[:100]!r}")
        yield at, case


def _stubs(tests: CallTests | ProgramTests) -> str:
    """Starter code that tells the names, if a problem brings none."""
    names = [tests.function] if isinstance(tests, CallTests) else tests.functions
    stubs = []
    for name in names:
        owner, _, function = name.rpartition("().")
        stub = f"def {function}(...):\n    ..."
        stubs.append(
            f"class {owner}:\n    {stub}".replace("\n    .", "\n        .") if owner else stub
        )
    return "\n\n".join(stubs)
