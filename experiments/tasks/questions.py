"""Questions of data sets: JSON lines, repeats, and the order of epochs.

Above: text_task, and the tasks made of it.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np


def draws(
    seed: int, sizes: tuple[int, ...], pattern: tuple[int, ...], start: int, count: int
) -> list[tuple[int, int]]:
    """Draws problems of several kinds in fixed shares.

    Draw i takes its kind from pattern[i mod len(pattern)]. Within a kind, draws run through a
    random permutation of all its problems, then through another, and so on.

    Args:
      seed: of the permutations.
      sizes: number of problems of each kind.
      pattern: kinds, in the order in which they take turns.
      start: the first draw's position, at least 0.
      count: number of draws.

    Returns:
      (kind, index within the kind) of draws start .. start + count - 1.
    """
    per_cycle = [pattern.count(kind) for kind in range(len(sizes))]
    orders: dict[tuple[int, int], np.ndarray] = {}
    drawn = []
    for position in range(start, start + count):
        cycle, turn = divmod(position, len(pattern))
        kind = pattern[turn]
        nth = cycle * per_cycle[kind] + pattern[:turn].count(kind)
        epoch, place = divmod(nth, sizes[kind])
        if (kind, epoch) not in orders:
            rng = np.random.default_rng([seed, kind, epoch])
            orders[kind, epoch] = rng.permutation(sizes[kind])
        drawn.append((kind, int(orders[kind, epoch][place])))
    return drawn


def one_epoch(sizes: tuple[int, ...], pattern: tuple[int, ...]) -> int:
    """Returns how many of the first draws hold no problem twice, in whole cycles of the pattern."""
    return len(pattern) * min(size // pattern.count(kind) for kind, size in enumerate(sizes))


Item = TypeVar("Item")


_WORD = re.compile(
    r"\d+(?:\.\d+)+|[^\W_]+"
    r"|[+*/^=<>≤≥≠%√×÷·]|-(?=\s*[\d(.])|(?<=\d)!"
    r"|\((?=[\s(-]*\d)|(?<=\d)\)"
)
_MINUS = str.maketrans("\u2212\u2013", "--")


def normalize(text: str) -> str:
    """Lowers the case and keeps words, numbers and operators, one space apart.

    A hyphen is an operator before a digit, a bracket beside a digit.
    """
    return " ".join(_WORD.findall(text.lower().translate(_MINUS)))


def drop_repeats(
    problems: Iterable[tuple[str, Item]], seen: set[str]
) -> tuple[list[tuple[str, Item]], int]:
    """Drops questions that repeat or were seen before.

    Args:
      problems: (question, anything) pairs.
      seen: normalized questions to drop; the questions kept are added to it.

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


def read_json_lines(path: Path, fields: Mapping[str, str]) -> list[dict[str, Any]]:
    """Reads a file with a JSON object on each line; blank lines are left out.

    Args:
      path: of the file.
      fields: that every object must have: "text" or "number" by name.

    Raises:
      OSError: if there is no such file.
      ValueError: naming the file, the line, the field and its value.
    """
    rows = []
    for place, row in json_objects(path):
        for name, kind in fields.items():
            value = row.get(name)
            if not (isinstance(value, str) if kind == "text" else _is_number(value)):
                raise ValueError(f"{place}: {name} must be a {kind}, got {str(value)[:100]!r}")
        rows.append(row)
    return rows


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the JSON object of each line, and its place: "FILE, line N"; skips blank lines.

    Args:
      path: of the file, which may be compressed (.gz).

    Raises:
      OSError: if there is no such file.
      ValueError: naming the file and the line, or if there is none.
    """
    place = str(path)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                place = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{place} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{place} must be a JSON object, got {str(row)[:100]!r}")
                yield place, row
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} is no gzip file: {error}") from error
    if place == str(path):
        raise ValueError(f"{path} has no lines")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300
