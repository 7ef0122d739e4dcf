"""Exact decomposition of any advantage of (r_i, K) at a finite group size, and its scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_probability
from fade_jax.densities import UNIFORM, Beta, beta_binomial

AdvantageFunction = Callable[[jax.Array], ArrayLike]


class GradientMasses(NamedTuple):
    """Total weight on successes, m_S, and on failures, m_F."""

    success: jax.Array
    failure: jax.Array


class OutcomeWeights(NamedTuple):
    """w_S(K) for K = 1..G and w_F(K) for K = 0..G-1, both `[group]`.

    Entry k of either belongs to k successes among the *other* G-1 rollouts.
    """

    success: jax.Array
    failure: jax.Array


def outcome_weights(advantage_fn: AdvantageFunction, group_size: int) -> OutcomeWeights:
    """Evaluates an advantage at every number of successes in a group.

        w_S(K) = A of a success,   w_F(K) = -A of a failure,   K successes in the group

    Args:
      advantage_fn: rewards `[groups, group]` to advantages of that shape, which depend on (r_i, K)
        alone: on the reward and the number of successes of the group.
      group_size: G ≥ 1.

    Returns:
      `OutcomeWeights`, each field `[group]`.

    Raises:
      ValueError: if `group_size` is below 1, the result has another shape, rollouts of one group
        with the same reward get different advantages, or a group's advantages depend on the
        others in the batch.

    Example:
      >>> print(fade_jax.decomposition.outcome_weights(fade_jax.dr_grpo, 4).success)
      [0.75 0.5  0.25 0.  ]
    """
    check_integer("group_size", group_size, 1)
    rewards = jnp.tri(group_size + 1, group_size, -1, dtype=jnp.float32)  # row K: K ones, zeros
    advantages = jnp.asarray(advantage_fn(rewards), jnp.float32)
    if advantages.shape != rewards.shape:
        raise ValueError(
            f"advantage_fn must return the shape of the rewards, {rewards.shape}, "
            f"got {advantages.shape}"
        )
    first, last = advantages[:, :1], advantages[:, -1:]
    if not isinstance(advantages, jax.core.Tracer):
        if not _same(advantages, np.where(rewards > 0, first, last)):
            raise ValueError(
                "advantage_fn must give rollouts with the same reward in one group the same "
                "advantage: it has to depend on (r_i, K) alone"
            )
        # The shape of before, so that nothing is compiled again.
        alike = advantage_fn(jnp.broadcast_to(rewards[1], rewards.shape))
        if not _same(advantages[1], np.asarray(alike)[1]):
            raise ValueError(
                "advantage_fn must treat groups apart: freeze the statistics of an advantage "
                "that uses the whole batch"
            )
    return OutcomeWeights(first[1:, 0], -last[:-1, 0])


def _same(advantages: ArrayLike, expected: ArrayLike) -> bool:
    return np.allclose(advantages, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def bernstein(coefficients: ArrayLike, p: ArrayLike) -> jax.Array:
    """Evaluates a polynomial in Bernstein form, an expectation over a binomial count.

        E[b_K] = Σ_k b_k C(n,k) p^k (1-p)^{n-k},   K ~ Binomial(n, p)

    Uses De Casteljau's scheme: every step is an average of two neighbors, so nothing overflows or
    cancels in float32 for n in the hundreds, and p = 0 and p = 1 are exact.

    Args:
      coefficients: b, `[n + 1]`.
      p: any shape, in [0, 1].

    Returns:
      the shape of `p`.

    Raises:
      ValueError: if `p` is outside [0, 1].
    """
    check_probability("p", p)
    return _de_casteljau(coefficients, p)


@jax.jit
def _de_casteljau(coefficients: ArrayLike, p: ArrayLike) -> jax.Array:
    p = jnp.asarray(p, jnp.float32)[..., None]
    b = jnp.asarray(coefficients, jnp.float32)
    b = jnp.broadcast_to(b, (*p.shape[:-1], b.shape[0]))

    def average_neighbors(_: int, b: jax.Array) -> jax.Array:
        return b + p * (jnp.roll(b, -1, axis=-1) - b)

    return jax.lax.fori_loop(0, b.shape[-1] - 1, average_neighbors, b)[..., 0]


def gradient_masses(
    advantage_fn: AdvantageFunction, solve_rate: ArrayLike, group_size: int
) -> GradientMasses:
    """Computes the exact gradient masses of an advantage at a finite group size.

        m_S(p) = E[(K/G) w_S(K)],   m_F(p) = E[(1-K/G) w_F(K)],   K ~ Binomial(G, p)

    The expected gradient of one prompt is m_S ∇_S - m_F ∇_F.

    Args:
      advantage_fn: as in `outcome_weights`. Freeze the batch statistics of an advantage that uses
        the whole batch.
      solve_rate: p in [0, 1], any shape.
      group_size: G ≥ 1.

    Returns:
      `GradientMasses`, each field of the shape of `solve_rate`.

    Raises:
      ValueError: if `solve_rate` is outside [0, 1], or as in `outcome_weights`.

    Example:
      >>> m_S, m_F = fade_jax.decomposition.gradient_masses(fade_jax.rloo, 0.25, group_size=8)
      >>> print(f"{m_S:.4f} {m_F:.4f}")  # pq
      0.1875 0.1875

    From arXiv:2607.01490.
    """
    check_probability("solve_rate", solve_rate)
    weights = outcome_weights(advantage_fn, group_size)
    p = jnp.asarray(solve_rate, jnp.float32)
    # (K/G) of a binomial count over G is p times the count over the other G-1 rollouts.
    return GradientMasses(
        p * bernstein(weights.success, p), (1 - p) * bernstein(weights.failure, p)
    )


def expected_weight(
    advantage_fn: AdvantageFunction, solve_rate: ArrayLike, group_size: int
) -> jax.Array:
    """Computes the weight of ∇p in the expected on-policy gradient.

        h(p) = m_S/p + m_F/(1-p),   E ĝ = h(p) ∇p

    Args:
      advantage_fn: as in `gradient_masses`.
      solve_rate: p in [0, 1], any shape.
      group_size: G ≥ 1.

    Returns:
      the shape of `solve_rate`, finite at p = 0 and p = 1 too.

    Raises:
      ValueError: as in `gradient_masses`.

    Example:
      >>> h = fade_jax.decomposition.expected_weight(fade_jax.max_rl, 0.5, group_size=4)
      >>> print(f"{h:.2f}")  # 1 + q + q²
      1.75
    """
    check_probability("solve_rate", solve_rate)
    weights = outcome_weights(advantage_fn, group_size)
    return bernstein(weights.success + weights.failure, solve_rate)


def implied_objective(
    advantage_fn: AdvantageFunction, solve_rate: ArrayLike, group_size: int
) -> jax.Array:
    """Computes the function of the solve rate that an advantage ascends in expectation.

        F(p) = ∫₀ᵖ h,   E ĝ = ∇F

    Exact: h is a polynomial in Bernstein form, and so is its integral,
    F = E[c_K], K ~ Binomial(G, p), with c_k = (b_0 + … + b_{k-1})/G.

    Args:
      advantage_fn: as in `gradient_masses`.
      solve_rate: p in [0, 1], any shape.
      group_size: G ≥ 1.

    Returns:
      the shape of `solve_rate`; F(0) = 0.

    Raises:
      ValueError: as in `gradient_masses`.

    Example:
      >>> F = fade_jax.decomposition.implied_objective(fade_jax.max_rl, 0.5, group_size=3)
      >>> print(f"{F:.3f}")  # pass@1 + pass@2 / 2
      0.875
    """
    check_probability("solve_rate", solve_rate)
    weights = outcome_weights(advantage_fn, group_size)
    sums = jnp.cumsum(weights.success + weights.failure) / group_size
    return bernstein(jnp.concatenate([jnp.zeros(1), sums]), solve_rate)


def signed_masses(
    advantage_fn: AdvantageFunction, solve_rate: ArrayLike, group_size: int
) -> GradientMasses:
    """Computes the masses of positive and of negative advantages.

        M⁺ = E[(1/G) Σ_i max(A_i, 0)],   M⁻ = E[(1/G) Σ_i max(-A_i, 0)]

    They differ from m_S and m_F if a success gets a negative advantage, as in PKPO's "loo".

    Args:
      advantage_fn: as in `gradient_masses`.
      solve_rate: p in [0, 1], any shape.
      group_size: G ≥ 1.

    Returns:
      `GradientMasses`: M⁺ as `success`, M⁻ as `failure`, of the shape of `solve_rate`.

    Raises:
      ValueError: as in `gradient_masses`.
    """
    check_probability("solve_rate", solve_rate)
    success, failure = outcome_weights(advantage_fn, group_size)
    p = jnp.asarray(solve_rate, jnp.float32)

    def mean_over_rollouts(of_success: jax.Array, of_failure: jax.Array) -> jax.Array:
        return p * bernstein(of_success, p) + (1 - p) * bernstein(of_failure, p)

    return GradientMasses(
        mean_over_rollouts(jnp.maximum(success, 0), jnp.maximum(-failure, 0)),
        mean_over_rollouts(jnp.maximum(-success, 0), jnp.maximum(failure, 0)),
    )


def peak_solve_rate(advantage_fn: AdvantageFunction, group_size: int) -> jax.Array:
    """Finds the solve rate with the largest success mass.

        argmax_p m_S(p)

    Args:
      advantage_fn: as in `gradient_masses`.
      group_size: G ≥ 1.

    Returns:
      scalar in [0, 1], accurate to about 1e-5; NaN without success mass.

    Raises:
      ValueError: as in `outcome_weights`.
    """
    return _peak(outcome_weights(advantage_fn, group_size).success)


@jax.jit
def _peak(success: jax.Array) -> jax.Array:
    group_size = success.shape[0]
    share = jnp.arange(1, group_size + 1) / group_size
    mass = jnp.concatenate([jnp.zeros(1), share * success])
    slope = jnp.diff(mass)
    grid = jnp.linspace(0, 1, 1025)
    on_grid = bernstein(mass, grid)
    best = jnp.argmax(on_grid)
    low, high = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, 1024)]
    # Near its peak the mass is flat in float32: bisect on the sign of its slope instead.
    for _ in range(20):
        middle = (low + high) / 2
        rising = bernstein(slope, middle) > 0
        low, high = jnp.where(rising, middle, low), jnp.where(rising, high, middle)
    return jnp.where(on_grid[best] > 0, (low + high) / 2, jnp.nan)


def mean_masses(
    advantage_fn: AdvantageFunction, group_size: int, density: Beta = UNIFORM
) -> GradientMasses:
    """Computes the exact mean of the gradient masses over a density of solve rates.

        E_f[m_S] = Σ_K P(K) (K/G) w_S(K),   P beta-binomial; m_F likewise

    Args:
      advantage_fn: as in `gradient_masses`.
      group_size: G ≥ 1.
      density: f, of the solve rate over prompts; uniform unless given.

    Returns:
      `GradientMasses` of scalars.

    Raises:
      ValueError: as in `outcome_weights`, or if a parameter of the density is not above 0.
    """
    weights = outcome_weights(advantage_fn, group_size)
    probability = beta_binomial(density, group_size)
    share = jnp.arange(group_size + 1) / group_size
    return GradientMasses(
        jnp.sum((probability * share)[1:] * weights.success),
        jnp.sum((probability * (1 - share))[:-1] * weights.failure),
    )


def equalize_scale(
    advantage_fns: Sequence[AdvantageFunction], group_size: int, density: Beta = UNIFORM
) -> jax.Array:
    """Computes factors that give several advantages the same total mass.

        c_i E_f[m_S + m_F of i] = E_f[m_S + m_F of the first]

    A factor on an advantage acts as a factor on the learning rate, so a fair comparison needs
    equal totals. At a uniform density Power's factor is (α+1)(α+2)/6 in a large group.

    Args:
      advantage_fns: as in `gradient_masses`.
      group_size: G ≥ 1.
      density: f, of the solve rate over prompts; uniform unless given.

    Returns:
      `[len(advantage_fns)]`, 1 for the first.

    Raises:
      ValueError: as in `mean_masses`.
    """
    total = jnp.stack([sum(mean_masses(fn, group_size, density)) for fn in advantage_fns])
    return total[0] / total
