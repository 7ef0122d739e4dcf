import gzip
import json
import re
from pathlib import Path

import pytest

from experiments.sandbox import Limits
from experiments.tasks.program_files import (
    read_code_contests,
    read_humaneval,
    read_mbpp,
    read_problems,
    stdin_tests,
)
from experiments.tasks.programs import CallTests, ProgramTests, StdinTests, check
from tests.experiments.tasks.boxes import boxes_fixture  # noqa: F401

DOCS = Path(__file__).resolve().parents[3] / "docs" / "problems.md"

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def half(x):\n    return x / 2\n\n\ndef quarter(x):\n    """Divides by four."""\n',
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "def check(candidate):\n    assert half(candidate(8)) == 1\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to double a number.",
    "code": "import math\r\ndef double(x):\r\n  return 2 * x",
    "test_setup_code": "",
    "test_list": ["assert double(2) == 4", "assert double(3) == 6", "assert double(0) == 0"],
    "challenge_test_list": [],
}
CONTEST = {
    "problem": "Add two numbers.\n\nTime Limit: {'seconds': 1, 'nanos': 500000000}",
    "inputs": ["1 2\n", "2 2\n"],
    "outputs": ["3\n", "4\n"],
}
OWN = {"id": "a", "question": "Add.", "tests": {"stdin": [{"input": "1 2", "output": "3"}]}}
CALLS = {"calls": [{"args": [1, 2], "output": 3}], "function": "add"}


def write(path, *rows):
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_read_humaneval_separates_helpers(name, tmp_path, boxes):
    (problem,) = read_humaneval(write(tmp_path / name, HUMANEVAL))
    assert problem.id == "HumanEval/0"
    assert problem.before == "def half(x):\n    return x / 2\n\n\n"
    assert HUMANEVAL["prompt"].strip() in problem.prompt
    assert isinstance(problem.tests, ProgramTests)
    assert problem.tests.inside == ""
    assert check(problem.solution, problem, boxes).kind == "right"
    # The test's helper is that of the data set, whatever the program defines.
    cheat = "def half(x):\n    return 1\n\ndef quarter(x):\n    return 1\n"
    assert check(cheat, problem, boxes).kind == "wrong"


def test_read_mbpp_splits_by_task_id(tmp_path):
    rows = [MBPP | {"task_id": number} for number in (1, 10, 11, 510, 511, 600, 601, 974)]
    path = write(tmp_path / "mbpp.jsonl", *rows)
    splits = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}
    for split, numbers in splits.items():
        problems = read_mbpp(path, split)
        assert [problem.id for problem in problems] == [f"MBPP/{number}" for number in numbers]
        assert {problem.metadata["split"] for problem in problems} == {split}
    assert len(read_mbpp(path, "all")) == 8


def test_read_mbpp_shows_the_asserts_asked_for(tmp_path):
    path = write(tmp_path / "mbpp.jsonl", MBPP)
    for count in (1, 2, 3):
        (problem,) = read_mbpp(path, asserts=count)
        assert [line in problem.prompt for line in MBPP["test_list"]] == [
            i < count for i in range(3)
        ]
        assert problem.tests.functions == ("double",)
        assert problem.tests.text.count("assert") == 3
    with pytest.raises(ValueError, match="asserts must be 1, 2 or 3, got 0"):
        read_mbpp(path, asserts=0)
    with pytest.raises(ValueError, match=r"split must be one of .* got 'dev'"):
        read_mbpp(path, "dev")


def test_read_code_contests_takes_limits_from_the_statement(tmp_path, boxes):
    several = CONTEST | {"problem": "If there are several answers, print any of them."}
    path = write(tmp_path / "c.jsonl", CONTEST, several)
    (problem,) = read_code_contests(path)
    assert problem.limits.seconds == 4.5
    assert problem.limits.memory_bytes == Limits().memory_bytes
    assert problem.tests == StdinTests((("1 2\n", "3\n"), ("2 2\n", "4\n")))
    assert check("print(sum(map(int, input().split())))", problem, boxes).kind == "right"
    kept = read_code_contests(path, several_answers=True, limits=Limits(seconds=2))
    assert [(p.id, p.limits.seconds) for p in kept] == [
        ("code_contests/1", 4.5), ("code_contests/2", 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "tolerance", "ignore_case"),
    [
        ("Print the sum.", 0, False),
        ("if its absolute or relative error does not exceed 10^{-4}.", 1e-4, False),
        ("with absolute error at most 10^-6", 1e-6, False),
        ("The relative error must be below 1e-9.", 1e-9, False),
        ("absolute error 10^{−5} or less", 1e-5, False),
        ("There are 10^{-6} grams. The error is fatal.", 0, False),
        ("You can print each letter in any case.", 0, True),
        ("Print YES (in any case (upper or lower)).", 0, True),
    ],
)
def test_stdin_tests_reads_the_statement(statement, tolerance, ignore_case):
    tests = stdin_tests(statement, [("", "")])
    assert (tests.tolerance, tests.ignore_case) == (tolerance, ignore_case)


def test_read_problems_of_each_kind(tmp_path, boxes):
    rows = [
        OWN,
        {"id": "b", "question": "Add.", "tests": CALLS, "seconds": 2, "memory_bytes": 5e8},
        {"id": "c", "question": "Add.", "tests": {"program": "assert add(1, 2) == 3", "functions": ["add"]},
         "before": "from math import *", "metadata": {"difficulty": "easy"}},
    ]  # fmt: skip
    problems = read_problems(write(tmp_path / "own.jsonl", *rows))
    assert [type(p.tests) for p in problems] == [StdinTests, CallTests, ProgramTests]
    assert (problems[1].limits.seconds, problems[1].limits.memory_bytes) == (2, 500_000_000)
    assert problems[2].metadata == {"difficulty": "easy"}
    assert "standard input" in problems[0].prompt
    assert "def add(...):" in problems[1].prompt
    assert check("print(sum(map(int, input().split())))", problems[0], boxes).kind == "right"
    for problem in problems[1:]:
        assert check("def add(a, b):\n    return a + b\n", problem, boxes).kind == "right"
        assert check("def add(a, b):\n    return a - b\n", problem, boxes).kind == "wrong"


def test_read_problems_with_a_class_runs_inside(tmp_path, boxes):
    code = (
        "class Stack:\n    def __init__(self): self.x = []\n    def push(self, x): self.x.append(x)"
    )
    row = OWN | {"starter_code": "class Stack:", "tests": {
        "program": "s = Stack()\ns.push(1)\nassert s.x == [1]", "functions": []
    }}  # fmt: skip
    (problem,) = read_problems(write(tmp_path / "own.jsonl", row))
    assert problem.weak == "the test uses Stack of the program"
    assert check(code, problem, boxes).kind == "right"
    assert check(code.replace("append", "count"), problem, boxes).kind == "wrong"


def test_read_problems_reads_the_examples_of_the_docs(tmp_path, boxes):
    blocks = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    rows = [json.loads(block) for block in blocks]
    problems = read_problems(write(tmp_path / "docs.jsonl", *rows))
    assert {type(p.tests) for p in problems} == {StdinTests, CallTests, ProgramTests}
    for problem in problems:
        assert check(problem.solution, problem, boxes).kind == "right"


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_humaneval, HUMANEVAL | {"test": 1}, "test must be a text that is not empty, got '1'"),
        (read_humaneval, {"task_id": "x"}, "prompt must be a text that is not empty, got 'None'"),
        (read_humaneval, HUMANEVAL | {"entry_point": "third"}, "entry_point must be a function of the prompt, got 'third'"),
        (read_humaneval, HUMANEVAL | {"prompt": "def f(:"}, "prompt must be Python, got"),
        (read_humaneval, HUMANEVAL | {"test": "assert ("}, "the test must be Python, got"),
        (read_mbpp, MBPP | {"task_id": "11"}, "task_id must be a positive number, got '11'"),
        (read_mbpp, MBPP | {"test_list": "assert"}, "test_list must be a list of texts, got 'assert'"),
        (read_mbpp, MBPP | {"test_list": []}, "test_list must not be empty"),
        (read_mbpp, MBPP | {"test_list": ["assert triple(1) == 3"]}, "test_list must mention a function of code"),
        (read_mbpp, MBPP | {"code": "def ("}, "code and test_list must be Python"),
        (read_code_contests, CONTEST | {"outputs": ["3"]}, "inputs and outputs must be equally many, got 2 and 1"),
        (read_code_contests, CONTEST | {"inputs": [1]}, "inputs must be a list of texts"),
        (read_problems, OWN | {"answer": 1}, "the fields are id, question, .* got 'answer'"),
        (read_problems, OWN | {"tests": {}}, "tests must have one of these sets of fields: .* got none"),
        (read_problems, OWN | {"tests": CALLS | {"stdin": []}}, "tests must have one of these sets"),
        (read_problems, OWN | {"tests": {"stdin": []}}, r"tests: stdin must be a list that is not empty, got '\[\]'"),
        (read_problems, OWN | {"tests": {"stdin": [1]}}, "tests.stdin, case 1 must be an object, got '1'"),
        (read_problems, OWN | {"tests": {"stdin": [{"input": "1"}]}}, "tests.stdin, case 1: output must be a text, got 'None'"),
        (read_problems, OWN | {"tests": OWN["tests"] | {"tolerance": -1}}, "tolerance must be a number from 0 to 1, got '-1'"),
        (read_problems, OWN | {"tests": OWN["tests"] | {"ignore_case": 1}}, "ignore_case must be true or false, got '1'"),
        (read_problems, OWN | {"tests": CALLS | {"function": "a.b"}}, r"function must be f or Class\(\).f, got 'a.b'"),
        (read_problems, OWN | {"tests": {"calls": [{"args": []}], "function": "f"}}, "case 1: output is missing"),
        (read_problems, OWN | {"tests": {"program": "assert f(", "functions": ["f"]}}, "the test must be Python"),
        (read_problems, OWN | {"tests": {"program": "assert 1", "functions": []}}, "program must use something that is not its own, got 'assert 1'"),
        (read_problems, OWN | {"tests": {"program": "assert A().f() == 1", "functions": []}}, "starter_code must tell the names"),
        (read_problems, OWN | {"seconds": 0}, "seconds must be a positive number, got '0'"),
        (read_problems, OWN | {"seconds": True}, "seconds must be a positive number, got 'True'"),
        (read_problems, OWN | {"memory_bytes": "1G"}, "memory_bytes must be a positive number, got '1G'"),
    ],
)  # fmt: skip
def test_readers_name_file_line_field_and_value(read, row, message, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rf"bad\.jsonl, line 2.*{message}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no lines"),
        (b"{", "line 1 is not JSON"),
        (b"[1]", "line 1 must be a JSON object"),
        (b"\xff", "line 1 is not JSON"),
    ],
)
@pytest.mark.parametrize("read", [read_humaneval, read_mbpp, read_code_contests, read_problems])
def test_readers_refuse_broken_files(read, content, message, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.jsonl.*{message}"):
        read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.jsonl")


def test_readers_refuse_broken_gzip(tmp_path):
    path = tmp_path / "bad.jsonl.gz"
    for content in (b"no gzip", gzip.compress(b"\n" * 99)[:-12]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.jsonl\.gz is no gzip file"):
            read_problems(path)


def test_read_problems_refuses_ids_twice(tmp_path):
    with pytest.raises(ValueError, match="line 2: id must be unique, got 'a'"):
        read_problems(write(tmp_path / "own.jsonl", OWN, OWN))
