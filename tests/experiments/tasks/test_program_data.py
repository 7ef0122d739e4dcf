"""The checker against real data sets: references are right, mutants fare as in plain Python."""

import ast
import collections
import dataclasses
import random

import pytest

from experiments.sandbox import Limits, SandboxPool
from experiments.tasks.program_files import read_code_contests, read_humaneval, read_mbpp
from experiments.tasks.programs import check, program_of
from tests.experiments.tasks.boxes import boxes_fixture  # noqa: F401
from tests.experiments.tasks.mutants import mutants
from tests.experiments.tasks.real_data import ROOT, needs

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape")
SECOND = Limits(seconds=1.0)


def humaneval():
    return read_humaneval(ROOT / "humaneval" / "HumanEval.jsonl.gz")


def mbpp():
    return read_mbpp(ROOT / "programming" / "mbpp.jsonl", "all")


def failures(problems, boxes, program=lambda problem: problem.solution):
    verdicts = {p.id: check(program(p), p, boxes) for p in problems}
    return {name: verdict for name, verdict in verdicts.items() if verdict.kind != "right"}


@needs("humaneval")
def test_check_of_humaneval_finds_all_solutions_right(boxes):
    problems = humaneval()
    assert len(problems) == 164
    assert failures(problems, boxes) == {}
    assert [p.id for p in problems if p.tests.inside] == []


@needs("humaneval")
@pytest.mark.parametrize(
    "complete",
    [
        lambda p, body: body,
        lambda p, body: body.lstrip(),
        lambda p, body: body + "\n\ndef other(:\n    pass",
        lambda p, body: f"```python\n{p.unfinished}{body}```",
        lambda p, body: f"Here it is.\n\n```\n{p.unfinished[len(p.before) :]}{body}```\nDone.",
    ],
    ids=["body", "stripped body", "body and more", "whole", "function"],
)
def test_program_of_humaneval_takes_each_format(complete, boxes):
    def program(problem):
        return program_of(complete(problem, problem.solution[len(problem.unfinished) :]), problem)

    assert failures(humaneval()[::4], boxes, program) == {}


@needs("programming")
@pytest.mark.parametrize(
    "part", [pytest.param(1, marks=pytest.mark.slow), 12], ids=["all", "every twelfth"]
)
def test_check_of_mbpp_finds_all_solutions_right(part, boxes):
    """All of them pass in plain Python too, that of a check inside of the program's process."""
    problems = mbpp()
    assert len(problems) == 974
    for problem in problems[::part]:
        assert boxes[0].run(f"{problem.solution}\n{problem.tests.text}").status == "ok"
    assert failures(problems[::part], boxes) == {}


@needs("programming")
def test_read_mbpp_needs_the_program_s_process_for_classes_and_functions_alone():
    weak = {p.id.removeprefix("MBPP/"): p.tests.inside for p in mbpp() if p.tests.inside}
    assert weak == {
        "367": "the test uses Node of the program",
        "533": "the test passes a function",
        "601": "the test uses Pair of the program",
        "927": "the test uses Node of the program",
    }
    splits = collections.Counter(p.metadata["split"] for p in mbpp())
    assert splits == {"prompt": 10, "test": 500, "validation": 90, "train": 374}


@needs("humaneval")
@needs("programming")
@pytest.mark.parametrize(
    ("part", "each"), [pytest.param(1, 3, marks=pytest.mark.slow), (25, 3)], ids=["all", "some"]
)
def test_check_agrees_with_plain_python_on_mutants(part, each):
    rng = random.Random(0)
    items = []
    for problem in (humaneval() + mbpp())[::part]:
        # The helpers of a prompt are the test's too, and no mutant's to change.
        before = ast.unparse(ast.parse(problem.before))
        changed = sorted({m for m in mutants(problem.solution) if m.startswith(before)})
        chosen = rng.sample(changed, min(len(changed), each))
        items += [(dataclasses.replace(problem, limits=SECOND), mutant) for mutant in chosen]

    def compare(boxes, item):
        problem, mutant = item
        plain = boxes[0].run(f"{mutant}\n{problem.tests.text}", limits=SECOND)
        return plain.status, check(mutant, problem, boxes).kind

    with SandboxPool(2, sandboxes=2) as pool:
        outcomes = pool.map(compare, items)
    different = [
        (problem.id, mutant, plain, kind)
        for (problem, mutant), (plain, kind) in zip(items, outcomes)
        if (plain == "ok") != (kind == "right")
    ]
    assert different == []
    assert sum(kind == "right" for _, kind in outcomes) < 0.3 * len(items)
    assert len(items) > 3000 / part


SQUARES_AND_CUBES = """
import sys
liked = sorted({i * i for i in range(1, 31623)} | {i ** 3 for i in range(1, 1001)})
from bisect import bisect_right
for line in sys.stdin.read().split()[1:]:
    print(bisect_right(liked, int(line)))
"""

COMPARE_NUMBERS = """
for _ in range(int(input())):
    (x, p), (y, q) = (map(int, input().split()) for _ in range(2))
    least = min(p, q)
    p, q = min(p - least, 7), min(q - least, 7)
    a, b = x * 10 ** p, y * 10 ** q
    print("<" if a < b else ">" if a > b else "=")
"""

REPLACE_ALL = """
import sys
data = iter(sys.stdin.read().split())
queries = []
for _ in range(int(next(data))):
    if next(data) == "1":
        queries.append((next(data), None))
    else:
        queries.append((next(data), next(data)))
becomes, result = {}, []
for x, y in reversed(queries):
    if y is None:
        result.append(becomes.get(x, x))
    else:
        becomes[x] = becomes.get(y, y)
print(*reversed(result))
"""


@needs("programming")
@pytest.mark.parametrize(
    ("start", "solution", "right", "wrong"),
    [
        ("Polycarp likes squares and cubes", SQUARES_AND_CUBES, "bisect_right(l", "bisect_left(l"),
        ("Monocarp wrote down two numbers", COMPARE_NUMBERS, "7)", "3)"),
        ("You have an array of integers (initially empty)", REPLACE_ALL, "in reversed(q", "in (q"),
    ],
)
def test_check_of_code_contests_by_hand_written_solutions(start, solution, right, wrong, boxes):
    problems = read_code_contests(ROOT / "programming" / "code_contests.jsonl")
    (problem,) = (p for p in problems if p.prompt.startswith(start))
    assert check(solution, problem, boxes).kind == "right"
    assert right in solution
    changed = "from bisect import bisect_left\n" + solution.replace(right, wrong)
    assert check(changed, problem, boxes).kind == "wrong"
