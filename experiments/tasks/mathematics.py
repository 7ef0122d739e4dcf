r"""Equality of mathematical answers: text, numbers, then math-verify.

math-verify and sympy can take for ever, on a huge power or a deep nest: call this in a process
with a deadline (check_processes).
"""

import logging
import re
from typing import cast

from experiments.tasks.answers import read_answer, stated_answer
from experiments.tasks.verdict import Verdict

_LONGEST = 500  # characters of an answer


def score_math(completion: str, answer: object) -> Verdict:
    r"""Compares the stated answer of a completion with a reference in LaTeX or plain text.

    Args:
      completion: a solution; its answer is in `\boxed{}`, after `####` or after "the answer is".
      answer: the reference, text or a number.
    """
    stated = stated_answer(completion)
    if stated is None or not stated.strip():
        return Verdict(0.0, "no answer")
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
    right = read_answer(stated) == round(float(str(answer)))
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
    """Tells whether two answers are the same text, the same number, or the same expression.

    Args:
      stated: by a model; longer than 500 characters it equals nothing.
      reference: the right answer.
    """
    if len(stated) > _LONGEST:
        return False
    if _bare(stated) == _bare(reference):
        return True
    numbers = read_answer(stated), read_answer(reference)
    if None not in numbers:
        return numbers[0] == numbers[1]
    from math_verify import parse, verify  # imports sympy, which takes a second

    # Without its own time limits, which are alarms and of which it warns: the process has one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold, found = (
        parse(f"\\boxed{{{text}}}", parsing_timeout=cast("int", None), raise_on_error=False)
        for text in (reference, stated)
    )
    return bool(verify(gold, found, timeout_seconds=None, raise_on_error=False))


def _bare(text: str) -> str:
    text = re.sub(r"\\(?:left|right|displaystyle|[,;!: ])|\$|\\[()\[\]]", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(r"\s", "", text).rstrip(".")


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
