import json
import os
import time

import pytest

from experiments.sandbox import Limits, Result, SandboxError
from experiments.sandbox.values import encode

ENDLESS = "while True: pass"


@pytest.mark.parametrize("field", ["seconds", "memory_bytes", "threads"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True])
def test_limits_name_a_bad_field(field, value):
    with pytest.raises(ValueError, match=field):
        Limits(**{field: value})


def test_limits_refuse_less_memory_than_the_interpreter_takes():
    with pytest.raises(ValueError, match="memory_bytes must be at least 67108864"):
        Limits(memory_bytes=1 << 20)
    with pytest.raises(ValueError, match=r"files must be a whole number, got 1\.5"):
        Limits(files=1.5)  # pyright: ignore


def _call(running, path, *args):
    running.send(json.dumps({"call": path, "args": encode(args), "kwargs": encode({})}).encode())
    return json.loads(running.receive())


def test_start_answers_calls(sandbox):
    program = (
        "def swap(a, b): return b, a\nclass S:\n    def f(self, x): return x[::-1]\nn = 0\n"
        "def count():\n    global n\n    n += 1\n    return n\ndef bad(): raise KeyError('k')\n"
    )
    with sandbox.start("calls", program, Limits()) as running:
        assert json.loads(running.receive()) == {"ready": True}
        assert _call(running, "swap", 1, [2]) == {"value": {"tuple": [[2], 1]}}
        assert _call(running, "S().f", "abc") == {"value": "cba"}
        assert _call(running, "count") == {"value": 1}
        assert _call(running, "count") == {"value": 2}
        assert _call(running, "bad") == {"error": "KeyError", "message": "'k'"}
        assert _call(running, "nothing")["error"] == "AttributeError"


def test_start_runs_tests_whose_calls_the_host_answers(sandbox):
    tests = "assert add(2, 3) == 5\ntry:\n    add('', 1)\nexcept TypeError:\n    pass\nelse:\n    assert False\n"

    def verdict(add):
        with sandbox.start("tests", tests, Limits(), functions={"add": "add"}) as running:
            while isinstance(line := running.receive(), bytes):
                message = json.loads(line)
                if "passed" in message:
                    return message
                a, b = message["args"]["tuple"]
                running.send(json.dumps(add(a, b)).encode())
            return line

    right = verdict(lambda a, b: {"value": a + b} if a else {"error": "TypeError"})
    assert right == {"passed": True}
    assert verdict(lambda a, b: {"value": 6})["error"] == "AssertionError"
    assert verdict(lambda a, b: {"value": {"set": 6}})["error"] == "NotPlainError"
    assert verdict(lambda a, b: ["value"])["passed"] is False


def test_start_does_not_count_the_time_of_the_host(sandbox):
    with sandbox.start("calls", "def f(): return 1", Limits(seconds=0.3)) as running:
        running.receive()
        for _ in range(3):
            time.sleep(0.4)
            assert _call(running, "f") == {"value": 1}


def test_start_gives_no_answer_of_a_program_that_reached_a_limit(sandbox):
    program = "def f():\n    print('x' * 1000, flush=True)\n    return 1"
    with sandbox.start("calls", program, Limits(output_bytes=100)) as running:
        running.receive()
        running.send(b'{"call": "f", "args": [], "kwargs": {"dict": []}}')
        result = running.receive()
    assert isinstance(result, Result)
    assert (result.status, len(result.output)) == ("output", 100)


def test_start_tells_what_a_program_said_before_it_ended(sandbox):
    program = "import os\nos.write(4, b'one\\ntwo\\nthree')\nos._exit(0)"
    with sandbox.start("calls", program, Limits()) as running:
        assert [running.receive(), running.receive()] == [b"one", b"two"]
        assert running.receive().status == "ok"


def test_start_raises_in_one_line_without_descriptors(sandbox, monkeypatch):
    def refuse():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxError, match=r"cannot start a program: .*Too many open files"):
        sandbox.run("print(1)")
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert sandbox.run("print(1)").output == "1\n"


def test_start_ends_a_program_that_the_host_leaves(sandbox):
    replaced = sandbox.replaced
    with pytest.raises(KeyboardInterrupt), sandbox.start("script", ENDLESS, Limits()):
        raise KeyboardInterrupt
    assert sandbox.run("print(1)").output == "1\n"
    assert sandbox.replaced == replaced
