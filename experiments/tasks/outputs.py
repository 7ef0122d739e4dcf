"""Compares what a program printed or returned with what a test expects, on the host.

What a program gave is data that nobody trusts: each function takes time in proportion to its size.

Above: programs.
"""

import math
from typing import Any, NamedTuple


def same_tokens(
    output: str, expected: str, tolerance: float = 0.0, ignore_case: bool = False
) -> bool:
    """Compares outputs by their tokens, which blanks and line ends separate; see StdinTests."""
    if ignore_case:
        output, expected = output.casefold(), expected.casefold()
    got, wanted = output.split(), expected.split()
    return len(got) == len(wanted) and all(
        a == b or (tolerance > 0 and _is_close(_number(a), _number(b), tolerance))
        for a, b in zip(got, wanted)
    )


def _number(token: str) -> float:
    """Reads a token as judges do; NaN, which is close to nothing, for all but a number."""
    try:
        return float(token) if token.isascii() and "_" not in token else math.nan
    except ValueError:
        return math.nan


def _is_close(a: float, b: float, tolerance: float) -> bool:
    return math.isfinite(b) and abs(a - b) <= tolerance * max(1.0, abs(b))


class _NotJSON(NamedTuple):
    """Stands for a value that equals none of JSON."""

    type: str


def plain_json(value: Any) -> Any:
    """Turns the tagged JSON of an answer into plain JSON, and tuples into lists.

    Unlike `decode` of the sandbox, it builds nothing that a hostile answer could make costly, such
    as sets of numbers with one hash. Other types become something that equals no JSON.

    Raises:
      ValueError, TypeError, RecursionError: for an answer that `encode` did not write.
    """
    if isinstance(value, list):
        return [plain_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    match tag, content:
        case "tuple", list():
            return plain_json(content)
        case "int", str():
            return int(content, 16)
        case "dict", list():
            pairs = [(key, plain_json(item)) for key, item in content]
            return {key if isinstance(key, str) else _NotJSON(str(key)): x for key, x in pairs}
    return _NotJSON(str(tag))


def same_value(got: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Compares a value of `plain_json` with an expected one.

    Raises:
      ArithmeticError: for an integer that no float can hold, if there is a tolerance.
    """
    if isinstance(expected, list):
        return (
            isinstance(got, list)
            and len(got) == len(expected)
            and all(same_value(a, b, tolerance) for a, b in zip(got, expected))
        )
    if isinstance(expected, dict):
        return (
            isinstance(got, dict)
            and got.keys() == expected.keys()
            and all(same_value(got[key], expected[key], tolerance) for key in expected)
        )
    if isinstance(got, (list, dict, _NotJSON)):
        return False
    numbers = all(isinstance(x, (int, float)) for x in (got, expected))
    return got == expected or (tolerance > 0 and numbers and _is_close(got, expected, tolerance))


def short_text(value: Any) -> str:
    """Returns a value in at most 62 characters, on one line."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # a number of very many digits
        return f"a huge {type(value).__name__}"
    text = " ".join(text[:400].split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
