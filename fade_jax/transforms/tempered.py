"""The tempered likelihood with β fixed, or scheduled by step, solve rate or entropy."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax import advantages as plain
from fade_jax.checks import check_not_negative, check_positive
from fade_jax.groups import group_mean
from fade_jax.schedules import Schedule, by_step, from_entropy, from_solve_rate
from fade_jax.transforms.base import AdvantageTransformation, Mask, ScheduleLike, chain, scheduled
from fade_jax.transforms.lifted import center


class TemperState(NamedTuple):
    """State of `temper`: the exponent of the last update."""

    beta: jax.Array
    schedule: Any


def temper(beta: ScheduleLike) -> AdvantageTransformation:
    """Multiplies by a power of each group's solve rate, r̄^{-β}, and by 0 where r̄ = 0.

    Args:
      beta: a number ≥ 0, a schedule or an optax schedule. Schedules may read `solve_rate`, the
        mean reward of the batch, which is computed here unless given.

    Returns:
      a transformation whose `TemperState` holds `beta`.

    Raises:
      ValueError: if a number is negative.
    """
    if not isinstance(beta, Schedule) and not callable(beta):
        check_not_negative("beta", beta)

    def apply(advantages: jax.Array, beta: jax.Array, rewards: ArrayLike, where: Mask) -> jax.Array:
        return plain.likelihood_weight(group_mean(rewards, where), beta) * advantages

    return scheduled(beta, TemperState, apply)


def tempered_likelihood(beta: ScheduleLike) -> AdvantageTransformation:
    """Chains `fade_jax.tempered_likelihood` so that the state holds `beta`.

        A_i = (r_i - r̄) / r̄^β

    Args:
      beta: β ≥ 0, or a schedule of it, as in `temper`.
    """
    return chain(center(), temper(beta))


def tempered_by_solve_rate(
    *,
    hard: ArrayLike,
    easy: ArrayLike,
    rate: ArrayLike = 0.02,
    initial_solve_rate: ArrayLike = 0.5,
) -> AdvantageTransformation:
    """Moves β of `tempered_likelihood` with the solve rate, from `hard` at 0 to `easy` at 1.

    Arguments as in `fade_jax.schedules.from_solve_rate`; both ends are at least 0.
    """
    check_not_negative("hard", hard)
    check_not_negative("easy", easy)
    return tempered_likelihood(from_solve_rate(hard, easy, rate, initial_solve_rate))


def tempered_by_entropy(
    *,
    low: ArrayLike,
    high: ArrayLike,
    rate: ArrayLike = 0.02,
    initial_entropy: ArrayLike | None = None,
) -> AdvantageTransformation:
    """Moves β of `tempered_likelihood` with the entropy, from `high` at its start to `low` at 0.

    Arguments as in `fade_jax.schedules.from_entropy`; both ends are at least 0.
    """
    check_not_negative("low", low)
    check_not_negative("high", high)
    return tempered_likelihood(from_entropy(low, high, rate, initial_entropy))


def tempered_by_step(
    *, start: ArrayLike, end: ArrayLike, steps: ArrayLike
) -> AdvantageTransformation:
    """Moves β of `tempered_likelihood` linearly from `start` to `end`.

    Args:
      start: β at the first update, at least 0.
      end: β after `steps` updates and from then on, at least 0.
      steps: above 0.

    Raises:
      ValueError: if a value is outside its range.
    """
    check_not_negative("start", start)
    check_not_negative("end", end)
    check_positive("steps", steps)
    return tempered_likelihood(
        by_step(lambda step: start + (jnp.asarray(end) - start) * jnp.minimum(step / steps, 1))
    )
