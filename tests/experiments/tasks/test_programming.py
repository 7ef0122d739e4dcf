"""Programming as a task: the split, demonstrations that are right, and bad arguments in one line."""

import json
from contextlib import closing

import pytest

from experiments.sandbox import Sandbox, UnavailableError
from experiments.tasks import programming, short_programs
from experiments.tasks.verifier import Verifier
from tests.experiments.tasks.byte_tokenizer import ByteTokenizer
from tests.experiments.tasks.real_data import ROOT, needs

ROWS = [
    {
        "id": f"p{i}",
        "question": f"Read a number and print it plus {i}.",
        "tests": {"stdin": [{"input": "1\n", "output": f"{1 + i}\n"}]},
        "solution": f"print(int(input()) + {i})",
        "metadata": {"kind": f"k{i % 8}"},
    }
    for i in range(40)
]


@pytest.fixture(name="sandbox", scope="module")
def sandbox_fixture():
    try:
        Sandbox().close()
    except UnavailableError as error:
        pytest.skip(str(error))


def prompts_of(kind):
    tokenizer = ByteTokenizer()
    return [tokenizer.decode(row[:n].tolist()) for row, n in zip(kind.tokens, kind.length)]


def test_make_problems_are_told_apart_by_their_tests():
    """A constant is never right, and the solution of another kind with the same prompt is none."""
    problems = short_programs.make_problems(variants=8, seed=0)
    assert len({p.prompt for p in problems}) == len(problems) > 300
    for problem in problems:
        outputs = {repr(output) for _, output in problem.tests.cases}
        assert len(outputs) >= 2
        assert len(problem.tests.cases) == 12
        namespace = {}
        exec(problem.solution, namespace)
        function = namespace[problem.tests.function]
        assert all(function(*inputs) == output for inputs, output in problem.tests.cases)
    assert short_programs.make_problems(8, 0) == problems
    assert short_programs.make_problems(8, 1) != problems


def test_short_programs_holds_out_whole_kinds():
    task = short_programs.make(
        ByteTokenizer(), template="plain", max_prompt=400, max_completion=200
    )
    kinds = [
        {answer.metadata["kind"] for answer in side[0].answer}
        for side in (task.train, task.evaluation)
    ]
    assert not kinds[0] & kinds[1]
    assert kinds[0] | kinds[1] == set(short_programs.KINDS)
    assert 5 <= len(kinds[1]) <= 30


def test_demonstrations_of_short_programs_are_right(sandbox):
    task = short_programs.make(
        ByteTokenizer(), template="plain", max_prompt=400, max_completion=200
    )
    prompts, tokens, mask = task.demonstrations(0, 0, 24)
    with closing(Verifier(task, workers=1)) as verifier:
        verified = verifier.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None])
    assert [group[0].kind for group in verified.verdicts] == ["right"] * 24


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"held_out": 0}, "held_out must lie strictly between 0 and 1, got 0"),
        ({"held_out": 1e-9}, "held_out must leave problems on both sides, got 1e-09"),
        ({"variants": 0}, "variants must be at least 1, got 0"),
        ({"shots": 3}, "shots must be at most 2, got 3"),
        ({"shots": -1}, "shots must be at least 0, got -1"),
        ({"seed": -1}, "seed must lie in"),
        ({"template": "x"}, "template must be one of plain, chat, got 'x'"),
        ({"max_completion": 1}, "max_completion must be at least 2, got 1"),
        ({"max_prompt": 3}, "max_prompt keeps none of"),
        ({"sandbox": "docker"}, "sandbox must be one of bubblewrap, .*, got 'docker'"),
    ],
)
def test_short_programs_refuses_bad_values(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        short_programs.make(ByteTokenizer(), **kwargs)
    assert "\n" not in str(caught.value)


@pytest.fixture(name="file")
def file_fixture(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def make(**kwargs):
    return programming.make(ByteTokenizer(), **{"template": "plain", "max_prompt": 900, **kwargs})


def test_programming_holds_out_problems_or_kinds(file):
    task = make(path=file)
    train, held = ({*prompts_of(side[0])} for side in (task.train, task.evaluation))
    assert not train & held
    assert len(train | held) == len(ROWS)
    assert {row["question"] for row in ROWS} == {p.partition("\n")[0] for p in train | held}
    task = make(path=file, held_out=0.4, held_out_by="kind")
    kinds = [{a.metadata["kind"] for a in side[0].answer} for side in (task.train, task.evaluation)]
    assert not kinds[0] & kinds[1]
    assert len(kinds[0] | kinds[1]) == 8


def test_programming_checks_solutions(file, sandbox):
    task = make(path=file, held_out=0.2)
    prompts, tokens, mask = task.demonstrations(0, 0, 6)
    with closing(Verifier(task, workers=1)) as verifier:
        verified = verifier.verify(prompts.verifier_inputs, tokens[:, None], mask[:, None])
    assert [group[0].kind for group in verified.verdicts] == ["right"] * 6


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"path": ""}, r"config\.task\.kwargs\.path must be a file, got ''"),
        ({"evaluation_path": "no/such"}, r"kwargs\.evaluation_path must be a file, got 'no/such'"),
        ({"format": "leetcode"}, "format must be one of problems, mbpp, .*, got 'leetcode'"),
        ({"sandbox": "docker"}, "sandbox must be one of bubblewrap, .*, got 'docker'"),
        (
            {"held_out_by": "level"},
            "held_out_by must be a field of every metadata, p0 has no level",
        ),
        ({"held_out": 1.0}, "held_out must lie strictly between 0 and 1, got 1.0"),
        ({"seconds": 0.0}, "seconds"),
        ({"memory_bytes": -1}, "memory_bytes"),
        ({"template": "x"}, "template must be one of"),
        ({"seed": -1}, "seed must lie in"),
        ({"max_completion": 1}, "max_completion must be at least 2, got 1"),
    ],
)
def test_programming_refuses_bad_values(file, kwargs, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        make(**{"path": file, **kwargs})
    assert "\n" not in str(caught.value)


def test_programming_refuses_a_file_that_is_wholly_evaluated(file):
    with pytest.raises(ValueError, match="path must have problems that evaluation_path has not"):
        make(path=file, evaluation_path=file)


@needs("programming")
def test_programming_trains_on_the_split_of_mbpp():
    task = make(path=str(ROOT / "programming" / "mbpp.jsonl"), format="mbpp", max_prompt=4000)
    train, held = ({*prompts_of(side[0])} for side in (task.train, task.evaluation))
    assert not train & held
    assert 350 < len(train) <= 374
    assert 80 < len(held) <= 90
