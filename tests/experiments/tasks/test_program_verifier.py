import math

import pytest

from experiments.sandbox import Limits, Sandbox, SandboxError, UnavailableError
from experiments.tasks import program_verifier
from experiments.tasks.program_verifier import ProgramVerifier
from experiments.tasks.programs import Problem, StdinTests, check, program_tests

FAST = Limits(seconds=0.5)
ADD = Problem("p", "", StdinTests((("1 2\n", "3\n"),)), FAST)
SQUARE = Problem("p", "", program_tests("assert f(3) == 9", ["f"]), FAST)
RIGHT = {id(ADD): "print(sum(map(int, input().split())))", id(SQUARE): "def f(x): return x * x"}


@pytest.fixture(scope="module", name="verifier")
def verifier_fixture():
    try:
        with ProgramVerifier(workers=2) as verifier:
            yield verifier
    except UnavailableError as error:
        pytest.skip(str(error))


def test_verify_keeps_order(verifier):
    texts, problems, kinds = [], [], []
    for i in range(12):
        problem = (ADD, SQUARE)[i % 2]
        wrong = "print(4)\ndef f(x): return " + str(i)
        code, kind = [(RIGHT[id(problem)], "right"), (wrong, "wrong"), ("", "no answer")][i % 3]
        texts.append(f"```python\n{code}\n```")
        problems.append(problem)
        kinds.append("right" if code == wrong and i == 9 and problem is SQUARE else kind)
    verdicts = verifier.verify(texts, problems)
    assert [verdict.kind for verdict in verdicts] == kinds
    assert [verdict.reward for verdict in verdicts] == [float(kind == "right") for kind in kinds]


def test_verify_checks_a_program_once_for_a_problem(verifier, monkeypatch):
    seen = []

    def counted(program, problem, boxes):
        seen.append((program, problem))
        return check(program, problem, boxes)

    monkeypatch.setattr(program_verifier, "check", counted)
    texts = ["print(3)", "```\nprint(3)\n```", "So:\n```python\nprint(3)\n```", "print(3)"]
    verdicts = verifier.verify(texts, [ADD, ADD, ADD, SQUARE])
    assert [verdict.kind for verdict in verdicts] == ["right"] * 3 + ["error"]
    assert len(seen) == 2


def test_verify_nothing(verifier):
    assert verifier.verify([], []) == []
    assert [v.kind for v in verifier.verify(["", " "], [ADD, SQUARE])] == ["no answer"] * 2


def test_verify_gives_nan_where_the_sandbox_fails(verifier, monkeypatch):
    run = Sandbox.run

    def failing(sandbox, program, *rest):
        if program.startswith("fail"):
            raise SandboxError("no sandbox")
        return run(sandbox, program, *rest)

    monkeypatch.setattr(Sandbox, "run", failing)
    verdicts = verifier.verify(["fail()", "print(3)"], [ADD, ADD])
    assert [verdict.kind for verdict in verdicts] == ["unknown", "right"]
    assert math.isnan(verdicts[0].reward)
    with pytest.raises(RuntimeError, match="none of 1 programs could be checked: no sandbox"):
        verifier.verify(["fail()", ""], [ADD, ADD])


def test_verify_survives_the_death_of_its_sandboxes(verifier):
    for sandboxes in verifier._pool._sandboxes:
        for sandbox in sandboxes:
            sandbox._server.process.kill()
    verdicts = verifier.verify([RIGHT[id(ADD)], RIGHT[id(SQUARE)]] * 2, [ADD, SQUARE] * 2)
    assert [verdict.kind for verdict in verdicts] == ["right"] * 4


def test_verify_refuses_unequal_lengths(verifier):
    with pytest.raises(ValueError, match="problems must be as many as texts, 1, got 0"):
        verifier.verify(["print(3)"], [])


def test_verifier_refuses_bad_values():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        ProgramVerifier(workers=0)
    with pytest.raises(ValueError, match=r"the backend must be one of .* got 'docker'"):
        ProgramVerifier(backend="docker")
