"""Advantages that take a baseline off the reward, and no more."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.advantages.building_blocks import center
from fade_jax.checks import check_finite, check_not_negative
from fade_jax.groups import as_group, group_count


def reinforce(
    rewards: ArrayLike, *, baseline: ArrayLike = 0.0, where: ArrayLike | None = None
) -> jax.Array:
    """REINFORCE with a constant baseline.

        A_i = r_i - b;   m_S = p(1-b), m_F = qb, for any group size

    Args:
      rewards: `[..., group]`, of any real values.
      baseline: b, in units of the reward; a scalar or broadcastable to `rewards`.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`.

    Raises:
      ValueError: if `baseline` is not finite, or `where` does not have the shape of `rewards`.
    """
    check_finite("baseline", baseline)
    rewards, where = as_group(rewards, where)
    return jnp.where(where, rewards - baseline, 0)


def psr(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Positive sample reinforcement: only successes count. For binary rewards only.

        A_i = r_i;   m_S = p, m_F = 0, for any group size

    Args:
      rewards: `[..., group]`, 0 or 1.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`.

    Raises:
      ValueError: if `where` does not have the shape of `rewards`.

    From arXiv:2506.01347.
    """
    return reinforce(rewards, baseline=0.0, where=where)


def nsr(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Negative sample reinforcement: only failures count. For binary rewards only.

        A_i = r_i - 1;   m_S = 0, m_F = q, for any group size

    Args:
      rewards: `[..., group]`, 0 or 1.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`.

    Raises:
      ValueError: if `where` does not have the shape of `rewards`.

    From arXiv:2506.01347.
    """
    return reinforce(rewards, baseline=1.0, where=where)


def w_reinforce(
    rewards: ArrayLike, *, positive_weight: ArrayLike = 0.1, where: ArrayLike | None = None
) -> jax.Array:
    """Weighted REINFORCE: failures in full, successes at a reduced weight. Binary rewards only.

        A_i = λ r_i - (1 - r_i);   m_S = λp, m_F = q, for any group size

    Args:
      rewards: `[..., group]`, 0 or 1.
      positive_weight: λ ≥ 0.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`.

    Raises:
      ValueError: if `positive_weight` is negative, or `where` does not have the shape of
        `rewards`.

    From arXiv:2506.01347.
    """
    check_not_negative("positive_weight", positive_weight)
    rewards, where = as_group(rewards, where)
    return jnp.where(where, positive_weight * rewards - (1 - rewards), 0)


def rloo(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """REINFORCE with the mean of the other rollouts as the baseline.

        A_i = r_i - Σ_{j≠i} r_j / (G-1) = G/(G-1) (r_i - r̄);   m_S = m_F = pq, for any group size

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group and in one with a single rollout.

    Raises:
      ValueError: if the group axis is below 2, or `where` does not have the shape of `rewards`.

    From arXiv:2402.14740.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    count = group_count(where)
    return count / jnp.maximum(count - 1, 1) * center(rewards, where=where)
