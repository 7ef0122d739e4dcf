"""Unbiased pass@k from samples, and its confidence interval over problems."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_probability, check_value


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: jax.Array
    low: jax.Array
    high: jax.Array


def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> jax.Array:
    """Estimates the probability that at least one of k samples is correct, without bias.

        1 - C(n-c, k) / C(n, k) = 1 - Π_{i<k} max(n-c-i, 0) / (n-i)

    Args:
      num_samples: n, number of samples per problem; a scalar or `[problems]`.
      num_correct: c ≤ n, number of correct samples; `[problems]`.
      k: number of attempts, 1 ≤ k ≤ n.

    Returns:
      one estimate per problem, float32, in the broadcast shape.

    Raises:
      ValueError: if k is below 1 or above n, or c is outside [0, n].

    Example:
      >>> print(fade_jax.pass_at_k.pass_at_k(4, jnp.array([1, 2, 4]), k=2).round(4))
      [0.5    0.8333 1.    ]

    From arXiv:2107.03374.
    """
    check_integer("k", k, 1)
    if not isinstance(num_samples, jax.core.Tracer):
        check_value("k", k, f"at most num_samples = {num_samples}", lambda x: x <= num_samples)
        allowed = f"in [0, num_samples = {num_samples}]"
        check_value("num_correct", num_correct, allowed, lambda c: (c >= 0) & (c <= num_samples))
    n = jnp.asarray(num_samples, jnp.float32)[..., None]
    c = jnp.asarray(num_correct, jnp.float32)[..., None]
    # A product of ratios below 1: binomial coefficients overflow, and log-gamma in float32 is
    # wrong by 1e-4.
    i = jnp.arange(k, dtype=jnp.float32)
    # Exactly 0 and 1, although XLA divides approximately and x/x may differ from 1.
    missed = jnp.where(n - c > i, 1 - c / (n - i), 0)
    return 1 - jnp.prod(missed, axis=-1)


def interval_over_problems(values: ArrayLike, level: float = 0.95) -> Interval:
    """Computes the mean over problems and its confidence interval, a Wilson interval.

        center = (v̄ + z²/2n) / (1 + z²/n),   half = z √(v̄(1-v̄)/n + z²/4n²) / (1 + z²/n)
        n = N / ρ,   ρ = (Σ (v - v̄)² + ½) / (N v̄ (1-v̄) + ½)

    n is the effective number of outcomes. For values 0 and 1 the design effect ρ is 1, and
    this is Wilson's interval of N outcomes; ρ is smaller if the values spread less than that. The ½
    takes ρ back to 1 where all values are 0, or 1, and their spread cannot be seen: 0 of 16 gives
    [0, 0.19]. Coverage is measured in tests/fade_jax/test_pass_at_k.py.

    Args:
      values: `[..., problems]`, each in [0, 1], such as from `pass_at_k`.
      level: coverage, in (0, 1).

    Returns:
      `Interval`, each field `[...]`; with a single problem the interval is [0, 1].

    Raises:
      ValueError: if `level` is not in (0, 1), a value not in [0, 1], or there is no problem.

    Example:
      >>> interval = fade_jax.pass_at_k.interval_over_problems(jnp.zeros(16))
      >>> print(interval.mean, interval.low, interval.high.round(2))
      0.0 0.0 0.19

    From Wilson 1927, doi 10.1080/01621459.1927.10502953, recommended by Brown, Cai and DasGupta
    2001, doi 10.1214/ss/1009213286; the design effect of a sample as in Korn and Graubard 1998.
    """
    check_value("level", level, "in (0, 1)", lambda x: (x > 0) & (x < 1))
    check_probability("values", values)
    values = jnp.asarray(values, jnp.float32)
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"values must have at least one problem, got shape {values.shape}")
    problems = values.shape[-1]
    mean = jnp.mean(values, axis=-1)
    if problems == 1:
        return Interval(mean, jnp.zeros_like(mean), jnp.ones_like(mean))
    variance = jnp.maximum(mean * (1 - mean), 0)
    squares = jnp.sum((values - mean[..., None]) ** 2, axis=-1)
    effect = (squares + 0.5) / (problems * variance + 0.5)
    z = jax.scipy.stats.norm.ppf(0.5 + level / 2)
    u = z**2 * effect / problems
    center = (mean + u / 2) / (1 + u)
    half = jnp.sqrt(variance * u + u**2 / 4) / (1 + u)
    # Rounding must not put the mean of equal values outside.
    low, high = jnp.minimum(center - half, mean), jnp.maximum(center + half, mean)
    return Interval(mean, jnp.maximum(low, 0), jnp.minimum(high, 1))
