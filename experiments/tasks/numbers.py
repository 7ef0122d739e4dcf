"""Numbers and equations as people and models write them, read exactly and without running code."""

import ast
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
