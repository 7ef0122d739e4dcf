"""Building blocks of the advantages: center, standardize, weights of solve rates, suppression."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import (
    check_not_negative,
    check_positive,
    check_rewards,
    check_zero_or_one,
)
from fade_jax.groups import as_group, group_count, group_mean

P = ParamSpec("P")
Advantage = Callable[Concatenate[ArrayLike, P], jax.Array]


def advantage(allowed: str = "of any real values") -> Callable[[Advantage[P]], Advantage[P]]:
    """Decorates an advantage: refuses rewards that it is not defined for, and keeps NaN.

    A NaN reward that counts makes the advantages of its group NaN, also where the formula guards a
    division (by a zero deviation, say) with a comparison, which NaN fails.

    Args:
      allowed: rewards, as in `check_rewards`; only concrete ones are checked.

    Returns:
      a decorator of `fn(rewards, ..., *, where=None)`.
    """

    def decorate(fn: Advantage[P]) -> Advantage[P]:
        @wraps(fn)
        def checked(rewards: ArrayLike, *args: P.args, **kwargs: P.kwargs) -> jax.Array:
            advantages = fn(rewards, *args, **kwargs)
            mask: ArrayLike | None = kwargs.get("where")  # pyright: ignore[reportAssignmentType]
            check_rewards(rewards, mask, allowed)
            values, where = as_group(rewards, mask)
            undefined = jnp.any(jnp.isnan(values), axis=-1, keepdims=True)
            return jnp.where(undefined, jnp.where(where, jnp.nan, 0), advantages)

        return checked

    return decorate


def center(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Subtracts the mean of the group.

        A_i = r_i - r̄

    Args:
      rewards: `[..., group]`.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.
    """
    rewards, where = as_group(rewards, where)
    return jnp.where(where, rewards - group_mean(rewards, where), 0)


@advantage()
def standardize(
    rewards: ArrayLike, *, ddof: int = 1, eps: ArrayLike = 1e-6, where: ArrayLike | None = None
) -> jax.Array:
    """Subtracts the mean of the group and divides by its standard deviation.

        A_i = (r_i - r̄) / (s + ε),   s² = Σ_i (r_i - r̄)² / (G - ddof)

    Args:
      rewards: `[..., group]`.
      ddof: delta degrees of freedom of s²; 1 as published, 0 as in numpy.
      eps: ε, in units of the reward.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group and in a group of at most `ddof` rollouts.

    Raises:
      ValueError: if the group axis is not above `ddof` or `eps` is negative.
    """
    check_zero_or_one("ddof", ddof)
    check_not_negative("eps", eps)
    rewards, where = as_group(rewards, where, minimum_size=2)
    deviation = group_deviation(rewards, where, ddof=ddof)
    varied = deviation > 0
    centered = center(rewards, where=where)
    return jnp.where(varied, centered / jnp.where(varied, deviation + eps, 1), 0)


def varied_groups(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Masks out groups whose rewards are all equal, as in dynamic sampling (DAPO).

        w_i = 1[max r > min r]

    `grpo(rewards, where=varied_groups(rewards))` is the advantage of the kept groups, over which
    the masses of GRPO are divided by 1 - p^G - q^G. The advantages of the other groups are 0
    anyway: the mask matters for means over the batch.

    Args:
      rewards: `[..., group]`.
      where: `[..., group]`, true for the rollouts that count.

    Returns:
      boolean `[..., group]`.

    From arXiv:2503.14476.
    """
    rewards, where = as_group(rewards, where)
    varied = jnp.any(center(rewards, where=where) != 0, axis=-1, keepdims=True)
    return where & varied


def group_deviation(rewards: jax.Array, where: jax.Array, *, ddof: int) -> jax.Array:
    """Returns the deviation of each group, `[..., 1]`; 0 with gradient 0 in a constant group."""
    degrees = group_count(where) - ddof
    squares = jnp.sum(center(rewards, where=where) ** 2, axis=-1, keepdims=True)
    variance = squares / jnp.maximum(degrees, 1)
    varied = (variance > 0) & (degrees > 0)
    # Two wheres: the derivative of the root is infinite at 0, and infinity times 0 is NaN.
    return jnp.where(varied, jnp.sqrt(jnp.where(varied, variance, 1)), 0)


def focal_weight(solve_rate: ArrayLike, alpha: ArrayLike) -> jax.Array:
    """Weights hard prompts more, by a power of the failure rate.

        w(p) = (1-p)^{α-1},   with 0⁰ = 1

    At p = 1 the weight is 0 for every α other than 1. For α < 1 the power diverges there, but all
    advantages of a solved group are 0.

    Args:
      solve_rate: p in [0, 1], any shape.
      alpha: α ≥ 0, a scalar or broadcastable to `solve_rate`; 1 weights all prompts equally.

    Returns:
      the weights, in the broadcast shape; finite, or NaN at a NaN solve rate.

    Raises:
      ValueError: if `alpha` is negative.

    From arXiv:2607.01490.
    """
    check_not_negative("alpha", alpha)
    exponent = jnp.asarray(alpha, dtype=jnp.float32) - 1
    failure_rate = 1 - jnp.asarray(solve_rate)  # rounding may leave it a little below 0
    failed = ~(failure_rate <= 0)  # true of NaN
    power = jnp.exp(exponent * jnp.log(jnp.where(failed, failure_rate, 1)))
    return jnp.where(failed | (exponent == 0), power, 0)


def likelihood_weight(solve_rate: ArrayLike, beta: ArrayLike) -> jax.Array:
    """Weights hard prompts more, by a power of the solve rate.

        w(p) = p^{-β}, and 0 at p = 0

    Args:
      solve_rate: p in [0, 1], any shape.
      beta: β ≥ 0, a scalar or broadcastable to `solve_rate`; 0 weights all solved prompts equally.

    Returns:
      the weights, in the broadcast shape; finite, or NaN at a NaN solve rate.

    Raises:
      ValueError: if `beta` is negative.
    """
    check_not_negative("beta", beta)
    solve_rate = jnp.asarray(solve_rate)
    solved = ~(solve_rate <= 0)  # true of NaN
    power = jnp.exp(-jnp.asarray(beta, jnp.float32) * jnp.log(jnp.where(solved, solve_rate, 1)))
    return jnp.where(solved, power, 0)


def suppress_negatives(advantages: ArrayLike, delta: ArrayLike) -> jax.Array:
    """Divides negative advantages by δ.

        A_i ← A_i if A_i ≥ 0 else A_i / δ

    Args:
      advantages: any shape.
      delta: δ > 0, a scalar or broadcastable to `advantages`; m_S/m_F of a balanced advantage
        becomes δ, so δ < 1 pushes harder on failures.

    Returns:
      the shape of `advantages`.

    Raises:
      ValueError: if `delta` is not above 0.

    From arXiv:2607.01490.
    """
    check_positive("delta", delta)
    advantages = jnp.asarray(advantages)
    return jnp.where(advantages >= 0, advantages, advantages / jnp.asarray(delta, jnp.float32))
