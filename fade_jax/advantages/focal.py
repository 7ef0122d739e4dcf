"""Advantages that weigh hard prompts more (α), failures more (δ), or both (FADE)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.advantages.building_blocks import center, focal_weight, suppress_negatives
from fade_jax.checks import check_finite
from fade_jax.groups import as_group, group_mean


def asym_grpo(rewards: ArrayLike, *, delta: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Centered rewards with the negative ones divided by δ (AsymGRPO).

        a_i = r_i - r̄;   A_i = a_i if a_i ≥ 0 else a_i / δ
        m_S = pq (1 - 1/G), m_F = m_S / δ

    Args:
      rewards: `[..., group]`, in [0, 1]; the group axis is at least 2.
      delta: δ > 0, the ratio m_S/m_F.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `delta` is not above 0, or `where` does not have
        the shape of `rewards`.

    From arXiv:2607.01490.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    return suppress_negatives(center(rewards, where=where), delta)


def power(
    rewards: ArrayLike,
    *,
    alpha: ArrayLike,
    scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Centered rewards times a power of the group's failure rate.

        A_i = C (1 - r̄)^{α-1} (r_i - r̄);   m_S = m_F → C p q^α in a large group

    In expectation it ascends pass@α / α. Two scales make sizes comparable over α: equal peak,
    C = (1+α)^{1+α} / (4 α^α), and equal area, C = (α+1)(α+2)/6.

    Args:
      rewards: `[..., group]`, in [0, 1]; the group axis is at least 2.
      alpha: α ≥ 0; the mass peaks at p = 1/(1+α).
      scale: C.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `alpha` is negative, `scale` is not finite, or
        `where` does not have the shape of `rewards`.

    From arXiv:2607.01490.
    """
    check_finite("scale", scale)
    rewards, where = as_group(rewards, where, minimum_size=2)
    weight = focal_weight(group_mean(rewards, where), alpha)
    return jnp.asarray(scale) * weight * center(rewards, where=where)


def fade(
    rewards: ArrayLike,
    *,
    alpha: ArrayLike,
    delta: ArrayLike,
    where: ArrayLike | None = None,
) -> jax.Array:
    """FADE's weights at a given α and δ: focal on hard prompts, asymmetric on failures.

        A_i = (1 - r̄)^{α-1} (r_i - r̄) · {1 if r_i ≥ r̄ else 1/δ}
        m_S → p q^α, m_F = m_S / δ in a large group

    `fade_jax.transforms.fade` drives α by the solve rate and δ by the entropy.

    Args:
      rewards: `[..., group]`, in [0, 1]; the group axis is at least 2.
      alpha: α ≥ 0; the mass peaks at p = 1/(1+α).
      delta: δ > 0, the ratio m_S/m_F.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `alpha` is negative, `delta` is not above 0, or
        `where` does not have the shape of `rewards`.

    From arXiv:2607.01490.
    """
    return suppress_negatives(power(rewards, alpha=alpha, where=where), delta)
