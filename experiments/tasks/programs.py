"""Programming problems, and the check of a program against the tests of one.

A program runs in a sandbox that holds nothing of the tests but the current input. Expected outputs
are compared on the host. A test program, as of HumanEval and MBPP, runs in a second sandbox, where
the functions under test are stand-ins; see unit_tests. So a program can reach no expected value and
no verdict, and a value that it returns is compared as plain data, whatever it was.

All calls of one problem go to one process of the program. Nothing in it is secret, and what one
call leaves behind for the next can come from the program alone. Each test by standard input has a
process of its own.

Below: code, outputs, unit_tests, verdict, experiments.sandbox. Above: program_files,
livecodebench, program_verifier.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.sandbox import Limits, Result, Running, Sandbox, SandboxError
from experiments.sandbox.values import encode
from experiments.tasks.code import complete_function, extract_code, put_before
from experiments.tasks.outputs import plain_json, same_tokens, same_value, short_text
from experiments.tasks.unit_tests import inside_reason, with_imports
from experiments.tasks.verdict import Verdict


class StdinTests(NamedTuple):
    """Standard inputs and outputs, compared token by token.

    Attributes:
      cases: (input, expected output) pairs.
      tolerance: of a number b: |a - b| <= tolerance · max(1, |b|); 0 compares texts.
      ignore_case: whether "Yes" is "YES".
    """

    cases: tuple[tuple[str, str], ...]
    tolerance: float = 0.0
    ignore_case: bool = False


class CallTests(NamedTuple):
    """Calls of one function with values of JSON; a tuple equals a list.

    Attributes:
      function: its name, or `Class().method`.
      cases: (arguments, expected value) pairs.
      tolerance: as of StdinTests.
    """

    function: str
    cases: tuple[tuple[Sequence[Any], Any], ...]
    tolerance: float = 0.0


class ProgramTests(NamedTuple):
    """A program that raises an exception unless the functions under test are right.

    Attributes:
      text: source text of Python.
      functions: names of the functions of the program under test that it calls; no classes.
      inside: why it has to run in the process of the program under test; empty if it does not. A
        program can then tamper with the test: the verdict is weak.
    """

    text: str
    functions: tuple[str, ...]
    inside: str = ""


def program_tests(text: str, functions: Sequence[str]) -> ProgramTests:
    """Makes tests of a test program, and decides where it runs.

    Raises:
      SyntaxError: if it cannot be parsed.
    """
    text = with_imports(text, functions)
    return ProgramTests(text, tuple(functions), inside_reason(text, functions))


@dataclasses.dataclass(frozen=True)
class Problem:
    """A programming problem.

    Attributes:
      id: unique in its data set.
      prompt: the message to the model, without a chat template.
      tests: of one kind.
      limits: of a program: for each test by standard input and each call, and for a test program
        as a whole.
      before: statements put before the code of a completion.
      unfinished: a function up to its docstring, which a completion may go on from.
      entry_point: the name of that function.
      starter_code: as shown in the prompt.
      answer_prefix: how the answer begins in the prompt already; put before a completion.
      solution: a reference program, or empty.
      metadata: split, difficulty, date and the like.
    """

    id: str
    prompt: str
    tests: StdinTests | CallTests | ProgramTests
    limits: Limits = Limits()  # noqa: RUF009  # frozen
    before: str = ""
    unfinished: str = ""
    entry_point: str = ""
    starter_code: str = ""
    answer_prefix: str = ""
    solution: str = ""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def weak(self) -> str:
        """Says why a program could tamper with its verdict; empty if it cannot."""
        return self.tests.inside if isinstance(self.tests, ProgramTests) else ""


def program_of(text: str, problem: Problem) -> str | None:
    """Makes the program to check of a completion; None if it has no code."""
    code = extract_code(problem.answer_prefix + text)
    if code is None:
        return None
    if problem.unfinished:
        return complete_function(problem.unfinished, problem.before, code, problem.entry_point)
    return put_before(problem.before, code)


def check(program: str, problem: Problem, sandboxes: Sequence[Sandbox]) -> Verdict:
    """Checks a program, up to the first test that fails.

    Args:
      program: of `program_of`.
      problem: with the tests.
      sandboxes: two, for the program and for a test program.

    Returns:
      The verdict; "unknown" if a sandbox failed twice.
    """
    try:
        match problem.tests:
            case StdinTests():
                return _check_stdin(program, problem.tests, problem.limits, sandboxes[0])
            case CallTests():
                verdict = _check_calls(program, problem.tests, problem.limits, sandboxes[0])
                if verdict.kind == "unknown":
                    return _check_calls(program, problem.tests, problem.limits, sandboxes[0])
                return verdict
        run = _run_inside if problem.tests.inside else _run_outside
        verdict = run(program, problem.tests, problem.limits, sandboxes)
        if verdict.kind == "unknown":
            return run(program, problem.tests, problem.limits, sandboxes)
        return verdict
    except (SandboxError, OSError) as error:  # no sandbox, or no descriptors for one
        return _verdict("unknown", str(error), 0.0)


def _verdict(kind: str, detail: str, seconds: float) -> Verdict:
    reward = {"right": 1.0, "unknown": math.nan}.get(kind, 0.0)
    line = " ".join(detail.split())[:300]
    shown = "".join(letter if letter.isprintable() else "?" for letter in line)
    return Verdict(reward, kind, shown, seconds)


def _failure(result: Result, place: str, seconds: float) -> Verdict:
    """The verdict on a program that ended where it should not have."""
    kinds = {"ok": "died", "killed": "died", "timeout": "timeout", "unknown": "unknown"}
    kind = kinds.get(result.status, "error")
    last = result.detail.rpartition("\n")[2]
    if result.status == "ok":
        last = "it ended without an answer"
    elif result.status in ("memory", "output", "killed"):
        last = f"{result.status}: {last}"
    return _verdict(kind, f"{place}: {last}", seconds)


def _check_stdin(program: str, tests: StdinTests, limits: Limits, sandbox: Sandbox) -> Verdict:
    seconds = 0.0
    for number, (stdin, expected) in enumerate(tests.cases, 1):
        place = f"test {number} of {len(tests.cases)}"
        result = sandbox.run(program, stdin, limits)
        seconds += result.seconds
        if result.status != "ok":
            return _failure(result, place, seconds)
        if not same_tokens(result.output, expected, tests.tolerance, tests.ignore_case):
            why = f"expected {short_text(expected)}, got {short_text(result.output)}"
            return _verdict("wrong", f"{place}: {why}", seconds)
    return _verdict("right", "", seconds)


def _check_calls(program: str, tests: CallTests, limits: Limits, sandbox: Sandbox) -> Verdict:
    seconds, start = 0.0, 0
    while True:
        with sandbox.start("calls", program, limits) as running:
            number, failure = _call(running, tests, start)
        seconds += running.result().seconds
        if failure is None:
            return _verdict("right", "", seconds)
        # The limit is for one call: one that began with less of it gets a process of its own.
        if isinstance(failure, Result) and failure.status == "timeout" and number > start:
            start = number
            continue
        place = f"test {number + 1} of {len(tests.cases)}"
        if isinstance(failure, Result):
            return _failure(failure, place, seconds)
        return _verdict(failure[0], f"{place}: {failure[1]}", seconds)


def _call(
    running: Running, tests: CallTests, start: int
) -> tuple[int, Result | tuple[str, str] | None]:
    """Makes the calls from a case on; returns the case at fault and the fault, None for none."""
    reply = _reply(running, "ready")
    if isinstance(reply, Result):
        return start, reply
    for number, (arguments, expected) in enumerate(tests.cases[start:], start):
        request = {
            "call": tests.function,
            "args": encode(list(arguments)),
            "kwargs": encode({}),
        }
        running.send(json.dumps(request).encode())
        reply = _reply(running, "value", "error")
        if isinstance(reply, Result):
            return number, reply
        if "error" in reply:
            return number, ("error", f"{reply['error']}: {reply['message']}")
        try:
            got = plain_json(reply["value"])
            same = same_value(got, expected, tests.tolerance)
        except (ValueError, TypeError, ArithmeticError, RecursionError):
            return number, ("wrong", "a value that is no JSON")
        if not same:
            return number, ("wrong", f"expected {short_text(expected)}, got {short_text(got)}")
    return len(tests.cases), None


def _reply(running: Running, *keys: str) -> dict[str, Any] | Result:
    """Receives a message of a program that nobody trusts, with one of the keys."""
    line = running.receive()
    if isinstance(line, Result):
        return line
    try:
        message = json.loads(line)
        if isinstance(message, dict):
            if "error" in keys and "error" in message:
                message = {name: str(message.get(name, "")) for name in ("error", "message")}
                return message
            for key in keys:
                if key in message:
                    return {key: message[key]}
    except (ValueError, RecursionError):
        pass
    return Result("error", detail="it answered with something else than a value")


def _run_outside(
    program: str, tests: ProgramTests, limits: Limits, sandboxes: Sequence[Sandbox]
) -> Verdict:
    """Runs a test program beside the program, in a sandbox of its own."""
    functions = {name: name for name in tests.functions}
    with sandboxes[0].start("calls", program, limits) as candidate:
        ready = _reply(candidate, "ready")
        if isinstance(ready, Result):
            candidate.end()
            return _failure(ready, "the program", candidate.result().seconds)
        with sandboxes[1].start("tests", tests.text, limits, functions=functions) as test:
            kind, detail = _relay(candidate, test, tests)
    seconds = candidate.result().seconds
    return _verdict(kind, detail, seconds + test.result().seconds)


def _relay(candidate: Running, test: Running, tests: ProgramTests) -> tuple[str, str]:
    """Passes calls and values between the two processes; returns the verdict's kind and detail."""
    reply: dict[str, Any] | Result = {}
    while True:
        line = test.receive()
        if isinstance(line, Result):  # the test comes to its end with the values of a right program
            failure = _failure(line, "the test, with the values of the program", 0.0)
            return failure.kind, failure.detail
        message = json.loads(line)
        if "passed" in message:
            return _outcome(message, tests.text, str(reply.get("error", "")))
        candidate.send(line)
        reply = _reply(candidate, "value", "error")
        if isinstance(reply, Result):
            failure = _failure(reply, f"a call of {message['call']}", 0.0)
            return failure.kind, failure.detail
        if reply.get("error") == "StopIteration":  # it would end a loop of the test, unnoticed
            reply["error"] = "RuntimeError"
        try:
            test.send(json.dumps(reply).encode())
        except RecursionError:
            return "error", f"a call of {message['call']}: a value that is nested too deeply"


def _outcome(message: Mapping[str, Any], text: str, raised: str) -> tuple[str, str]:
    """Reads the outcome of a test program; `raised` names the last call's exception."""
    if message["passed"] is True:
        return "right", ""
    error, number = message["error"], message.get("line", 0)
    lines = text.split("\n")
    place = f"line {number}: {lines[number - 1].strip()[:150]}" if 0 < number <= len(lines) else ""
    if raised and error in (raised, "_CallError"):
        return "error", f"{raised}: {message['message']}; {place}"
    return "wrong", f"{error} {message['message']}; {place}"


def _run_inside(
    program: str, tests: ProgramTests, limits: Limits, sandboxes: Sequence[Sandbox]
) -> Verdict:
    """Runs a test program after the program, in one process."""
    text = f"{program}\n{tests.text}\n"
    weak = f"weak: {tests.inside}"
    with sandboxes[0].start("tests", text, limits) as running:
        reply = _reply(running, "passed", "error")
    seconds = running.result().seconds
    if isinstance(reply, Result):
        return _failure(reply, weak, seconds)
    if reply.get("passed") is True:
        return _verdict("right", weak, seconds)
    reply = {"error": "", "message": "no verdict", **reply}
    kind = "wrong" if reply["error"] == "AssertionError" else "error"
    return _verdict(kind, f"{weak}: {reply['error']} {reply['message']}", seconds)
