"""Means over seeds with their t-intervals, without scipy."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A value with a 95% interval; `low` and `high` are NaN where there is none."""

    value: float
    low: float
    high: float
    count: int


def t_probability(t: float, df: int) -> float:
    """P(|T| <= t) of Student's t with a whole number of degrees of freedom, in closed form.

    With θ = atan(t/√df) and c = cos θ:
      df odd:  2/π (θ + sin θ (c + 2/3 c³ + 2·4/(3·5) c⁵ + ... + c^(df-2) term)), without sin θ at 1
      df even: sin θ (1 + 1/2 c² + 1·3/(2·4) c⁴ + ... + c^(df-2) term)

    Args:
      t: the bound, >= 0.
      df: degrees of freedom, >= 1.

    Returns:
      The probability, in [0, 1].

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    first = df % 2
    term, total = (cosine if first else 1.0), 0.0
    for power in range(first, df - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if first else sine * total


def t_quantile(confidence: float, df: int) -> float:
    """The t with P(|T| <= t) = confidence, by bisection.

    Args:
      confidence: in (0, 1), 0.95 for a 95% interval.
      df: degrees of freedom, >= 1.

    Returns:
      The two-sided quantile.
    """
    low, high = 0.0, 1.0
    while t_probability(high, df) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if t_probability(middle, df) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of independent values with its t-interval: mean ± t s/√n, s with n - 1.

    Args:
      values: one value per seed; at least one.
      confidence: of the interval.

    Returns:
      The estimate; one value alone has no interval.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = t_quantile(confidence, count - 1) * math.sqrt(variance / count)
    return Estimate(mean, mean - half, mean + half, count)
