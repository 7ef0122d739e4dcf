"""Exponents of growth, and the points that grow faster than their work."""

from collections.abc import Sequence

import numpy as np

LIMIT = 1.3


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The power of x that y grows with: the slope of a least-squares line through (log x, log y).

    Args:
      x: positive.
      y: positive, as many.

    Returns:
      The slope; NaN where x has fewer than two different values, or a y is not above 0.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(set(x)) < 2 or np.any(y <= 0):
        return float("nan")
    log_x = np.log(x) - np.mean(np.log(x))
    return float(np.sum(log_x * np.log(y)) / np.sum(log_x**2))


def faster_than_work(
    work: Sequence[float], cost: Sequence[float], limit: float = LIMIT
) -> list[bool]:
    """Marks each point whose cost has grown more than its work since the point before.

        cost_i / cost_{i-1} > limit · work_i / work_{i-1}

    Args:
      work: positive, in the order of the axis.
      cost: positive, of the same points.
      limit: how much faster is too fast.

    Returns:
      One mark for each point; the first has none before it, and is never marked.
    """
    pairs = zip(work, work[1:], cost, cost[1:])
    return [False, *(after / before > limit * w / v for v, w, before, after in pairs)][: len(cost)]
