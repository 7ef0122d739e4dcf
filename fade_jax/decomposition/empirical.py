"""Gradient masses of a batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_same_shape
from fade_jax.decomposition.exact import GradientMasses
from fade_jax.groups import as_group, group_count, group_mean


class BinnedMasses(NamedTuple):
    """Gradient masses of the groups in each bin of the solve rate, `[bins]`, and their number."""

    masses: GradientMasses
    groups: jax.Array


def empirical_masses(
    advantages: ArrayLike, rewards: ArrayLike, where: ArrayLike | None = None
) -> GradientMasses:
    """Computes the gradient masses of one batch, for binary rewards.

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
    advantages, rewards, where = _matching(advantages, rewards, where)
    count = jnp.maximum(jnp.sum(where), 1)
    success = rewards > 0.5
    return GradientMasses(
        jnp.sum(advantages, where=success) / count,
        -jnp.sum(advantages, where=where & ~success) / count,
    )


def sign_ratio(masses: GradientMasses) -> jax.Array:
    """Returns the ratio of the gradient masses, m_S / m_F.

    Args:
      masses: gradient masses of any shape.

    Returns:
      the same shape; 1 is balanced, above 1 favors successes. Infinite without failure mass, NaN
      if both masses are 0.
    """
    return masses.success / masses.failure


def empirical_masses_by_bin(
    advantages: ArrayLike,
    rewards: ArrayLike,
    where: ArrayLike | None = None,
    *,
    num_bins: int = 10,
) -> BinnedMasses:
    """Computes the gradient masses of one batch in equal bins of solve rate, for binary rewards.

    The masses of a bin are means over the rollouts in it; weighted by the number of rollouts they
    add up to `empirical_masses`.

    Args:
      advantages: `[..., group]`.
      rewards: `[..., group]`, 0 or 1.
      where: `[..., group]`, true for the rollouts that count.
      num_bins: bins [0, 1/n), …, [1-1/n, 1].

    Returns:
      `BinnedMasses`; 0 for an empty bin.

    Raises:
      ValueError: if the shapes differ or `num_bins` is below 1.
    """
    check_integer("num_bins", num_bins, 1)
    advantages, rewards, where = _matching(advantages, rewards, where)
    in_bin = jnp.floor(group_mean(rewards, where) * num_bins).astype(jnp.int32)
    in_bin = jnp.minimum(in_bin, num_bins - 1)
    success = rewards > 0.5

    def total(values: jax.Array) -> jax.Array:
        rows = jnp.sum(values, axis=-1, dtype=jnp.float32).reshape(-1)
        return jnp.zeros(num_bins).at[in_bin.reshape(-1)].add(rows)

    rollouts = jnp.maximum(total(where), 1)
    return BinnedMasses(
        GradientMasses(
            total(jnp.where(success, advantages, 0)) / rollouts,
            -total(jnp.where(success, 0, advantages)) / rollouts,
        ),
        total(group_count(where) > 0),
    )


def empirical_signed_masses(
    advantages: ArrayLike, where: ArrayLike | None = None
) -> GradientMasses:
    """Computes the masses of positive and of negative advantages of one batch, for any rewards.

        M⁺ = Σ_i w_i max(A_i, 0) / Σ_i w_i,   M⁻ = Σ_i w_i max(-A_i, 0) / Σ_i w_i

    Args:
      advantages: `[..., group]`.
      where: `[..., group]`, true for the rollouts that count.

    Returns:
      `GradientMasses` of scalars: M⁺ as `success`, M⁻ as `failure`; 0 for an empty batch.

    Raises:
      ValueError: if the shapes differ.
    """
    advantages, where = as_group(advantages, where, name="advantages")
    count = jnp.maximum(jnp.sum(where), 1)
    return GradientMasses(
        jnp.sum(jnp.maximum(advantages, 0)) / count,
        jnp.sum(jnp.maximum(-advantages, 0)) / count,
    )


def _matching(
    advantages: ArrayLike, rewards: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns advantages, rewards and mask, of the same shape."""
    rewards, where = as_group(rewards, where)
    check_same_shape("advantages", jnp.asarray(advantages), "rewards", rewards)
    return as_group(advantages, where)[0], rewards, where
