"""The final answer in a worked solution, whatever its format."""

import logging
import re
from fractions import Fraction

from experiments.tasks.numbers import last_number, parse_number

_MARKED = re.compile(r"####[ \t]*(?P<rest>[^\n]*)")
_BOXED = re.compile(r"\\boxed\s*\{(?P<rest>(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
# Up to the end of the sentence: a period that no digit follows.
_SAID = re.compile(r"\banswer\b(?:\s+is)?\s*:?\s*(?P<rest>(?:[^.\n]|\.(?=\d))+)", re.IGNORECASE)
_MAX_MATHS = 100


def final_answer(text: str) -> Fraction | None:
    r"""Finds the number that a solution ends with.

    The last of the first kind that occurs: `#### 72`, `\boxed{72}`, `the answer is 72`; a text with
    none of them is read for its last number. What stands there may be written in any way that
    `numbers.parse_number` reads, as mathematics ("\frac{3}{2}", "3/2", by math-verify), or as a
    phrase whose last number counts ("9 + 9 = $18").

    Args:
      text: the solution.

    Returns:
      The exact value, or None if there is no number.
    """
    for pattern in (_MARKED, _BOXED, _SAID):
        found = list(pattern.finditer(text))
        if found:
            return _read(found[-1]["rest"].strip().strip("*").strip())
    return last_number(text)


def _read(text: str) -> Fraction | None:
    value = parse_number(text)
    if value is None and re.search(r"[\\/]", text):
        value = _mathematics(text)
    return last_number(text) if value is None else value


def _mathematics(text: str) -> Fraction | None:
    r"""Reads LaTeX and fractions through math-verify, which takes milliseconds to a second.

    Its own time limit is a signal that works in a main thread alone and cannot stop arithmetic on
    huge integers, so what could be huge (powers, factorials, long texts) is not given to it.
    """
    if len(text) > _MAX_MATHS or re.search(r"[\^!]|\*\*|\d{20}", text):
        return None
    import math_verify
    import sympy

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if "\\" in text and "$" not in text:
        text = f"${text}$"
    for parsed in math_verify.parse(text, parsing_timeout=None):
        if isinstance(parsed, sympy.Rational | sympy.Float) and parsed.is_finite:
            return Fraction(str(parsed))
    return None
