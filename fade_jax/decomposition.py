"""Gradient masses of an advantage: how much of the gradient comes from successes and failures."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_probability
from fade_jax.groups import as_group

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
    """Evaluate an advantage on every number of successes in a group.

        w_S(K) = A of a success,   w_F(K) = -A of a failure,   K successes in the group

    Args:
      advantage_fn: rewards `[groups, group]` to advantages of that shape; groups independent,
        and in each the advantage a function of (r_i, K) alone.
      group_size: G ≥ 1.

    Returns:
      `OutcomeWeights`, each field `[group]`.

    Raises:
      ValueError: if `group_size` is below 1, the result has another shape, or rollouts of one
        group with the same reward get different advantages.
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
        expected = np.where(rewards > 0, first, last)
        if not np.allclose(advantages, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ValueError(
                "advantage_fn must give rollouts with the same reward in one group the same "
                "advantage: it has to depend on (r_i, K) alone"
            )
    return OutcomeWeights(first[1:, 0], -last[:-1, 0])


@jax.jit
def bernstein(coefficients: ArrayLike, p: ArrayLike) -> jax.Array:
    """Evaluate a polynomial in Bernstein form: an expectation over a binomial count.

        E[b_K] = Σ_k b_k C(n,k) p^k (1-p)^{n-k},   K ~ Binomial(n, p)

    De Casteljau's scheme: every step is an average of two neighbours, so nothing overflows or
    cancels in float32 for n in the hundreds, and p = 0 and p = 1 are exact.

    Args:
      coefficients: b, `[n + 1]`.
      p: any shape, in [0, 1].

    Returns:
      the shape of `p`.
    """
    p = jnp.asarray(p, jnp.float32)[..., None]
    b = jnp.asarray(coefficients, jnp.float32)
    b = jnp.broadcast_to(b, (*p.shape[:-1], b.shape[0]))

    def average_neighbours(_: int, b: jax.Array) -> jax.Array:
        return b + p * (jnp.roll(b, -1, axis=-1) - b)

    return jax.lax.fori_loop(0, b.shape[-1] - 1, average_neighbours, b)[..., 0]


def gradient_masses(
    advantage_fn: AdvantageFunction, solve_rate: ArrayLike, group_size: int
) -> GradientMasses:
    """Exact gradient masses of any advantage of (r_i, K), at a finite group size.

        m_S(p) = E[(K/G) w_S(K)],   m_F(p) = E[(1-K/G) w_F(K)],   K ~ Binomial(G, p)

    The expected gradient of one prompt is m_S ∇_S - m_F ∇_F.

    Args:
      advantage_fn: rewards `[groups, group]` to advantages of that shape; groups independent.
        Freeze the batch statistics of an advantage that uses the whole batch.
      solve_rate: p in [0, 1], any shape.
      group_size: G ≥ 1.

    Returns:
      `GradientMasses`, each field of the shape of `solve_rate`.

    Raises:
      ValueError: if `solve_rate` is outside [0, 1], or as in `outcome_weights`.

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
    """Weight of ∇p in the expected on-policy gradient.

        h(p) = m_S/p + m_F/(1-p),   E ĝ = h(p) ∇p

    Args:
      advantage_fn: as in `gradient_masses`.
      solve_rate: p in [0, 1], any shape.
      group_size: G ≥ 1.

    Returns:
      the shape of `solve_rate`, finite at p = 0 and p = 1 too.

    Raises:
      ValueError: as in `gradient_masses`.
    """
    check_probability("solve_rate", solve_rate)
    weights = outcome_weights(advantage_fn, group_size)
    return bernstein(weights.success + weights.failure, solve_rate)


def empirical_masses(
    advantages: ArrayLike, rewards: ArrayLike, where: ArrayLike | None = None
) -> GradientMasses:
    """Gradient masses of one batch, for binary rewards.

        m_S = Σ_i w_i r_i A_i / Σ_i w_i,   m_F = -Σ_i w_i (1-r_i) A_i / Σ_i w_i

    Args:
      advantages: `[..., group]`.
      rewards: `[..., group]`, 0 or 1.
      where: `[..., group]`, true for the rollouts that count.

    Returns:
      `GradientMasses` of scalars; 0 for a batch without a rollout.

    Raises:
      ValueError: if the shapes differ.
    """
    rewards, where = as_group(rewards, where)
    advantages, where = as_group(advantages, where)
    count = jnp.maximum(jnp.sum(where), 1)
    success = rewards > 0.5
    return GradientMasses(
        jnp.sum(advantages, where=success) / count,
        -jnp.sum(advantages, where=where & ~success) / count,
    )


def sign_ratio(masses: GradientMasses) -> jax.Array:
    """Ratio of the gradient masses, m_S / m_F.

    Args:
      masses: gradient masses of any shape.

    Returns:
      that shape: 1 is balanced, above 1 biased to successes; inf without failure mass, NaN
      without any.
    """
    return masses.success / masses.failure
