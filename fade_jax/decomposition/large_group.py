"""Closed-form gradient masses in the limit of a large group, by the name of the advantage.

Each function maps the solve rate p in [0, 1], of any shape, to `GradientMasses` of that shape, and
raises a ValueError outside [0, 1]. A mass that diverges at p = 0 or 1 is infinite there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_probability
from fade_jax.decomposition.exact import GradientMasses

Number = float | jax.Array


def _rates(solve_rate: ArrayLike) -> tuple[jax.Array, jax.Array]:
    check_probability("solve_rate", solve_rate)
    p = jnp.asarray(solve_rate, jnp.float32)
    return p, 1 - p


def reinforce(solve_rate: ArrayLike, *, baseline: Number = 0.0) -> GradientMasses:
    """m_S = p(1-b), m_F = qb."""
    p, q = _rates(solve_rate)
    return GradientMasses(p * (1 - baseline), q * baseline)


def psr(solve_rate: ArrayLike) -> GradientMasses:
    """m_S = p, m_F = 0."""
    return reinforce(solve_rate, baseline=0.0)


def nsr(solve_rate: ArrayLike) -> GradientMasses:
    """m_S = 0, m_F = q."""
    return reinforce(solve_rate, baseline=1.0)


def w_reinforce(solve_rate: ArrayLike, *, positive_weight: Number = 0.1) -> GradientMasses:
    """m_S = λp, m_F = q."""
    p, q = _rates(solve_rate)
    return GradientMasses(positive_weight * p, q)


def rloo(solve_rate: ArrayLike) -> GradientMasses:
    """m_S = m_F = pq."""
    p, q = _rates(solve_rate)
    return GradientMasses(p * q, p * q)


def dr_grpo(solve_rate: ArrayLike) -> GradientMasses:
    """m_S = m_F = pq."""
    return rloo(solve_rate)


def grpo(solve_rate: ArrayLike) -> GradientMasses:
    """m_S = m_F = √(pq)."""
    return f_grpo(solve_rate, gamma=0.0)


def f_grpo(solve_rate: ArrayLike, *, gamma: Number) -> GradientMasses:
    """m_S = m_F = q^γ √(pq)."""
    p, q = _rates(solve_rate)
    mass = q**gamma * jnp.sqrt(p * q)
    return GradientMasses(mass, mass)


def power(solve_rate: ArrayLike, *, alpha: Number, scale: Number = 1.0) -> GradientMasses:
    """m_S = m_F = C p q^α."""
    p, q = _rates(solve_rate)
    mass = scale * p * q**alpha
    return GradientMasses(mass, mass)


def asym_grpo(solve_rate: ArrayLike, *, delta: Number) -> GradientMasses:
    """m_S = pq, m_F = pq/δ."""
    return power_asym(solve_rate, alpha=1.0, delta=delta)


def power_asym(solve_rate: ArrayLike, *, alpha: Number, delta: Number) -> GradientMasses:
    """m_S = p q^α, m_F = p q^α / δ."""
    mass = power(solve_rate, alpha=alpha).success
    return GradientMasses(mass, mass / delta)


fade = power_asym  # alias, as in fade_jax


def pkpo(solve_rate: ArrayLike, *, k: Number, baseline: str = "loo_minus_one") -> GradientMasses:
    """m_S and m_F of "none": kp and -kq(1-q^{k-1}); "loo": both k p q^k; else k p q^{k-1} and 0."""
    p, q = _rates(solve_rate)
    if baseline == "none":
        return GradientMasses(k * p, -k * q * (1 - q ** (k - 1)))
    if baseline == "loo":
        return GradientMasses(k * p * q**k, k * p * q**k)
    return GradientMasses(k * p * q ** (k - 1), 0 * p)


def leave_one_out_pass_at_g(solve_rate: ArrayLike, *, group_size: int) -> GradientMasses:
    """m_S = p q^{G-1}, m_F = 0."""
    p, q = _rates(solve_rate)
    return GradientMasses(p * q ** (group_size - 1), 0 * p)


def pass_at_k_training(solve_rate: ArrayLike, *, k: Number) -> GradientMasses:
    """m_S = m_F = p q^{k/2} / √(1-q^k), and 0 at p = 0."""
    p, q = _rates(solve_rate)
    passed = -jnp.expm1(k * jnp.log1p(-p))  # 1 - q^k, precise for a small p
    mass = jnp.where(p > 0, p * q ** (k / 2) * jax.lax.rsqrt(jnp.where(p > 0, passed, 1)), 0)
    return GradientMasses(mass, mass)


def log_mean_exp(solve_rate: ArrayLike, *, beta: Number) -> GradientMasses:
    """m_S = m_F = pq κ / (β(1+κp)), κ = e^β - 1."""
    p, q = _rates(solve_rate)
    kappa = jnp.expm1(jnp.asarray(beta, jnp.float32))
    mass = p * q * kappa / (beta * (1 + kappa * p))
    return GradientMasses(mass, mass)


def max_rl(solve_rate: ArrayLike) -> GradientMasses:
    """m_S = m_F = q for p > 0."""
    _, q = _rates(solve_rate)
    return GradientMasses(q, q)


def tempered_likelihood(solve_rate: ArrayLike, *, beta: Number) -> GradientMasses:
    """m_S = m_F = q p^{1-β} for p > 0."""
    p, q = _rates(solve_rate)
    mass = q * p ** (1 - jnp.asarray(beta, jnp.float32))
    return GradientMasses(mass, mass)


def quantile(solve_rate: ArrayLike, *, level: Number) -> GradientMasses:
    """√(p/q) on successes for p ≤ 1 - K, √(q/p) on failures above; standardized."""
    p, q = _rates(solve_rate)
    hard = p <= 1 - jnp.asarray(level, jnp.float32)
    return GradientMasses(jnp.where(hard, jnp.sqrt(p / q), 0), jnp.where(hard, 0, jnp.sqrt(q / p)))


def a_grae(solve_rate: ArrayLike, *, omega: Number, threshold: Number = 1.0) -> GradientMasses:
    """m_F = ½(ω√q + (1-ω)√p) within (0, 1), m_S = min(1, ω/threshold) m_F."""
    p, q = _rates(solve_rate)
    mass = (omega * jnp.sqrt(q) + (1 - omega) * jnp.sqrt(p)) / 2
    return GradientMasses(jnp.minimum(1, jnp.asarray(omega) / threshold) * mass, mass)


def opo(solve_rate: ArrayLike, *, success_length: Number, failure_length: Number) -> GradientMasses:
    """m_S = pq L_F/L̄, m_F = pq L_S/L̄, with L̄ = p L_S + q L_F."""
    p, q = _rates(solve_rate)
    mean = p * success_length + q * failure_length
    return GradientMasses(p * q * failure_length / mean, p * q * success_length / mean)


def reinforce_plus_plus(solve_rate: ArrayLike, *, batch_mean: Number) -> GradientMasses:
    """m_S = p √((1-μ)/μ), m_F = q √(μ/(1-μ)), at a batch mean μ."""
    p, q = _rates(solve_rate)
    odds = jnp.sqrt(jnp.asarray(batch_mean) / (1 - jnp.asarray(batch_mean)))
    return GradientMasses(p / odds, q * odds)


def gpg(solve_rate: ArrayLike, *, batch_scale: Number = 1.0) -> GradientMasses:
    """m_S = m_F = α_B pq, at a batch's factor α_B."""
    p, q = _rates(solve_rate)
    return GradientMasses(batch_scale * p * q, batch_scale * p * q)
