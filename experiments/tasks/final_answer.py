"""The final answer in a worked solution, whatever its format."""

import logging
import re
from fractions import Fraction

from experiments.tasks.numbers import evaluate, last_number, parse_number

# In what looks like this, the last number is not the value.
_MATHEMATICS = re.compile(r"[\\^]|\d\s*/\s*\d|\*\*")
_MAX_LATEX = 100


def final_answer(text: str) -> Fraction | None:
    r"""Finds the number that a solution ends with.

    The last of the first kind that occurs: `#### 72`, `\boxed{72}`, `the answer is 72`; a text with
    none of them is read for its last number. What stands there may be written in any way that
    `numbers.parse_number` or `numbers.evaluate` reads, as LaTeX (by math-verify), or as a phrase
    whose last number counts ("9 + 9 makes $18"). Other mathematics is no number.

    Args:
      text: the solution.

    Returns:
      The exact value, or None if there is no number.
    """
    for find in (_marked, _boxed, _said):
        found = find(text)
        if found is not None:
            return _read(found.strip().strip("*").strip())
    return last_number(text)


def _marked(text: str) -> str | None:
    found = re.findall(r"####([^\n]*)", text)
    return found[-1] if found else None


def _boxed(text: str) -> str | None:
    r"""What the last \boxed{…} holds; empty if its brace does not close."""
    _, box, rest = text.rpartition(r"\boxed{")
    if not box:
        return None
    depth = 1
    for i, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:i]
    return ""


def _said(text: str) -> str | None:
    # Up to the end of the sentence: a period that no digit follows.
    pattern = r"\banswer(?:\s+is\b|\s*[:=])\s*:?\s*((?:[^.\n]|\.(?=\d))+)"
    found = re.findall(pattern, text, re.IGNORECASE)
    return found[-1] if found else None


def _read(text: str) -> Fraction | None:
    text = re.sub(r"\\[,!; ]", "", text)  # LaTeX's thin spaces
    text = re.sub(r"\\([$%])", r"\1", text)
    value = parse_number(text)
    if value is None:
        value = evaluate(text)
    if value is None and _MATHEMATICS.search(text):
        return _mathematics(text)
    return last_number(text) if value is None else value


def _mathematics(text: str) -> Fraction | None:
    r"""Reads LaTeX through math-verify, which takes milliseconds, and longer the first time.

    Its own time limit is a signal that works in a main thread alone and cannot stop arithmetic on
    huge integers, so what could be huge (powers, long numbers, long texts) is not given to it.
    """
    if "\\" not in text or len(text) > _MAX_LATEX or re.search(r"\^|\d{20}", text):
        return None
    import math_verify
    import sympy

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    latex = text if "$" in text else f"${text}$"
    for parsed in math_verify.parse(latex, parsing_timeout=None):
        value = parsed.doit() if isinstance(parsed, sympy.Expr) else None
        if isinstance(value, sympy.Rational | sympy.Float) and value.is_finite:
            return Fraction(str(value))
    return None
