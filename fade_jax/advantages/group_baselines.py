"""Baselines made from the group other than its mean: weighted by length, or a quantile."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.advantages.building_blocks import group_deviation
from fade_jax.checks import check_rate, check_same_shape
from fade_jax.groups import as_group, group_count, group_mean


def opo(rewards: ArrayLike, *, lengths: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Optimal reward baseline: the mean weighted by length (OPO).

        A_i = r_i - Σ_j L_j r_j / Σ_j L_j
        m_S → pq L_F/L̄, m_F → pq L_S/L̄ in a large group, with mean lengths L_S, L_F, L̄

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      lengths: L ≥ 0, `[..., group]`, tokens of each rollout.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, or `lengths` or `where` does not have the shape of
        `rewards`.

    From arXiv:2505.23585.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    lengths = jnp.asarray(lengths)
    check_same_shape("lengths", lengths, "rewards", rewards)
    return jnp.where(where, rewards - group_mean(rewards, where, weights=lengths), 0)


def quantile(
    rewards: ArrayLike,
    *,
    level: ArrayLike,
    standardize: bool = True,
    where: ArrayLike | None = None,
) -> jax.Array:
    """A quantile of the group as the baseline: below it only failures count, above only successes.

        A_i = (r_i - Q) / (s + 1e-6),   Q = sorted(r)[⌈level · G⌉ - 1]
        large group: m_S = √(p/q), m_F = 0 for p ≤ 1 - level; m_S = 0, m_F = √(q/p) above

    The quantile is a reward of the group, not an interpolation between two.

    Args:
      rewards: `[..., group]`, 0 or 1; the group axis is at least 2.
      level: in (0, 1]; 0.4 as published.
      standardize: divide by s (ddof = 1); without it A_i = r_i - Q.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `level` is not in (0, 1], or `where` does not have
        the shape of `rewards`.

    From arXiv:2509.22611.
    """
    check_rate("level", level)
    rewards, where = as_group(rewards, where, minimum_size=2)
    count = group_count(where)
    # Rounding can leave level · G a little above an integer, which would raise its ceiling by one.
    rank = jnp.ceil(jnp.asarray(level, jnp.float32) * count * (1 - 1e-6)) - 1
    masked = rewards.shape[-1] - count
    ordered = jnp.sort(jnp.where(where, rewards, -jnp.inf), axis=-1)  # the masked ones first
    index = jnp.clip(rank + masked, 0, rewards.shape[-1] - 1).astype(jnp.int32)
    baseline = jnp.take_along_axis(ordered, index, axis=-1)
    above = jnp.where(where, rewards - baseline, 0)
    if not standardize:
        return above
    deviation = group_deviation(rewards, where, ddof=1)
    return jnp.where(deviation > 0, above / (deviation + 1e-6), 0)
