"""Signal and noise of weights that depend on the solve rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_probability
from fade_jax.decomposition import bernstein
from fade_jax.densities import UNIFORM, Beta, quadrature
from fade_jax.groups import as_group


class WeightQuality(NamedTuple):
    """Quality of a weight over a density of solve rates, as scalars.

    Attributes:
      effective_share: N_eff / N.
      signal_to_noise: E_f[q(p, w)].
      quality: Q / N, the product.
    """

    effective_share: jax.Array
    signal_to_noise: jax.Array
    quality: jax.Array


def effective_sample_size(weights: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Computes the effective sample size of a weighted mean.

        N_eff = (Σ_i w_i)² / Σ_i w_i²

    Args:
      weights: any shape, such as the weight of each prompt of a batch.
      where: the same shape, true for the weights that count.

    Returns:
      scalar, between 1 and the number of weights if all have one sign; 0 if all are 0.

    Example:
      >>> print(fade_jax.diagnostics.effective_sample_size([1.0, 1.0, 0.0, 0.0]))
      2.0
    """
    weights, _ = as_group(weights, where, name="weights")
    largest = jnp.max(jnp.abs(weights), initial=0)
    weights = weights / jnp.where(largest > 0, largest, 1)
    squares = jnp.sum(weights**2)
    return jnp.sum(weights) ** 2 / jnp.where(squares > 0, squares, 1)


def weight_moments(
    weight_fn: Callable[[jax.Array], ArrayLike], solve_rate: ArrayLike, group_size: int
) -> tuple[jax.Array, jax.Array]:
    """Computes the exact mean and variance of a weight at the solve rate of a random group.

        E[w(K/G)],   Var(w(K/G)),   K ~ Binomial(G, p)

    Args:
      weight_fn: solve rates `[group + 1]` to weights of that shape.
      solve_rate: p in [0, 1], any shape.
      group_size: G ≥ 1.

    Returns:
      mean and variance, both of the shape of `solve_rate`.

    Raises:
      ValueError: if `group_size` is below 1 or `solve_rate` is outside [0, 1].
    """
    check_integer("group_size", group_size, 1)
    check_probability("solve_rate", solve_rate)
    weights = jnp.asarray(weight_fn(jnp.linspace(0, 1, group_size + 1)), jnp.float32)
    mean = bernstein(weights, solve_rate)
    spread = jnp.square(weights - jnp.mean(weights))
    variance = bernstein(spread, solve_rate) - jnp.square(mean - jnp.mean(weights))
    return mean, jnp.maximum(variance, 0)


def weight_noise(
    weight_fn: Callable[[jax.Array], ArrayLike],
    solve_rate: ArrayLike,
    group_size: int,
    *,
    signal: Callable[[jax.Array], jax.Array] | None = None,
    noise: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Approximates the variance of a prompt's gradient estimate under a weight.

        Var(w(p̂) ĝ) ≈ w(p)² v₀(p) + s(p)² Var(w(p̂)),   for p̂ independent of ĝ

    Here w(p) = E[w(p̂)]. The omitted term is v₀(p) Var(w(p̂)), of order 1/G².

    Args:
      weight_fn: solve rates `[group + 1]` to weights, such as `focal_weight` at some α.
      solve_rate: p in [0, 1], any shape.
      group_size: G ≥ 1.
      signal: s(p), size of the unweighted expected gradient; p(1-p) unless given.
      noise: v₀(p), variance of the unweighted gradient estimate; p(1-p)/G unless given.

    Returns:
      the shape of `solve_rate`.

    Raises:
      ValueError: if `group_size` is below 1 or `solve_rate` is outside [0, 1].

    From arXiv:2607.01490.
    """
    mean, variance = weight_moments(weight_fn, solve_rate, group_size)
    p = jnp.asarray(solve_rate, jnp.float32)
    v0 = p * (1 - p) / group_size if noise is None else noise(p)
    return mean**2 * v0 + _signal(signal, p) ** 2 * variance


def _signal(signal: Callable[[jax.Array], jax.Array] | None, p: jax.Array) -> jax.Array:
    return p * (1 - p) if signal is None else signal(p)


def weight_quality(
    weight_fn: Callable[[jax.Array], ArrayLike],
    group_size: int,
    density: Beta = UNIFORM,
    *,
    signal: Callable[[jax.Array], jax.Array] | None = None,
    noise: Callable[[jax.Array], jax.Array] | None = None,
) -> WeightQuality:
    """Computes how a weight trades signal against sample size.

        q(p, w) = (w(p) s(p))² / Var(w(p̂) ĝ),   the variance as in `weight_noise`
        Q(w) = N_eff · E_f[q(p, w)],   N_eff = (E_f w)² / E_f w² for one prompt

    The noise formula is from the paper. That q is the squared ratio of signal to noise, with
    w(p) = E[w(p̂)], is our interpretation.

    Args:
      weight_fn: solve rates `[group + 1]` to weights, such as `focal_weight` at some α.
      group_size: G ≥ 1.
      density: f, of the solve rate over prompts.
      signal: s(p), as in `weight_noise`.
      noise: v₀(p), as in `weight_noise`.

    Returns:
      `WeightQuality` of one prompt; multiply by the number of prompts for a batch.

    Raises:
      ValueError: if `group_size` is below 1 or the density has a parameter not above 0.

    From arXiv:2607.01490.
    """
    p, probability = quadrature(density)
    mean, variance = weight_moments(weight_fn, p, group_size)
    spread = weight_noise(weight_fn, p, group_size, signal=signal, noise=noise)
    q = (mean * _signal(signal, p)) ** 2 / jnp.maximum(spread, jnp.finfo(jnp.float32).tiny)
    share = jnp.sum(probability * mean) ** 2 / jnp.sum(probability * (mean**2 + variance))
    ratio = jnp.sum(probability * q)
    return WeightQuality(share, ratio, share * ratio)
