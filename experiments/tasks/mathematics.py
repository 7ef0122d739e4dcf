r"""Equality of mathematical answers: text, numbers, then math-verify.

math-verify and sympy can take for ever, on a huge power or a deep nest: call this in a process
with a deadline (check_processes).
"""

import logging
import re
from fractions import Fraction
from typing import cast

from experiments.tasks.answers import read_answer, stated_answer
from experiments.tasks.verdict import Verdict

_LONGEST = 500  # characters of an answer
_CLAUSE = re.compile(r"[,;]? (?:as|because|since|which|where|when|so|if|given|after)\b")


def score_math(completion: str, answer: object) -> Verdict:
    r"""Compares the stated answer of a completion with a reference in LaTeX or plain text.

    Args:
      completion: a solution; its answer is in `\boxed{}`, after `####` or after "the answer is".
      answer: the reference, text or a number.
    """
    stated = stated_answer(completion)
    if stated is None or not stated.strip():
        return Verdict(0.0, "no answer")
    if "\\boxed" not in completion:  # in a sentence; in a box "!" is a factorial
        stated = _CLAUSE.split(stated)[0].rstrip("! ")
    right = are_equal(stated, str(answer))
    return Verdict(float(right), "right" if right else "wrong", f"answer: {stated.strip()[:200]}")


def score_integer(completion: str, answer: object) -> Verdict:
    """Compares the stated answer with a whole number, as AIME's answers are.

    Args:
      completion: a solution; see `score_math`.
      answer: a whole number, or its text.
    """
    stated = stated_answer(completion)
    if stated is None or not stated.strip():
        return Verdict(0.0, "no answer")
    right = read_answer(stated) == Fraction(str(answer))
    return Verdict(float(right), "right" if right else "wrong", f"answer: {stated.strip()[:200]}")


def score_text(completion: str, answer: object) -> Verdict:
    """Compares the stated answer, or else the whole completion, with a text.

    Case, blanks and a last full stop do not count.
    """
    stated = stated_answer(completion)
    found = completion if stated is None else stated
    if not found.strip():
        return Verdict(0.0, "no answer")
    right = _folded(found) == _folded(str(answer))
    return Verdict(float(right), "right" if right else "wrong", f"answer: {found.strip()[:200]}")


def are_equal(stated: str, reference: str) -> bool:
    r"""Tells whether two answers are the same text, the same number, or the same expression.

    Units are dropped, as is the name before an equals sign: "x = 5 cm" equals 5. All sides that are
    numbers must equal the reference. A percentage equals its number with and without the sign, and
    its fraction: 50\% equals 50 and 1/2. A list without brackets has no order.

    Args:
      stated: by a model; longer than 500 characters it equals nothing.
      reference: the right answer.
    """
    if len(stated) > _LONGEST or not _is_one_formula(stated):
        return False
    found, right = _bare(stated), _bare(reference)
    if found == right or _listed(found) == _listed(right):
        return True
    bases = _base(found), _base(right)
    if None not in bases and bases[0] != bases[1]:
        return False
    if re.match(r"(?!sqrt)[^\W\d_]{3,}\d", right):  # words before a number: June 20
        return False
    # Of a factorial `read_answer` would drop the sign, as that of an exclamation.
    if not re.search(r"[\w)}]!", stated + " " + reference):
        number, value = read_answer(stated), read_answer(reference)
        if number is not None and value is not None:
            percent = "%" in reference and "%" not in stated
            return number == value or (percent and 100 * number == value)
    exact = re.split(r"\\approx|≈", stated)[0].strip() or stated
    return all(_verify(side, reference) for side in (*_constants(exact, reference), exact))


def _verify(stated: str, reference: str) -> bool:
    """Compares two expressions by sympy."""
    from math_verify import parse, verify  # imports sympy, which takes a second

    # Without its own time limits, which are alarms and of which it warns: the process has one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold, found = (
        parse(f"\\boxed{{{text}}}", parsing_timeout=cast("int", None), raise_on_error=False)
        for text in (reference, stated)
    )
    return bool(verify(gold, found, timeout_seconds=None, raise_on_error=False))


def _is_one_formula(text: str) -> bool:
    """Tells whether braces are balanced, and lines are broken in matrices alone.

    Else math-verify would choose among several formulas the one that is right.
    """
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0 and ("\\\\" not in text or "\\begin" in text)


_CONSTANT = re.compile(
    r"\\(?:sqrt|[dt]?frac|cdot|times|div|pi|left|right|log|ln|pm|text\{[^{}]*\})(?![a-z])"
)


def _constants(stated: str, reference: str) -> list[str]:
    """Returns the sides of an equation before its last that are numbers, and no names.

    math-verify reads the last side alone.
    """
    if "=" in reference:
        return []
    sides = re.split(r"(?<![<>!])=", stated)[:-1]
    return [s for s in sides if s.strip() and not re.search(r"[^\W\d_]|\\", _CONSTANT.sub("", s))]


_TEXT = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox)\{([^{}]*)\}")


def _bare(text: str) -> str:
    text = re.sub(r"\\(?:left|right|displaystyle)(?![a-z])|\\[,;!: ]|\$|\\[()\[\]]", "", text)
    text = _TEXT.sub(r"\1", re.sub(r"\\[dt]frac", r"\\frac", text))
    return re.sub(r"\s", "", text).rstrip(".")


def _base(text: str) -> int | None:
    """Returns the base of a number such as 2516_8, or None."""
    found = re.fullmatch(r"[\dA-Fa-f.]+_\{?(\d{1,3})\}?", text)
    return int(found[1]) if found else None


def _listed(text: str) -> list[str]:
    """Returns the sorted words of a list without brackets; the text alone if it is none."""
    folded = text.casefold()
    return (
        sorted(folded.split(",")) if re.fullmatch(r"[^\W\d_]+(?:,[^\W\d_]+)*", folded) else [text]
    )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
