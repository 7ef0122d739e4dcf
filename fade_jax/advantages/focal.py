"""Advantages that weight groups by solve rate: focal, asymmetric and related weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.advantages.base import (
    advantage,
    center,
    focal_weight,
    likelihood_weight,
    standardize,
    suppress_negatives,
)
from fade_jax.checks import check_finite, check_not_negative, check_positive, check_probability
from fade_jax.groups import as_group, group_mean


@advantage("in [0, 1]")
def asym_grpo(rewards: ArrayLike, *, delta: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Centers the rewards and divides negative advantages by δ (AsymGRPO).

        a_i = r_i - r̄;   A_i = a_i if a_i ≥ 0 else a_i / δ
        m_S = pq (1 - 1/G), m_F = m_S / δ

    Args:
      rewards: `[..., group]`, in [0, 1]; the group axis is at least 2.
      delta: δ > 0, the ratio m_S/m_F.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2 or `delta` is not above 0.

    Example:
      >>> print(fade_jax.asym_grpo([1, 0, 0, 0], delta=0.5))
      [ 0.75 -0.5  -0.5  -0.5 ]

    From arXiv:2607.01490.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    return suppress_negatives(center(rewards, where=where), delta)


@advantage("in [0, 1]")
def power(
    rewards: ArrayLike,
    *,
    alpha: ArrayLike,
    scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Multiplies centered rewards by a power of the group's failure rate (Power).

        A_i = C (1 - r̄)^{α-1} (r_i - r̄);   m_S = m_F → C p q^α in a large group

    In expectation it ascends pass@α / α. Two choices of C make different α comparable:
    equal peak, C = (1+α)^{1+α} / (4 α^α), and equal area, C = (α+1)(α+2)/6.

    Args:
      rewards: `[..., group]`, in [0, 1]; the group axis is at least 2.
      alpha: α ≥ 0; the mass peaks at p = 1/(1+α).
      scale: C.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `alpha` is negative or `scale` is not finite.

    Example:
      >>> print(fade_jax.power([1, 0, 0, 0], alpha=2.0).round(4))
      [ 0.5625 -0.1875 -0.1875 -0.1875]

    From arXiv:2607.01490.
    """
    check_finite("scale", scale)
    rewards, where = as_group(rewards, where, minimum_size=2)
    weight = focal_weight(group_mean(rewards, where), alpha)
    return jnp.asarray(scale) * weight * center(rewards, where=where)


@advantage("in [0, 1]")
def power_asym(
    rewards: ArrayLike,
    *,
    alpha: ArrayLike,
    delta: ArrayLike,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Computes FADE's advantage at a given α and δ: focal on hard prompts, asymmetric on failures.

        A_i = (1 - r̄)^{α-1} (r_i - r̄) · {1 if r_i ≥ r̄ else 1/δ}
        m_S → p q^α, m_F = m_S / δ in a large group

    `fade_jax.transforms.fade` sets α from the solve rate and δ from the entropy.

    Args:
      rewards: `[..., group]`, in [0, 1]; the group axis is at least 2.
      alpha: α ≥ 0; the mass peaks at p = 1/(1+α).
      delta: δ > 0, the ratio m_S/m_F.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `alpha` is negative or `delta` is not above 0.

    Example:
      >>> print(fade_jax.power_asym([1, 0, 0, 0], alpha=2.0, delta=0.5).round(4))
      [ 0.5625 -0.375  -0.375  -0.375 ]

    From arXiv:2607.01490.
    """
    return suppress_negatives(power(rewards, alpha=alpha, where=where), delta)


# Earlier name of `power_asym`. FADE with its schedules is `fade_jax.transforms.fade`.
fade = power_asym


@advantage("in [0, 1]")
def f_grpo(rewards: ArrayLike, *, gamma: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Multiplies GRPO by a focal weight (F-GRPO).

        A_i = (1 - r̄)^γ (r_i - r̄) / (s + 1e-6);   m_S = m_F → q^γ √(pq) in a large group

    Args:
      rewards: `[..., group]`, in [0, 1]; the group axis is at least 2.
      gamma: γ ≥ 0; the mass peaks at p = 1/(2(1+γ)).
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2 or `gamma` is negative.

    From arXiv:2602.06717.
    """
    check_not_negative("gamma", gamma)
    rewards, where = as_group(rewards, where, minimum_size=2)
    weight = focal_weight(group_mean(rewards, where), jnp.asarray(gamma, jnp.float32) + 1)
    return weight * standardize(rewards, where=where)


@advantage("0 or 1")
def a_grae(
    rewards: ArrayLike,
    *,
    omega: ArrayLike,
    threshold: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Mixes a focus on hard and a focus on easy prompts, with weaker positives (A-GRAE).

    For binary rewards only.

        z = GRPO's advantage;   a_i = ½ (ω z_i/√r̄ + (1-ω) z_i/√(1-r̄))
        A_i = a_i · {min(1, ω/threshold) if z_i > 0 else 1}
        large group: m_F = ½ (ω √q + (1-ω) √p), m_S = min(1, ω/threshold) m_F

    Args:
      rewards: `[..., group]`, 0 or 1; the group axis is at least 2.
      omega: ω in [0, 1]; the mass peaks at p = (1-ω)²/(ω² + (1-ω)²).
      threshold: above 0; positives have their full weight from this ω on.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2, `omega` is not in [0, 1] or `threshold` is not above
        0.

    From arXiv:2602.05548.
    """
    check_probability("omega", omega)
    check_positive("threshold", threshold)
    rewards, where = as_group(rewards, where, minimum_size=2)
    z = standardize(rewards, where=where)
    solve_rate = group_mean(rewards, where)
    mixed = (solve_rate > 0) & (solve_rate < 1)
    p = jnp.where(mixed, solve_rate, 0.5)
    omega = jnp.asarray(omega, jnp.float32)
    weight = (omega * jax.lax.rsqrt(p) + (1 - omega) * jax.lax.rsqrt(1 - p)) / 2
    positive = jnp.minimum(1, omega / threshold)
    return jnp.where(mixed, weight * jnp.where(z > 0, positive, 1) * z, 0)


@advantage("0 or 1")
def max_rl(rewards: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
    """Divides centered rewards by the group's mean (MaxRL, maximum likelihood RL).

    For binary rewards only.

        A_i = (r_i - r̄) / r̄;   m_S = m_F = q - q^G, for any group size

    In expectation it ascends Σ_{k=1}^{G-1} pass@k / k, a truncation of log p.

    Args:
      rewards: `[..., group]`, 0 or 1; the group axis is at least 2.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2.

    Example:
      >>> print(fade_jax.max_rl([1, 0, 0, 0]))
      [ 3. -1. -1. -1.]

    From arXiv:2602.02710.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    solve_rate = group_mean(rewards, where)
    solved = solve_rate > 0
    return jnp.where(solved, center(rewards, where=where) / jnp.where(solved, solve_rate, 1), 0)


@advantage("in [0, 1]")
def tempered_likelihood(
    rewards: ArrayLike, *, beta: ArrayLike, where: ArrayLike | None = None
) -> jax.Array:
    """Divides centered rewards by a power of the group's mean (tempered likelihood).

        A_i = (r_i - r̄) / r̄^β;   m_S = m_F → q p^{1-β} in a large group

    In a large group it ascends p^{1-β} / (1-β): β = 0 is the solve rate, β = 1 its logarithm
    (`max_rl`). β = ½ is GRPO, h = (pq)^{-½}, without the extra weight on nearly solved prompts. For
    h = p^{-β} at a finite group size, up to q^{G-1}, see `synthesis.tempered_likelihood`.

    Args:
      rewards: `[..., group]`, in [0, 1]; the group axis is at least 2.
      beta: β ≥ 0; the mass peaks at p = (1-β)/(2-β), and at 0 from β = 1 on.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2 or `beta` is negative.
    """
    rewards, where = as_group(rewards, where, minimum_size=2)
    weight = likelihood_weight(group_mean(rewards, where), beta)
    return weight * center(rewards, where=where)


@advantage()
def log_mean_exp(
    rewards: ArrayLike, *, beta: ArrayLike, where: ArrayLike | None = None
) -> jax.Array:
    """Computes the gradient of the log of the mean exponential reward.

        A_i = (e^{β r_i} / mean_j e^{β r_j} - 1) / β
        m_S = m_F → pq κ/(β (1 + κp)) in a large group, κ = e^β - 1

    Args:
      rewards: `[..., group]`, of any real values; the group axis is at least 2.
      beta: β > 0; 2 as published. Small values approach the centered reward.
      where: `[..., group]`, true for the rollouts that count; the others get 0.

    Returns:
      `[..., group]`, exactly 0 in a constant group.

    Raises:
      ValueError: if the group axis is below 2 or `beta` is not above 0.

    From arXiv:2509.24261.
    """
    check_positive("beta", beta)
    rewards, where = as_group(rewards, where, minimum_size=2)
    beta = jnp.asarray(beta, jnp.float32)
    # Relative to the largest reward no exponential overflows, and expm1 keeps small β exact.
    largest = jnp.max(jnp.where(where, rewards, -jnp.inf), axis=-1, keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    excess = jnp.where(where, jnp.expm1(beta * (rewards - largest)), 0)
    return center(excess, where=where) / (beta * (1 + group_mean(excess, where)))
