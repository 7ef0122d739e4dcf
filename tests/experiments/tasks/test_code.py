import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tasks.code import complete_function, defines, extract_code, put_before

F = "```"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("print(1)", "print(1)\n"),
        ("    return 1\n", "    return 1\n"),
        ("\n\n    return 1\n\n", "    return 1\n"),
        (f"Here:\n{F}python\nx = 1\n{F}\nDone.", "x = 1\n"),
        (f"{F}py\nx = 1\n{F}", "x = 1\n"),
        (f"{F}Python3\nx = 1\n{F}", "x = 1\n"),
        (f"{F} python\nx = 1\n{F}", "x = 1\n"),
        (f"{F}python title=a.py\nx = 1\n{F}", "x = 1\n"),
        (f"{F}\nx = 1\n{F}", "x = 1\n"),
        ("~~~\nx = 1\n~~~", "x = 1\n"),
        ("~~~python\nx = 1\n~~~\n", "x = 1\n"),
        (f"````python\ns = '''\n{F}\n'''\n````", f"s = '''\n{F}\n'''\n"),
        (f"~~~\n{F}\n~~~", f"{F}\n"),
        (f"{F}python\nx = 1\n{F}\nor\n{F}python\nx = 2\n{F}", "x = 2\n"),
        (f"{F}python\nx = 1\n{F}\nIt prints\n{F}text\n5\n{F}", "x = 1\n"),
        (f"{F}python\nx = 1\n{F}\n{F}bash\npython x.py\n{F}", "x = 1\n"),
        (f"{F}cpp\nint x;\n{F}", None),
        (f"{F}python\nx = 1\ny = 2", "x = 1\ny = 2\n"),
        (f"{F}python\nx = 1\n{F}\nBetter:\n{F}python\nx = 2", "x = 2\n"),
        (f"{F}python\nx = 1{F}", "x = 1\n"),
        (f"{F}python\n{F}", None),
        (f"{F}python", None),
        (f"  {F}python\n  def f():\n      return 1\n  {F}", "def f():\n    return 1\n"),
        (f"1. So:\n    {F}python\n    x = 1\n    {F}", "x = 1\n"),
        (f"{F}python\nx = '''\n    {F}\n'''\n{F}", f"x = '''\n    {F}\n'''\n"),
        (f"{F}python\r\nx = 1\r\ny = 2\r\n{F}\r\n", "x = 1\ny = 2\n"),
        (f"{F}python\n    return x\n{F}", "    return x\n"),
        (f"use {F}f{F} here", f"use {F}f{F} here\n"),
        (f"{F}x = 1{F}", f"{F}x = 1{F}\n"),
        (f"<think>\n{F}python\nbad\n{F}\n</think>\n{F}python\ngood\n{F}", "good\n"),
        ("", None),
        ("  \n \n", None),
    ],
)
def test_extract_code_of_a_completion(text, code):
    assert extract_code(text) == code


PROMPT = 'import math\n\n\ndef f(x):\n    """Doc."""\n'


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("    return x\n", 1),
        ("return x\n", 1),
        ("y = x\n    return y\n", 1),
        ("y = x\nreturn y\n", 1),
        ("if x:\n    return x\nreturn 0\n", 1),
        ("if x:\n    return x\n", 1),
        ("if x:\n        return x\n    return 0\n", 1),
        ("    return x\n\n\nprint(f(1\n", 1),
        ("    return x\ndef g(:\n", 1),
        ("    return [\n        x\n][0]\n", 1),
        ("    return math.floor(x)\n", 1),
        ("def f(x):\n    return math.floor(x)\n", 1),
        ("from __future__ import annotations\ndef f(x: Unknown):\n    return x\n", 1),
        ("async def f(x):\n    return 1\n", None),
        ("f = lambda x: x\n", 1),
        ("f: object = lambda x: x\n", 1),
        ("class f:\n    def __new__(cls, x):\n        return x\n", 1),
        ("def ff(x):\n    return 2\n", None),
        ("Sorry, I cannot.\n", SyntaxError),
    ],
)
def test_complete_function_makes_a_program(code, expected):
    program = complete_function(PROMPT, "import math\n", code, "f")
    names = {}
    if expected is SyntaxError:
        with pytest.raises(SyntaxError):
            exec(program, names)
    else:
        exec(program, names)
        assert expected is None or names["f"](1) == expected


def test_defines_looks_at_lines_that_are_not_indented():
    assert defines("x = 1\ndef f(a): pass", "f")
    assert not defines("class A:\n    def f(self): pass", "f")
    assert not defines("f == 1", "f")
    assert not defines("def f2(): pass", "f")


def test_put_before_keeps_future_imports_first():
    code = "from __future__ import annotations\nx: y = a\n"
    program = put_before("a = 3", code)
    names = {}
    exec(program, names)
    assert names["x"] == 3
    assert put_before("", code) == code
    code = "from __future__ import (\n    annotations,\n)\nx: y = a\n"
    assert put_before("a = 3", code).startswith(
        "from __future__ import (\n    annotations,\n)\na = 3"
    )


@given(st.text(st.characters(exclude_characters="`~\r")), st.sampled_from(["```", "~~~~"]))
def test_extract_code_finds_any_block(code, fence):
    found = extract_code(f"Text.\n{fence}python\n{code}\n{fence}\nMore.")
    assert found == (code.strip("\n").rstrip() + "\n" if code.strip() else None)


@given(st.text("`~ \t\npython1"))
def test_extract_code_survives_any_text(text):
    found = extract_code(text)
    assert found is None or re.sub(r"\s", "", found) in re.sub(r"\s", "", text)


@pytest.mark.parametrize("text", ["``` a" + " " * 10**6 + "b", "```\n" * 10**5, " " * 10**6 + "x",
                                  "from __future__ import (" * 10**5, "def " * 10**5])  # fmt: skip
def test_extract_code_takes_linear_time(text):
    start = time.process_time()
    code = extract_code(text) or text
    complete_function(PROMPT, "import math", code, "f")
    put_before("import math", code.replace("import (", "import (\n"))
    assert time.process_time() - start < 3
