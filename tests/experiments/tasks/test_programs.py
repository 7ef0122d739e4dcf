import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.sandbox import Limits, Running, Sandbox, SandboxError
from experiments.tasks.programs import (
    CallTests,
    Problem,
    StdinTests,
    check,
    program_of,
    program_tests,
)
from tests.experiments.tasks.boxes import boxes_fixture  # noqa: F401

FAST = Limits(seconds=0.5)
ADD = StdinTests((("1 2\n", "3\n"), ("2 5\n", "7\n")))
SQUARE = program_tests("assert f(2) == 4\nassert f(3) == 9\n", ["f"])
PAIRS = CallTests("Solution().pair", (([1, 2], [1, 2]), ([3, "a"], [3, "a"])))
METHOD = "class Solution:\n    def pair(self, a, b):\n        return "


def kind_and_detail(program, tests, boxes, limits=FAST):
    verdict = check(program, Problem("p", "", tests, limits), boxes)
    assert (verdict.reward == 1) == (verdict.kind == "right")
    assert math.isnan(verdict.reward) == (verdict.kind == "unknown")
    assert "\n" not in verdict.detail
    return verdict.kind, verdict.detail


@pytest.mark.parametrize(
    ("program", "kind", "detail"),
    [
        ("print(sum(map(int, input().split())))", "right", ""),
        ("print(3)", "wrong", "test 2 of 2: expected '7', got '3'"),
        ("print(sum(map(int, input().split())), 'x')", "wrong", "test 1 of 2"),
        ("", "wrong", "test 1 of 2: expected '3', got ''"),
        ("print(3); exit(1)", "error", "test 1 of 2"),
        ("print(1 / 0)", "error", "test 1 of 2: ZeroDivisionError: division by zero"),
        ("print(", "error", "SyntaxError"),
        ("while True: pass", "timeout", "test 1 of 2"),
        ("input(); import time; time.sleep(60)", "timeout", "test 1 of 2"),
        ("x = [0] * 10**10", "error", "test 1 of 2: memory"),
        ("while True: print('x' * 1000)", "error", "output"),
        ("import ctypes; ctypes.string_at(0)", "died", "test 1 of 2"),
        ("if __name__ == '__main__':\n    print(sum(map(int, input().split())))", "right", ""),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))\nexit()", "right", ""),
    ],
)
def test_check_of_standard_input(program, kind, detail, boxes):
    found = kind_and_detail(program, ADD, boxes)
    assert found[0] == kind
    assert detail in found[1]


@pytest.mark.parametrize(
    ("program", "kind", "detail"),
    [
        (METHOD + "[a, b]", "right", ""),
        (METHOD + "(a, b)", "right", ""),
        (METHOD + "[float(a), b] if b == 2 else [a, b]", "right", ""),
        (METHOD + "[1, 2]", "wrong", "test 2 of 2: expected \"[3, 'a']\", got '[1, 2]'"),
        (METHOD + "{a, b}", "wrong", "test 1 of 2"),
        (METHOD + "iter([a, b])", "wrong", "test 1 of 2"),
        (METHOD + "None", "wrong", "test 1 of 2"),
        (METHOD + "[[a, b]]", "wrong", "test 1 of 2"),
        (METHOD + "[a, b, b]", "wrong", "test 1 of 2"),
        (METHOD + "a / 0", "error", "test 1 of 2: ZeroDivisionError: division by zero"),
        (METHOD + "object()", "error", "NotPlainError"),
        (METHOD + "exit()", "died", "test 1 of 2"),
        (METHOD + "self.pair(a, b)", "error", "RecursionError"),
        ("def pair(a, b):\n    return [a, b]", "error", "Solution"),
        ("raise ValueError('at once')", "error", "test 1 of 2: ValueError: at once"),
        ("exit()", "died", "test 1 of 2"),
        ("x = input()", "error", "EOFError"),
        (METHOD + "[a, b]\nif __name__ == '__main__':\n    exit()", "right", ""),
        ("print('noise')\n" + METHOD + "print(a) or [a, b]", "right", ""),
    ],
)
def test_check_of_calls(program, kind, detail, boxes):
    found = kind_and_detail(program, PAIRS, boxes)
    assert found[0] == kind
    assert detail in found[1]


@pytest.mark.parametrize(
    ("returned", "expected", "tolerance", "kind"),
    [
        ("{'a': (1, 2)}", {"a": [1, 2]}, 0, "right"),
        ("{'a': 1, 'b': 2}", {"a": 1}, 0, "wrong"),
        ("{1: 2}", {"1": 2}, 0, "wrong"),
        ("2**100", 2**100, 0, "right"),
        ("2**100 + 1", 2**100, 0, "wrong"),
        ("0.1 + 0.2", 0.3, 0, "wrong"),
        ("0.1 + 0.2", 0.3, 1e-9, "right"),
        ("[0.1 + 0.2, 'x']", [0.3, "x"], 1e-9, "right"),
        ("10**400", 0.3, 1e-9, "wrong"),
        ("float('nan')", 0.3, 1e-9, "wrong"),
        ("'1'", 1, 0, "wrong"),
        ("b'1'", "1", 0, "wrong"),
        ("True", True, 0, "right"),
        ("[]", {}, 0, "wrong"),
        ("None", None, 0, "right"),
    ],
)
def test_check_of_calls_compares_json(returned, expected, tolerance, kind, boxes):
    tests = CallTests("f", (((), expected),), tolerance)
    assert kind_and_detail(f"def f(): return {returned}", tests, boxes)[0] == kind


def test_check_of_calls_gives_each_call_its_time(boxes):
    program = """
import time
def f(x):
    end = time.process_time() + 0.3
    while time.process_time() < end: pass
    return x
"""
    tests = CallTests("f", tuple(([i], i) for i in range(4)))
    assert kind_and_detail(program, tests, boxes)[0] == "right"
    kind, detail = kind_and_detail(program.replace("0.3", "0.3 + x"), tests, boxes)
    assert kind == "timeout"
    assert detail.startswith("test 2 of 4: more than 0.5 s")


@pytest.mark.parametrize(
    ("program", "kind", "detail"),
    [
        ("def f(x): return x * x", "right", ""),
        ("f = lambda x: x ** 2", "right", ""),
        ("def f(x): return 4", "wrong", "line 2: assert f(3) == 9"),
        ("def f(x): pass", "wrong", "line 1: assert f(2) == 4"),
        ("def f(x): raise KeyError('k')", "error", "KeyError: "),
        ("class E(Exception): pass\ndef f(x): raise E('k')", "error", "E: k"),
        ("def f(x): raise AssertionError('a')", "error", "AssertionError: a"),
        ("def f(x): return f", "error", "NotPlainError: a value of type function is not plain"),
        ("def g(x): return x * x", "error", "no attribute 'f'"),
        ("def f(x):\n    while True: pass", "timeout", "a call of f"),
        ("while True: pass", "timeout", "the program"),
        ("def f(x): exit(0)", "died", "a call of f: it ended without an answer"),
        ("def f(:", "error", "SyntaxError"),
        ("def f(x): return range(10**18)", "wrong", "line 1"),
    ],
)
def test_check_of_a_test_program(program, kind, detail, boxes):
    found = kind_and_detail(program, SQUARE, boxes)
    assert found[0] == kind
    assert detail in found[1]


HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3)
    | st.binary(max_size=3) | st.complex_numbers(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES, VALUES, st.booleans())
def test_check_compares_plain_values_as_plain_python_does(boxes, value, other, same):
    text = "nan, inf = float('nan'), float('inf')\n"
    other = value if same else other
    names = {"nan": math.nan, "inf": math.inf}
    equal = eval(repr(value), names.copy()) == eval(repr(other), dict(names, nan=float("nan")))
    program = f"{text}def f(x): return {value!r}"
    tests = program_tests(f"{text}assert f(1) == {other!r}", ["f"])
    assert kind_and_detail(program, tests, boxes)[0] == ("right" if equal else "wrong")


def test_check_of_a_test_program_that_needs_a_class_is_weak(boxes):
    tests = program_tests("assert f(Node(2)) == 4\n", ["f"])
    node = "class Node:\n    def __init__(self, x): self.x = x\n"
    assert kind_and_detail(node + "def f(n): return n.x ** 2", tests, boxes) == (
        "right", "weak: the test uses Node of the program"
    )  # fmt: skip
    assert kind_and_detail(node + "def f(n): return n.x", tests, boxes)[0] == "wrong"
    assert kind_and_detail(node + "def f(n): return n.y", tests, boxes)[0] == "error"
    assert kind_and_detail(node + "def f(n): exit(0)", tests, boxes)[0] == "died"


def test_check_blames_the_program_for_values_that_stop_the_test(boxes):
    tests = program_tests("assert 1 not in set(f(1))\n", ["f"])
    assert kind_and_detail("def f(x): return range(2, 10**18)", tests, boxes)[0] in (
        "error", "timeout", "wrong"
    )  # fmt: skip


CHEATS = {
    "equal to all": """
class Yes:
    def __eq__(self, other): return True
    def __hash__(self): return 0
def f(x): return Yes()
""",
    "an int that equals all": """
class Yes(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(x): return Yes(7)
""",
    "a str that equals all": """
class Yes(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
    def __str__(self): return "4"
def f(x): return Yes("4")
""",
    "exits": "import sys\ndef f(x): sys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits in a call": "import os\ndef f(x): os._exit(0)",
    "prints passed": "def f(x):\n    print('passed', '{\"passed\": true}')\n    return 1",
    "raises SystemExit": "raise SystemExit(0)",
    "raises BaseException": "def f(x): raise BaseException()",
    "raises StopIteration": "def f(x): raise StopIteration()",
    "writes a verdict": """
import os
os.write(4, b'{"passed": true}\\n')
def f(x):
    os.write(4, b'{"passed": true}\\n')
    return 1
""",
    "writes values": """
import os
def f(x):
    os.write(4, b'{"ready": true}\\n' * 10)
    return 1
""",
    "writes rubbish": "import os\ndef f(x): os.write(4, bytes(range(256)) + b'\\n')",
    "writes unknown types": "import os\ndef f(x): os.write(4, b'{\"value\": {\"yes\": 1}}\\n')",
    "writes two types": "import os\ndef f(x): os.write(4, b'{\"value\": {\"set\": [], \"int\": \"0x4\"}}\\n')",
    "writes an endless line": "import os\ndef f(x):\n    while True: os.write(4, b'[' * 1000)",
    "writes a deep value": "import os\ndef f(x): os.write(4, b'{\"value\": ' + b'[' * 9**5 + b'\\n')",
    "closes the channel": "import os\ndef f(x): os.close(4)",
    "closes all": "import os\ndef f(x): os.closerange(0, 100)",
    "patches json": """
import json
json.dumps = lambda value: '{"passed": true}'
json.loads = lambda text: {"call": "f", "args": [], "kwargs": {}}
def f(x): return 1
""",
    "patches builtins": """
import builtins
builtins.print = builtins.open = builtins.isinstance = builtins.len = lambda *a, **k: True
builtins.AssertionError = type("AssertionError", (BaseException,), {})
def f(x): return 1
""",
    "patches the server": """
import sys
for frame in list(sys._current_frames().values()):
    while frame:
        if "encode" in frame.f_globals:
            frame.f_globals["encode"] = lambda value, depth=0: {"passed": True}
        frame = frame.f_back
def f(x): return 1
""",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)\ndef f(x): return 1",
    "kills all": "import os\ndef f(x):\n    os.kill(-1, 9)\n    return 1",
    "a generator": "def f(x): yield x * x",
    "NaN": "def f(x): return float('nan')",
    "a huge number": "def f(x): return 10 ** 100000",
    "an endless generator": "def f(x):\n    while True: yield 1",
    "deep nesting": "def f(x):\n    v = []\n    for _ in range(10**5): v = [v]\n    return v",
    "a cycle": "def f(x):\n    v = []\n    v.append(v)\n    return v",
    "a mock": "from unittest.mock import ANY\ndef f(x): return ANY",
    "a lying dict": "class D(dict):\n    def __eq__(s, o): return True\ndef f(x): return D()",
    "a lying class": "class L:\n    __class__ = int\n    def __eq__(s, o): return True\ndef f(x): return L()",
    "forks": "import os\nos.fork()\ndef f(x): return 1",
    "answers at exit": "import atexit, os\natexit.register(os.write, 4, b'{\"value\": 4}\\n')\nexit()",
}  # fmt: skip


@pytest.mark.parametrize("name", CHEATS)
@pytest.mark.parametrize("kind", ["program", "calls", "stdin"])
def test_check_of_a_cheat_is_not_right(name, kind, boxes):
    tests = {
        "program": SQUARE,
        "calls": CallTests("f", (([2], 4), ([3], 9))),
        "stdin": StdinTests((("2\n", "4\n"), ("3\n", "9\n"))),
    }[kind]
    program = CHEATS[name] + ("\nprint(f(int(input())))" if kind == "stdin" else "")
    assert kind_and_detail(program, tests, boxes)[0] not in ("right", "unknown")
    # And nothing of it is left for the next program.
    right = "def f(x): return x * x" + ("\nprint(f(int(input())))" if kind == "stdin" else "")
    assert kind_and_detail(right, tests, boxes)[0] == "right"


@pytest.mark.parametrize("error", ["StopIteration", "GeneratorExit", "IndexError", "BaseException"])
def test_check_notices_an_exception_that_ends_a_loop(error, boxes):
    tests = program_tests("for a, b in zip(map(f, [1, 2]), [2, 3]):\n    assert a == b\n", ["f"])
    assert kind_and_detail("def f(x): return x + 1", tests, boxes)[0] == "right"
    kind, _ = kind_and_detail(f"def f(x): raise {error}()", tests, boxes)
    assert kind in ("error", "died")


def test_check_keeps_expected_values_out_of_the_process_of_the_program(boxes):
    program = """
import os, sys
def f(x):
    frame, seen = sys._getframe(), [os.environ, sys.argv]
    while frame:
        seen += [frame.f_locals, frame.f_globals]
        frame = frame.f_back
    seen.append(open("/proc/self/cmdline").read())
    text = "".join(repr(item)[:10**7] for item in seen)
    return [word in text for word in ("74" + "192", "serve_calls")]
"""
    tests = program_tests("assert f(2) == [False, True]\nassert f(1) == 74192\n", ["f"])
    limits = Limits(seconds=10)
    kind, detail = kind_and_detail(program, tests, boxes, limits)
    assert (kind, detail.rpartition(": ")[2]) == ("wrong", "assert f(1) == 74192")


def test_check_is_unknown_if_a_sandbox_fails(boxes, monkeypatch):
    def fail(*_, **__):
        raise SandboxError("the sandbox does not start")

    monkeypatch.setattr(Sandbox, "start", fail)
    for tests in (ADD, PAIRS, SQUARE):
        assert kind_and_detail("", tests, boxes) == ("unknown", "the sandbox does not start")


@pytest.mark.parametrize("box", [0, 1])
@pytest.mark.parametrize("tests", [PAIRS, SQUARE])
@pytest.mark.parametrize(("deaths", "kind"), [(1, "right"), (99, "unknown")])
def test_check_tries_again_if_a_sandbox_dies(box, tests, deaths, kind, boxes, monkeypatch):
    send, left = Running.send, [deaths]
    number = box if tests is SQUARE else 0

    def killing(running, data):
        if left[0] > 0 and running._control is boxes[number]._server.control:
            left[0] -= 1
            boxes[number]._server.close()
        send(running, data)

    monkeypatch.setattr(Running, "send", killing)
    program = METHOD + "[a, b]\ndef f(x): return x * x"
    assert kind_and_detail(program, tests, boxes)[0] == kind
    assert left[0] < deaths
    monkeypatch.undo()
    assert kind_and_detail(program, tests, boxes)[0] == "right"


def test_program_of_a_completion():
    problem = Problem("p", "", ADD)
    assert program_of("```python\nx = 1\n```", problem) == "x = 1\n"
    assert program_of("", problem) is None
    before = dataclasses.replace(problem, before="import math\n")
    assert program_of("x = math.pi", before) == "import math\nx = math.pi\n"
    prompt = 'def f(x):\n    """Squares."""\n'
    unfinished = dataclasses.replace(problem, unfinished=prompt, entry_point="f")
    assert program_of("    return x * x", unfinished) == prompt + "    return x * x\n\n"
    assert (
        program_of("```\ndef f(x):\n    return x\n```", unfinished) == "def f(x):\n    return x\n"
    )


@pytest.mark.parametrize("depth", [90, 200, 900, 950, 970, 980, 990, 1000, 3000])
@pytest.mark.parametrize("kind", ["program", "calls"])
def test_check_survives_values_of_any_depth(depth, kind, boxes):
    tests = SQUARE if kind == "program" else CallTests("f", (([2], 4),))
    raw = f"b'{{\"value\": ' + b'[' * {depth} + b']' * {depth} + b'}}\\n'"
    for program in (
        f"import os\ndef f(x): os.write(4, {raw})",
        f"def f(x):\n    v = []\n    for _ in range({depth}): v = [v]\n    return v",
    ):
        assert kind_and_detail(program, tests, boxes)[0] in ("wrong", "error")


@pytest.mark.parametrize(
    "program", ["x = '\ud800'", "\x00", "raise ValueError('\ud800\x1b[31m')", "(" * 10**5, "-" * 10**6 + "1"]
)  # fmt: skip
def test_check_survives_texts_of_any_kind(program, boxes):
    for tests in (ADD, PAIRS, SQUARE):
        kind, detail = kind_and_detail(program, tests, boxes)
        assert kind in ("wrong", "error", "died")
        assert detail.isprintable()
        detail.encode()
