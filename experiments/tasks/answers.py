r"""Numbers as people write them, and the final answer of a completion.

`final_answer` finds the answer of a solution, and `read_answer` reads it by this grammar:

    answer      sides that agree, joined by "=", names aside: "9 + 9 = 18", "x = 5"
    side        an expression among words: "therefore 18", "3/4 cup", "$5", "72 (48 + 24)"
    expression  numbers, + - * /, parentheses, small powers of whole numbers
    number      12  -12  1,234.5  1'234  1 234  .5  1e3  2 1/2  2½  0.\overline{3}  5%  5 million

LaTeX for these is read too. A percent sign does not divide by 100, and units are dropped. All else
is no number, and no part of it is taken for one: lists, pairs, intervals, inequalities, ratios and
times (10:30), multiples of a variable (5x), roots, functions, and 12,5, which may be a list.

Every text is read in time linear in its length.
"""

import ast
import re
import unicodedata
from fractions import Fraction

_SIGNS = str.maketrans(
    dict.fromkeys("−–—﹣－", "-") | dict.fromkeys("×·⋅", "*") | {"÷": "/", "≈": "="}
)

# Groups of exactly three digits after the first one to three, of which the first is no zero.
_SEPARATED = re.compile(
    r"(?<![\d.,'’])[1-9]\d{0,2}(?:([,'’\u00a0\u2009\u202f])\d{3})(?:\1\d{3})*(?!\d|\1\d)"
)
_SPACED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?![\d,])")

# Longer runs of digits are no answer to any question here, and cost time to read.
_DIGITS = r"(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
# A single letter is a variable unless it is a unit.
_UNIT = r"(?:[^\W\d_]{2,}|(?<![^\W\d_])[mgshlLVWANJKCFt](?![^\W\d_]))(?:\^?[23](?!\d)|[²³])?"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*[$€£]?\s*(?P<sign_after>-?)"
    rf"(?P<digits>{_DIGITS}(?:[eE][+-]?[0-9]{{1,2}}(?![0-9]))?)"
    rf"\s*(?:[%$€£¢]|/?\s*{_UNIT}[^\d=<>+*^]*)?(?:\([^()\d]*\))?"
)
_MAX_EQUATION = 200
_MAX_ANSWER = 300
_MAX_BOX = 20_000  # puzzles have long answers


def _without_separators(text: str) -> str:
    return _SEPARATED.sub(lambda found: re.sub(r"\D", "", found[0]), text)


def parse_number(text: str) -> Fraction | None:
    """Reads a text that is one number, with its sign, currency, unit, percent sign and period.

        "$1,234.50." → 1234.5      "− 3 apples" → -3      "3 or 4" → None      "" → None

    Args:
      text: the whole text.

    Returns:
      The exact value, or None if the text is anything else.
    """
    if len(text) > _MAX_ANSWER:
        return None
    text = _without_separators(text.translate(_SIGNS)).strip().rstrip(".!").rstrip()
    found = _NUMBER.fullmatch(text)
    if found is None or (found["sign"] and found["sign_after"]):
        return None
    value = Fraction(found["digits"])
    return -value if "-" in (found["sign"], found["sign_after"]) else value


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
    text = _without_separators(text.translate(_SIGNS)).strip()
    if len(text) > _MAX_EQUATION:
        return None
    text = re.sub(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])", "*", text)
    text = re.sub(r"[$€£]", "", text)
    values = [_evaluate_side(side) for side in text.split("=")]
    if len(values) > 2 or values[0] is None or any(value != values[0] for value in values):
        return None
    return values[0]


def is_close(value: Fraction, answer: float | Fraction) -> bool:
    """Compares a value with a reference that may have been rounded.

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


def final_answer(text: str) -> Fraction | None:
    r"""Finds the number that a solution ends with.

    The answer is the last of the first kind that occurs: `#### 72`, `\boxed{72}`, `the answer is
    72`. A text with none of them is read for its last number.

    Args:
      text: the solution.

    Returns:
      The exact value, or None if the answer is no number by the grammar of this module.
    """
    found = stated_answer(text)
    if found is None:
        return last_number(text)
    # In a formula "!" is a factorial; in a sentence it ends the sentence.
    if _marked(text) is None and _boxed(text) and re.search(r"[\d)]!", found):
        return None
    return read_answer(found)


def stated_answer(text: str) -> str | None:
    r"""Finds what a solution says is its answer, whatever it is.

    Args:
      text: the solution.

    Returns:
      The text after the last `####` on its line, within the last `\boxed{…}`, or after the last
      "the answer is" up to the end of its sentence: the first of these that occurs. "" if the brace
      of the box does not close; None if there is no such answer.
    """
    for find in (_marked, _boxed, _stated):
        found = find(text)
        if found is not None:
            return found
    return None


def last_number(text: str) -> Fraction | None:
    """Reads the last word with a digit; None if it is no number, or there is none.

    "so 3 + 4 = 7 dollars" → 7      "half, or 1/2." → 1/2      "at 10:30" → None
    """
    end = max((found.end() for found in re.finditer(r"[0-9]", text)), default=0)
    start = max(0, end - _MAX_ANSWER // 2)
    window = _spaced(_plain(text[start : end + 20]))
    words = [word for word in window.split() if re.search(r"[0-9]", word)]
    if not words or (start and len(words) == 1):  # The window may begin within a number.
        return None
    word = words[-1].strip("*_`\"'“”?!,;:.")
    value = _read_sides(word)
    return _read_sides(word.strip("()[]")) if value is None else value


def read_answer(text: str) -> Fraction | None:
    """Reads an answer by the grammar of this module.

    Args:
      text: the answer alone, at most 300 characters.

    Returns:
      The exact value, or None if it is no number.
    """
    if len(text) > _MAX_ANSWER:
        return None
    text = re.split(r"[,;]? (?:because|since|which|where|when|so)\b", _spaced(_plain(text)))[0]
    return _read_sides(text.strip(" \t*_`\"'“”").rstrip(".;,!? "))


def _marked(text: str) -> str | None:
    found = re.findall(r"####([^\n]*)", text)
    return found[-1] if found else None


def _boxed(text: str) -> str | None:
    r"""Returns the content of the last \boxed{…}; "" if its brace does not close."""
    starts = [found.end() for found in re.finditer(r"\\boxed ?\{", text)]
    if not starts:
        return None
    rest, depth = text[starts[-1] :][:_MAX_BOX], 1
    for i, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:i]
    return ""


def _stated(text: str) -> str | None:
    """Returns the rest of the sentence after the last "answer is" or "answer:"."""
    pattern = re.compile(r"\banswer(?: is\b| {0,3}[:=])", re.IGNORECASE)
    for found in reversed(list(pattern.finditer(text))):
        # A sentence ends with a period that no digit follows.
        rest = text[found.end() : found.end() + _MAX_ANSWER]
        sentence = re.match(r"[\s:]*((?:[^.\n]|\.(?=\d))+)", rest)
        if sentence is not None:
            return sentence[1]
    return None


def _spaced(text: str) -> str:
    """Removes spaces that separate thousands."""
    return _SPACED.sub(lambda found: found[0].replace(" ", ""), text)


_SPACES = re.compile(
    r"\\[,;: ]|~|\\q?quad(?![a-z])|\\(?:left|right|displaystyle)(?![a-z])|\\[()\[\]]"
)
_COMMANDS = (
    (re.compile(r"\\(?:times|cdot|ast)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\approx(?![a-z])"), "="),
    (re.compile(r"\\([$%#&_])"), r"\1"),
    (re.compile(r"(?:\^\s*\{?\s*)?(?:\\circ|\\degree|°)\s*\}?"), " degrees "),
    # A thin space before three digits separates thousands.
    (re.compile(r"(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))"), ","),
    (_SPACES, " "),
    # Bold text of Markdown, but not 2**3.
    (re.compile(r"(?<!\d)\*\*|\*\*(?!\s*[\d(])"), " "),
)
_WRAPPED = re.compile(
    r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|boxed|emph|underline)\s*\{([^{}]*)\}"
)
_REPEATING = re.compile(r"(?<![\d.])(\d{0,12})\.(\d{0,12})\\(?:over)?(?:line|bar)\s*\{(\d{1,12})\}")
_FRACTION = re.compile(r"(?<![\d.])(\d{0,12})\s*\\[dtc]?frac\s*(\{[^{}]*\}|\d)\s*(\{[^{}]*\}|\d)")
_POWER = re.compile(r"(?<![\d.])(\d{1,12})\s*\^\s*(?:\{\s*(-?\d{1,2})\s*\}|(\d{1,2}))(?![\d.])")
_SCIENTIFIC = re.compile(rf"(?<![\w.])({_DIGITS})[eE]([+-]?\d{{1,2}})(?!\w)")
_MIXED = re.compile(r"(?<![\d./,])(\d{1,12}) +(\d{1,12})/(\d{1,12})(?![\d./,])")
_VULGAR = re.compile(r"(\d{0,12}) ?([¼-¾⅐-⅞])")


def _plain(text: str) -> str:
    """Translates LaTeX and Unicode to plain arithmetic; what it does not know stays as it is."""
    text = text.translate(_SIGNS).replace("{,}", ",").replace("\\!", "")
    for pattern, replacement in _COMMANDS:
        text = pattern.sub(replacement, text)
    for pattern, replace in (
        (_WRAPPED, lambda m: f" {m[1]} "),
        (re.compile(r"(?<=[^\W\d_]) +\^"), lambda _: "^"),
        (_REPEATING, _repeating),
        (_POWER, _power),
        (_FRACTION, lambda m: f"({m[1] or 0}+({_bare(m[2])})/({_bare(m[3])}))"),
    ):
        for _ in range(5):  # from the inside out
            text = pattern.sub(replace, text)
    for _ in range(5):
        text = re.sub(r"(?<!\\)\{([^{}\\]*)\}", r"\1", text)
    text = _SCIENTIFIC.sub(lambda m: f"({Fraction(m[1]) * Fraction(10) ** int(m[2])})", text)
    text = _MIXED.sub(r"(\1+\2/\3)", text)
    return _VULGAR.sub(lambda m: f"({m[1] or 0}+{_vulgar(m[2])})", text)


def _bare(argument: str) -> str:
    return _without_separators(argument.strip("{}"))


def _vulgar(character: str) -> Fraction:
    return Fraction(unicodedata.numeric(character)).limit_denominator(10)


def _repeating(found: re.Match[str]) -> str:
    whole, fixed, period = found.groups()
    nines = 10 ** len(period) - 1
    value = int(whole + fixed or "0") + Fraction(int(period), nines)
    return f"({value / 10 ** len(fixed)})"


def _power(found: re.Match[str]) -> str:
    base, exponent = int(found[1]), int(found[2] or found[3])
    return found[0] if base == 0 and exponent <= 0 else f"({Fraction(base) ** exponent})"


# Words that make another number of the one beside them.
_ALTERING = re.compile(
    r"\b(?:half|halves|quarter|thirds?|twice|double|triple|not|root|sqrt|log|ln|sin|cos|tan|exp)\b"
    r"|\d\s*(?:squared|cubed|factorial|fourths|fifths|sixths|eighths|tenths|hundredths)\b"
    r"|[^\W\d_]\(",
    re.IGNORECASE,
)
_MAGNITUDES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_NAME = re.compile(r"\s*[^\W\d_][\w\s'’:,$]*")


def _read_sides(text: str) -> Fraction | None:
    """Reads sides that agree, joined by "="."""
    if len(text) > 2 * _MAX_ANSWER or _ALTERING.search(text):
        return None
    if re.fullmatch(r"[(\[].*,.*[)\]]", text):
        return None
    first, *others = text.lstrip("= ").split("=")
    sides = [side for side in others if re.search(r"\d", side) or not _NAME.fullmatch(side)]
    if not (others and _NAME.fullmatch(first)):
        sides = [first, *sides]
    values = [_read_side(side) for side in sides]
    last = values[-1] if values else None
    if last is None or any(value is None or not is_close(value, last) for value in values):
        return None
    return last


def _read_side(text: str) -> Fraction | None:
    """Reads one expression among words."""
    text = text.strip()
    remark = re.fullmatch(r"(.*\d.*?[^\s+\-*/(]|\d)\s+\(([^()]*)\)", text)
    if remark is not None:
        value = _read_side(remark[1])
        explained = re.search(r"[^\W\d_]", remark[2]) or evaluate(remark[2]) == value
        return value if explained else None
    text = re.sub(r"\b(?:minus|negative) (?=[\d.$])", "-", text)
    for word, factor in _MAGNITUDES.items():
        text = re.sub(rf"({_DIGITS})\s*{word}\b", rf"(\1*{factor})", text)
    text = re.sub(rf"/?\s*{_UNIT}|\b(?:a|A|I)(?= [^\W\d_])", " ", text)
    text = re.sub(r"[,:;](?!\d)|(?<!\d)[,:;]|[%¢](?!\s*\d)", " ", text).strip()
    value = parse_number(text)
    if value is None:
        value = evaluate(text)
        if value is not None and value < 0 and re.fullmatch(r"[\d.]+ ?- ?[\d.]+", text):
            return None  # a range: 10-15
    return value
