"""Closed-form implied objectives in the limit of a large group, by the name of the advantage.

Each function maps the solve rate p in [0, 1], of any shape, to F(p) with F(0) = 0, and raises a
ValueError outside [0, 1]. The expected gradient of the advantage is ∇F. Some hold at any group
size, as stated. A-GRAE has no F: it would fall to -∞ at p = 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_probability, check_value

Number = float | jax.Array


def _p(solve_rate: ArrayLike) -> jax.Array:
    check_probability("solve_rate", solve_rate)
    return jnp.asarray(solve_rate, jnp.float32)


def pass_at(solve_rate: ArrayLike, k: Number) -> jax.Array:
    """pass@k = 1 - q^k, for a real k too."""
    return 1 - (1 - _p(solve_rate)) ** k


def reinforce(solve_rate: ArrayLike) -> jax.Array:
    """F = p, under any constant baseline and at any group size."""
    return _p(solve_rate)


def psr(solve_rate: ArrayLike) -> jax.Array:
    """F = p, at any group size."""
    return _p(solve_rate)


def nsr(solve_rate: ArrayLike) -> jax.Array:
    """F = p, at any group size."""
    return _p(solve_rate)


def rloo(solve_rate: ArrayLike) -> jax.Array:
    """F = p, at any group size."""
    return _p(solve_rate)


def w_reinforce(solve_rate: ArrayLike, *, positive_weight: Number = 0.1) -> jax.Array:
    """F = (1+λ) p, at any group size."""
    return (1 + jnp.asarray(positive_weight)) * _p(solve_rate)


def dr_grpo(solve_rate: ArrayLike, *, group_size: Number = jnp.inf) -> jax.Array:
    """F = (1 - 1/G) p, at the given group size."""
    return (1 - 1 / jnp.asarray(group_size)) * _p(solve_rate)


def grpo(solve_rate: ArrayLike) -> jax.Array:
    """F = 2 arcsin √p."""
    return 2 * jnp.arcsin(jnp.sqrt(_p(solve_rate)))


def f_grpo(solve_rate: ArrayLike, *, gamma: Number) -> jax.Array:
    """F = B(p; ½, γ+½), the incomplete beta function."""
    half, b = jnp.float32(0.5), jnp.asarray(gamma, jnp.float32) + 0.5
    complete = jnp.exp(jax.scipy.special.betaln(half, b))
    return complete * jax.scipy.special.betainc(half, b, _p(solve_rate))


def power(solve_rate: ArrayLike, *, alpha: Number, scale: Number = 1.0) -> jax.Array:
    """F = C pass@α / α."""
    return scale * pass_at(solve_rate, alpha) / alpha


def asym_grpo(solve_rate: ArrayLike, *, delta: Number) -> jax.Array:
    """F = p - p²/2 + p²/(2δ)."""
    p = _p(solve_rate)
    return p - p**2 / 2 + p**2 / (2 * jnp.asarray(delta))


def power_asym(solve_rate: ArrayLike, *, alpha: Number, delta: Number) -> jax.Array:
    """F = pass@(α+1)/(α+1) + (pass@α/α - pass@(α+1)/(α+1))/δ, at frozen α and δ."""
    kept = power(solve_rate, alpha=jnp.asarray(alpha) + 1)
    return kept + (power(solve_rate, alpha=alpha) - kept) / delta


fade = power_asym  # alias, as in fade_jax


def pkpo(solve_rate: ArrayLike, *, k: Number) -> jax.Array:
    """F = pass@k, for every baseline and at any group size."""
    return pass_at(solve_rate, k)


def leave_one_out_pass_at_g(solve_rate: ArrayLike, *, group_size: Number) -> jax.Array:
    """F = pass@G / G, at any group size."""
    return power(solve_rate, alpha=group_size)


def pass_at_k_training(solve_rate: ArrayLike, *, k: Number) -> jax.Array:
    """F = (2/k) arcsin √(pass@k)."""
    return 2 / jnp.asarray(k) * jnp.arcsin(jnp.sqrt(pass_at(solve_rate, k)))


def log_mean_exp(solve_rate: ArrayLike, *, beta: Number) -> jax.Array:
    """F = log(1 + κp)/β, κ = e^β - 1."""
    beta = jnp.asarray(beta, jnp.float32)
    return jnp.log1p(jnp.expm1(beta) * _p(solve_rate)) / beta


def tempered_likelihood(solve_rate: ArrayLike, *, beta: Number) -> jax.Array:
    """F = p^{1-β} / (1-β), for β in [0, 1): from β = 1 on it falls to -∞ at p = 0.

    Raises:
      ValueError: if `beta` is outside [0, 1).
    """
    check_value("beta", beta, "in [0, 1)", lambda x: (x >= 0) & (x < 1))
    exponent = 1 - jnp.asarray(beta, jnp.float32)
    return _p(solve_rate) ** exponent / exponent


def max_rl(solve_rate: ArrayLike, *, group_size: int) -> jax.Array:
    """F = Σ_{k=1}^{G-1} pass@k / k, at any group size."""
    k = jnp.arange(1, group_size)
    return jnp.sum(pass_at(_p(solve_rate)[..., None], k) / k, axis=-1)


def quantile(solve_rate: ArrayLike) -> jax.Array:
    """F = 2 arcsin √p, at every level; standardized."""
    return grpo(solve_rate)


def opo(solve_rate: ArrayLike) -> jax.Array:
    """F = p, for any lengths."""
    return _p(solve_rate)


def reinforce_plus_plus(solve_rate: ArrayLike, *, batch_mean: Number) -> jax.Array:
    """F = p / √(μ(1-μ)), at a batch mean μ and any group size."""
    mean = jnp.asarray(batch_mean, jnp.float32)
    return _p(solve_rate) * jax.lax.rsqrt(mean * (1 - mean))


def gpg(
    solve_rate: ArrayLike, *, batch_scale: Number = 1.0, group_size: Number = jnp.inf
) -> jax.Array:
    """F = α_B (1 - 1/G) p, at a batch's factor α_B and the given group size."""
    return batch_scale * dr_grpo(solve_rate, group_size=group_size)
