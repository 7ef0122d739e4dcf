import pytest

from experiments.tasks.unit_tests import free_names, inside_reason, with_imports


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("assert f(1) == 2", ["f"]),
        ("x = g(1)\nassert f(x) == len(h)", ["g", "f", "h"]),
        ("def check(candidate):\n    assert candidate(y) == 1\ncheck(f)", ["f", "y"]),
        ("import math\nassert math.isclose(f(1), 2)", ["f"]),
        ("from math import pi\nassert f(1) == pi", ["f"]),
        ("from math import *\nassert f(1) == pi + tau", ["f"]),
        ("def check(c):\n    import random\n    for _ in range(3):\n        assert c(random.random())\ncheck(f)", ["f"]),
        ("assert [f(i) for i in range(3)] == [j for j in (1, 2)]", ["f"]),
        ("class A:\n    def m(self):\n        return f(A)\nassert A().m()", ["f"]),
        ("def set_y():\n    global y\n    y = 1\nset_y()\nassert f(y)", ["f"]),
        ("assert (lambda x: f(x))(1)", ["f"]),
        ("try:\n    f(1)\nexcept ValueError as error:\n    assert error", ["f"]),
    ],
)  # fmt: skip
def test_free_names_of_a_test(text, names):
    assert sorted(free_names(text)) == sorted(names)


def test_with_imports_adds_modules_of_the_standard_library():
    text = "assert f(1) == sys.getsizeof(string) + math.pi\n"
    assert with_imports(text, ["f", "string"]) == "import sys\nimport math\n" + text
    assert with_imports("import math\nassert f(math.pi)", ["f"]) == "import math\nassert f(math.pi)"


@pytest.mark.parametrize(
    "text",
    [
        "assert f(1) == 2",
        "assert set(f([1])) == {1} and len(f('x')) == 0",
        "def check(candidate):\n    assert abs(candidate(1) - 2) < 1e-6\ncheck(f)",
        "for i in range(10):\n    assert f(i) == i",
        "try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass",
        "assert sorted([2, 1], key=lambda x: f(x)) == [1, 2]",
        "assert list(map(f, [1, 2])) == [1, 2]",
        "x = f(1)\nassert x.strip() == f(2).lower()",
        "def same(x, key):\n    return x.real == key(x)\nassert same(f(1), abs)",
    ],
)
def test_inside_reason_is_empty_for_plain_values(text):
    assert inside_reason(text, ["f"]) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("assert f(Node(1)) == 2", "Node"),
        ("assert f(lambda x: x) == 2", "passes a function"),
        ("def check(candidate):\n    assert candidate(key=lambda x: x)\ncheck(f)", "passes a function"),
        ("def g(x):\n    return x\nassert f(g, 1) == 2", "passes a function"),
        ("assert f(len, [1]) == 1", "passes a function"),
        ("class A:\n    pass\nassert f(A()) == 1", "own class"),
        ("x = [2, 1]\nf(x)\nassert x == [1, 2]", "in place"),
        ("assert f.__name__ == 'f'", "__name__"),
        ("def check(candidate):\n    assert candidate.__doc__\ncheck(f)", "__doc__"),
        ("stack = f()\nassert stack.push(1) is None", "attribute push of a value"),
        ("assert f().push(1) is None", "attribute push of a value"),
    ],
)  # fmt: skip
def test_inside_reason_names_what_cannot_cross(text, reason):
    assert reason in inside_reason(text, ["f"])
