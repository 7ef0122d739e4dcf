"""Reads LiveCodeBench's releases (arXiv 2403.07974): JSON lines with public and hidden tests.

Hidden tests are a JSON string in a pickle, compressed, as base64. A pickle can run any code when it
is loaded, and a compressed text can be of any size: of the pickle's operations only those that
build texts, numbers, lists and dicts are allowed, and the size is bounded.

Below: programs, program_files, program_prompts, questions.
"""

import base64
import binascii
import io
import json
import pickle
import pickletools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.sandbox import Limits
from experiments.tasks.program_files import field, stdin_tests
from experiments.tasks.program_prompts import starter_prompt, stdin_prompt
from experiments.tasks.programs import CallTests, Problem, StdinTests
from experiments.tasks.questions import json_objects

# What LeetCode imports for the programs that it runs; pow is the builtin one.
_BEFORE = """\
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
sys.setrecursionlimit(50000)
"""

_ALLOWED = set(
    """
    PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    """.split()  # noqa: SIM905
)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise ValueError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any, /) -> Any:
        raise ValueError("it has a persistent id")


def load_plain_pickle(data: bytes) -> Any:
    """Reads a pickle of texts, numbers, lists and dicts.

    Raises:
      ValueError: for any other pickle, before anything of it is loaded.
    """
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name not in _ALLOWED:
                raise ValueError(f"it has the operation {operation.name}")
            # A large number would make the reader reserve memory for as many.
            if operation.name.endswith("PUT") and not 0 <= int(argument or 0) <= len(data):
                raise ValueError(f"it has {operation.name} {argument}")
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # of a broken pickle, of whatever type
        raise ValueError(f"{error}"[:200]) from None


def read_hidden_tests(text: str, max_bytes: int) -> list[Any]:
    """Decodes a field `private_test_cases`.

    Args:
      text: base64 of a compressed pickle of a JSON string; or JSON itself.
      max_bytes: of the decompressed pickle.

    Raises:
      ValueError: saying what is wrong with it.
    """
    if text.lstrip().startswith("["):
        return _json_list(text)
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), max_bytes)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"it is no compressed base64: {error}") from None
    if stream.unconsumed_tail:
        raise ValueError(f"it is of more than {max_bytes} bytes when decompressed")
    if not stream.eof:
        raise ValueError("its compressed data are cut off")
    loaded = load_plain_pickle(data)
    return _json_list(loaded) if isinstance(loaded, str) else _as_list(loaded)


def _json_list(text: str) -> list[Any]:
    try:
        return _as_list(json.loads(text))
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"it must hold a list, got {str(value)[:100]!r}")
    return value


def read_livecodebench(
    path: Path,
    *,
    first_date: str = "",
    last_date: str = "",
    limits: Limits = Limits(seconds=6.0),  # noqa: B008  # frozen; as in the benchmark's own code
    max_bytes: int = 1 << 28,
) -> list[Problem]:
    """Reads one file of a release.

    Args:
      path: of a file of JSON lines.
      first_date: if given, earlier contests are left out; as in 2024-08-01.
      last_date: if given, later contests are left out.
      limits: of a program, for each test.
      max_bytes: of the hidden tests of one problem, decompressed.

    Raises:
      OSError: if there is no such file.
      ValueError: naming the file, the line, the field and its value.
    """
    problems = []
    for place, row in json_objects(path):
        date = field(place, row, "contest_date", "a text that is not empty")
        if date[:10] < first_date or (last_date and date[:10] > last_date):
            continue
        title, statement, name = (
            field(place, row, key, "a text that is not empty")
            for key in ("question_title", "question_content", "question_id")
        )
        starter = field(place, row, "starter_code", "a text", "")
        public = field(place, row, "public_test_cases", "a text")
        private = field(place, row, "private_test_cases", "a text")
        cases = []
        for key, text in (("public_test_cases", public), ("private_test_cases", private)):
            try:
                read = _json_list(text) if text is public else read_hidden_tests(text, max_bytes)
            except ValueError as error:
                raise ValueError(
                    f"{place}: {key} must be tests in LiveCodeBench's format, but {error}"
                ) from None
            cases += [(f"{place}, {key}, case {i}", case) for i, case in enumerate(read, 1)]
        tests = _tests(place, row, statement, cases)
        calls = isinstance(tests, CallTests)
        problems.append(
            Problem(
                id=f"LiveCodeBench/{name}",
                prompt=starter_prompt(statement, starter) if calls else stdin_prompt(statement),
                tests=tests,
                limits=limits,
                before=_BEFORE if calls else "",
                starter_code=starter,
                metadata={
                    "title": title,
                    "platform": field(place, row, "platform", "a text", ""),
                    "difficulty": field(place, row, "difficulty", "a text", ""),
                    "date": date[:10],
                },
            )
        )
    return problems


def _tests(
    place: str, row: Mapping[str, Any], statement: str, cases: list[tuple[str, Any]]
) -> StdinTests | CallTests:
    """Makes tests of one kind of the cases, each {input, output, testtype}."""
    if not cases:
        raise ValueError(
            f"{place}: public_test_cases and private_test_cases must not both be empty"
        )
    pairs, kinds = [], set()
    for at, case in cases:
        if not isinstance(case, dict):
            raise ValueError(f"{at} must be an object, got {str(case)[:100]!r}")
        pairs.append((at, field(at, case, "input", "a text"), field(at, case, "output", "a text")))
        kinds.add(field(at, case, "testtype", "a text"))
    if kinds == {"stdin"}:
        return stdin_tests(statement, [(stdin, output) for _, stdin, output in pairs])
    if kinds != {"functional"}:
        shown = ", ".join(sorted(kinds))
        raise ValueError(f"{place}: testtype must be stdin or functional in all, got {shown[:100]}")
    calls = []
    for at, arguments, output in pairs:
        values = [_value(at, "input", line) for line in arguments.split("\n") if line.strip()]
        calls.append((tuple(values), _value(at, "output", output)))
    return CallTests(f"Solution().{_function_name(place, row)}", tuple(calls))


def _value(place: str, name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{place}: {name} must be JSON, got {text[:100]!r}") from None


def _function_name(place: str, row: Mapping[str, Any]) -> str:
    text = field(place, row, "metadata", "a text")
    metadata = _value(place, "metadata", text)
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"{place}: metadata must have a func_name, got {text[:100]!r}")
    return name
