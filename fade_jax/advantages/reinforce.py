"""REINFORCE with constant, group, leave-one-out, quantile and batch baselines."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.advantages.base import advantage, center, group_deviation, standardize
from fade_jax.checks import check_finite, check_not_negative, check_rate, check_same_shape
from fade_jax.groups import as_group, group_count, group_mean


@advantage()
def reinforce(
    rewards: ArrayLike, *, baseline: ArrayLike = 0.0, where: ArrayLike | None = None
) -> jax.Array:
    """Subtracts a constant baseline (REINFORCE).

        A_i = r_i - b;   m_S = p(1-b), m_F = qb, for any group size

    Args:
      rewards: `[..., group]`, of any real values.
      baseline: b, in units of the reward; a scalar or broadcastable to `rewards`.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`.

    Raises:
      ValueError: if `baseline` is not finite.
    """
    check_finite("baseline", baseline)
    rewards, where = as_group(rewards, where)
    return jnp.where(where, rewards - baseline, 0)


@advantage("0 or 1")
def psr(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Weights successes only (positive sample reinforcement). For binary rewards only.

        A_i = r_i;   m_S = p, m_F = 0, for any group size

    Args:
      rewards: `[..., group]`, 0 or 1.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`.

    From arXiv:2506.01347.
    """
    return reinforce(rewards, baseline=0.0, where=where)


@advantage("0 or 1")
def nsr(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Weights failures only (negative sample reinforcement). For binary rewards only.

        A_i = r_i - 1;   m_S = 0, m_F = q, for any group size

    Args:
      rewards: `[..., group]`, 0 or 1.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`.

    From arXiv:2506.01347.
    """
    return reinforce(rewards, baseline=1.0, where=where)


@advantage("0 or 1")
def w_reinforce(
    rewards: ArrayLike, *, positive_weight: ArrayLike = 0.1, where: ArrayLike | None = None
) -> jax.Array:
    """Weights failures by 1 and successes by λ (W-REINFORCE). For binary rewards only.

        A_i = λ r_i - (1 - r_i);   m_S = λp, m_F = q, for any group size

    Args:
      rewards: `[..., group]`, 0 or 1.
      positive_weight: λ ≥ 0.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`.

    Raises:
      ValueError: if `positive_weight` is negative.

    From arXiv:2506.01347.
    """
    check_not_negative("positive_weight", positive_weight)
    rewards, where = as_group(rewards, where)
    return jnp.where(where, positive_weight * rewards - (1 - rewards), 0)


@advantage()
def rloo(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Subtracts the mean of the other rollouts (REINFORCE leave-one-out).

        A_i = r_i - Σ_{j≠i} r_j / (G-1) = G/(G-1) (r_i - r̄);   m_S = m_F = pq, for any group size

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group and in a group of one rollout.

    Raises:
      ValueError: if the group axis is below 2.

    Example:
      >>> print(fade_jax.rloo([3.0, 1.0, 2.0]))
      [ 1.5 -1.5  0. ]

    From arXiv:2402.14740.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    count = group_count(where)
    return count / jnp.maximum(count - 1, 1) * center(rewards, where=where)


@advantage()
def dr_grpo(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Subtracts the mean of the group, as GRPO without its standard deviation (Dr. GRPO).

        A_i = r_i - r̄;   m_S = m_F = pq (1 - 1/G)

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2.

    Example:
      >>> print(fade_jax.dr_grpo([[1, 0, 0, 0], [1, 1, 1, 0]]))
      [[ 0.75 -0.25 -0.25 -0.25]
       [ 0.25  0.25  0.25 -0.75]]

    From arXiv:2503.20783.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    return center(rewards, where=where)


@advantage()
def grpo(
    rewards: ArrayLike, *, ddof: int = 1, eps: ArrayLike = 1e-6, where: ArrayLike | None = None
) -> jax.Array:
    """Standardizes the rewards of each group (group relative policy optimization).

        A_i = (r_i - r̄) / (s + ε);   m_S = m_F → √(pq) in a large group

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      ddof: delta degrees of freedom of s²; 1 as published, 0 as in numpy.
      eps: ε, in units of the reward.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `ddof` is not 0 or 1, or `eps` is negative.

    Example:
      >>> print(fade_jax.grpo([3.0, 1.0, 2.0], eps=0.0))
      [ 1. -1.  0.]

    From arXiv:2402.03300.
    """
    return standardize(rewards, ddof=ddof, eps=eps, where=where)


@advantage()
def opo(rewards: ArrayLike, *, lengths: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Subtracts the mean reward weighted by length (optimal reward baseline, OPO).

        A_i = r_i - Σ_j L_j r_j / Σ_j L_j
        m_S → pq L_F/L̄, m_F → pq L_S/L̄ in a large group, with mean lengths L_S, L_F, L̄

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      lengths: L ≥ 0, `[..., group]`, number of tokens of each rollout.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, or `lengths` does not have the shape of `rewards`.

    From arXiv:2505.23585.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    lengths = jnp.asarray(lengths)
    check_same_shape("lengths", lengths, "rewards", rewards)
    return jnp.where(where, rewards - group_mean(rewards, where, weights=lengths), 0)


@advantage()
def quantile(
    rewards: ArrayLike,
    *,
    level: ArrayLike,
    standardize: bool = True,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Subtracts a quantile of the group: hard prompts learn from successes, easy from failures.

        A_i = (r_i - Q) / (s + 1e-6),   Q = sorted(r)[⌈level · G⌉ - 1]
        large group: m_S = √(p/q), m_F = 0 for p ≤ 1 - level; m_S = 0, m_F = √(q/p) above

    The quantile is one of the rewards, without interpolation.

    Args:
      rewards: `[..., group]`, of any real values, the masses for 0 or 1; the group axis is at
        least 2.
      level: in (0, 1]; 0.4 as published.
      standardize: divide by s (ddof = 1); without it A_i = r_i - Q.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, or `level` is not in (0, 1].

    From arXiv:2509.22611.
    """
    check_rate("level", level)
    rewards, where = as_group(rewards, where, minimum_size=2)
    count = group_count(where)
    # Rounding can leave level · G a little above an integer, which would raise its ceiling by one.
    rank = jnp.ceil(jnp.asarray(level, jnp.float32) * count * (1 - 1e-6)) - 1
    masked = rewards.shape[-1] - count
    ordered = jnp.sort(jnp.where(where, rewards, -jnp.inf), axis=-1)  # masked rewards first
    index = jnp.clip(rank + masked, 0, rewards.shape[-1] - 1).astype(jnp.int32)
    baseline = jnp.take_along_axis(ordered, index, axis=-1)
    above = jnp.where(where, rewards - baseline, 0)
    if not standardize:
        return above
    deviation = group_deviation(rewards, where, ddof=1)
    return jnp.where(deviation > 0, above / (deviation + 1e-6), 0)


@advantage()
def reinforce_plus_plus(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Standardizes over the whole batch (REINFORCE++).

        A_i = (r_i - μ) / (σ + 1e-6),   μ and σ (ddof = 0) over all rollouts of all groups
        at frozen μ: m_S = p √((1-μ)/μ), m_F = q √(μ/(1-μ)), for any group size

    Args:
      rewards: `[..., group]`, of any real values; every leading axis belongs to the batch.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant batch.

    From arXiv:2501.03262.
    """
    rewards, where = as_group(rewards, where)
    # All rollouts as one group.
    everyone = rewards.reshape(-1), where.reshape(-1)
    centered = jnp.where(where, rewards - group_mean(*everyone), 0)
    count = jnp.maximum(jnp.sum(where), 1)
    variance = jnp.sum(centered**2) / count
    varied = variance != 0  # true of NaN: the batch is one group
    deviation = jnp.sqrt(jnp.where(varied, variance, 1))
    return jnp.where(where & varied, centered / (deviation + 1e-6), 0)


@advantage()
def gpg(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Centers the rewards and scales up for groups without a gradient (GPG).

        A_i = α (r_i - r̄),   α = B / (B - groups with equal rewards), B groups
        m_S = m_F = α pq (1 - 1/G)

    Args:
      rewards: `[..., group]`, of any real values; every leading axis belongs to the batch, and
        the group axis is at least 2.
      where: `[..., group]`, true for the rollouts that count; the others get 0, and B does
        not count groups without a rollout.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2.

    From arXiv:2504.02546.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    centered = center(rewards, where=where)
    groups = jnp.sum(group_count(where) > 0, dtype=jnp.float32)
    varied = jnp.sum(jnp.any(centered != 0, axis=-1), dtype=jnp.float32)
    return groups / jnp.maximum(varied, 1) * centered
