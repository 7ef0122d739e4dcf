"""Advantages that need the statistics of the whole batch, not of one group alone."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.advantages.building_blocks import center
from fade_jax.groups import as_group, group_count, group_mean


def reinforce_plus_plus(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Standardise over the whole batch (REINFORCE++).

        A_i = (r_i - μ) / (σ + 1e-6),   μ and σ (ddof = 0) over all rollouts of all groups
        at frozen μ: m_S = p √((1-μ)/μ), m_F = q √(μ/(1-μ)), for any group size

    Args:
      rewards: `[..., group]`, of any real values; every leading axis belongs to the batch.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant batch.

    Raises:
      ValueError: if `where` does not have the shape of `rewards`.

    From arXiv:2501.03262.
    """
    rewards, where = as_group(rewards, where)
    # One group of all the rollouts.
    everyone = rewards.reshape(-1), where.reshape(-1)
    centered = jnp.where(where, rewards - group_mean(*everyone), 0)
    count = jnp.maximum(jnp.sum(where), 1)
    variance = jnp.sum(centered**2) / count
    varied = variance > 0
    deviation = jnp.sqrt(jnp.where(varied, variance, 1))
    return jnp.where(varied, centered / (deviation + 1e-6), 0)


def gpg(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Centered rewards, scaled up for the groups that have no gradient (GPG).

        A_i = α (r_i - r̄),   α = B / (B - groups with equal rewards), B groups
        m_S = m_F = α pq (1 - 1/G)

    Args:
      rewards: `[..., group]`, of any real values; every leading axis belongs to the batch, and
        the group axis is at least 2.
      where: `[..., group]`, true for the rollouts that count; the others get 0, and a group
        without a rollout is no part of B.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, or `where` does not have the shape of `rewards`.

    From arXiv:2504.02546.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    centered = center(rewards, where=where)
    groups = jnp.sum(group_count(where) > 0, dtype=jnp.float32)
    varied = jnp.sum(jnp.any(centered != 0, axis=-1), dtype=jnp.float32)
    return groups / jnp.maximum(varied, 1) * centered
