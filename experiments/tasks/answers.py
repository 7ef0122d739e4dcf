"""The final answer of a completion as a number, and whether it is right."""

import ast
import logging
import re
from fractions import Fraction

_MINUS = str.maketrans({"−": "-", "–": "-", "—": "-", "﹣": "-", "－": "-"})
_TIMES = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/"})

# A comma groups thousands only between digits and before exactly three of them.
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")

# Longer runs of digits are no answer to any question here, and cost time to read.
_MAX_DIGITS = 40
_DIGITS = r"(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*[$€£]?\s*(?P<sign_after>-?)(?P<digits>{_DIGITS})"
    r"\s*(?:%|[^\W\d_][^\d=<>+*/]*)?"
)
_MAX_EQUATION = 200


def parse_number(text: str) -> Fraction | None:
    """Reads a text that is one number, with what people put around it.

    Allowed are a sign (any of the Unicode minus signs), a currency sign, thousands separators, a
    percent sign (which does not divide by 100), units in words, and a closing period.

        "$1,234.50." → 1234.5      "− 3 apples" → -3      "3 or 4" → None      "" → None

    Args:
      text: the whole text.

    Returns:
      The exact value, or None if the text is anything else.
    """
    text = _THOUSANDS.sub("", text.translate(_MINUS)).strip().rstrip(".!").rstrip()
    found = _NUMBER.fullmatch(text)
    if found is None or (found["sign"] and found["sign_after"]):
        return None
    value = Fraction(found["digits"])
    return -value if "-" in (found["sign"], found["sign_after"]) else value


def last_number(text: str) -> Fraction | None:
    """The last number in a text, read as in `parse_number`; None if it holds none."""
    text = _THOUSANDS.sub("", text.translate(_MINUS))
    # A minus sign between two numbers ("5-3") subtracts; it is no sign.
    found = re.findall(rf"(?<![\d.])(?:(?<![\w)])-)?[$€£]?{_DIGITS}(?!\d)", text)
    return parse_number(found[-1]) if found else None


def evaluate(text: str) -> Fraction | None:
    """Evaluates an equation of numbers, + - * / and parentheses.

    Two sides that agree, "7 + 2 = 9", have their common value. ÷ and × (and x between two
    numbers) are understood, as are currency signs and thousands separators.

    Args:
      text: the whole text.

    Returns:
      The exact value; None if the text is anything else, divides by zero, has sides that
      disagree, or is longer than 200 characters.
    """
    text = _THOUSANDS.sub("", text.translate(_MINUS).translate(_TIMES)).strip()
    if len(text) > _MAX_EQUATION:
        return None
    text = re.sub(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])", "*", text)
    text = re.sub(r"[$€£]", "", text)
    values = [_evaluate_side(side) for side in text.split("=")]
    if len(values) > 2 or values[0] is None or any(value != values[0] for value in values):
        return None
    return values[0]


def is_close(value: Fraction, answer: float) -> bool:
    """Whether a value is an answer that may have been rounded.

        |value - answer| ≤ 10⁻³ · min(1, |answer|)

    Args:
      value: exact.
      answer: the reference.
    """
    return abs(value - Fraction(answer)) <= Fraction(1, 1000) * min(1, abs(Fraction(answer)))


def _evaluate_side(text: str) -> Fraction | None:
    if not re.fullmatch(r"[\d\s.+\-*/()]+", text, re.ASCII) or "\n" in text:
        return None
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))  # str: 0.1 is a tenth, not the float next to it
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left) - _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left) * _value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left) / _value(right)
    raise ValueError(f"not an equation: {ast.dump(node)}")


# In what looks like this, the last number is not the value.
_MATHEMATICS = re.compile(r"[\\^]|\d\s*/\s*\d|\*\*")
_MAX_LATEX = 100


def final_answer(text: str) -> Fraction | None:
    r"""Finds the number that a solution ends with.

    The last of the first kind that occurs: `#### 72`, `\boxed{72}`, `the answer is 72`; a text with
    none of them is read for its last number. What stands there may be written in any way that
    `parse_number` or `evaluate` reads, as LaTeX (by math-verify), or as a phrase
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
