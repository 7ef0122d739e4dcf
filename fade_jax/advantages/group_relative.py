"""Advantages relative to the group's mean, with or without its standard deviation."""

import jax
from jax.typing import ArrayLike

from fade_jax.advantages.building_blocks import center, standardize
from fade_jax.groups import as_group


def dr_grpo(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """GRPO without the standard deviation (Dr. GRPO).

        A_i = r_i - r̄;   m_S = m_F = pq (1 - 1/G)

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, or `where` does not have the shape of `rewards`.

    From arXiv:2503.20783.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    return center(rewards, where=where)


def grpo(
    rewards: ArrayLike, *, ddof: int = 1, eps: ArrayLike = 1e-6, where: ArrayLike | None = None
) -> jax.Array:
    """Group relative policy optimisation: the standardised reward.

        A_i = (r_i - r̄) / (s + ε);   m_S = m_F → √(pq) in a large group

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      ddof: what is taken off the group size in s²; 1 as published, 0 as numpy's default.
      eps: ε, in units of the reward.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `ddof` is neither 0 nor 1, `eps` is negative, or
        `where` does not have the shape of `rewards`.

    From arXiv:2402.03300.
    """
    return standardize(rewards, ddof=ddof, eps=eps, where=where)
