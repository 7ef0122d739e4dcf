"""Questions of data sets: the same question is never both trained on and evaluated."""

import re
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def normalize(text: str) -> str:
    """The letters and digits of a text in lower case, words one space apart."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def drop_repeats(
    problems: Iterable[tuple[str, Item]], seen: set[str]
) -> tuple[list[tuple[str, Item]], int]:
    """Keeps the first of every question, and none that was seen before.

    Args:
      problems: (question, anything) pairs.
      seen: normalised questions that may not come again; those kept are added to it.

    Returns:
      The pairs kept, in order, and the number of pairs dropped.
    """
    kept, dropped = [], 0
    for question, item in problems:
        name = normalize(question)
        if name in seen:
            dropped += 1
        else:
            seen.add(name)
            kept.append((question, item))
    return kept, dropped
