"""Masked means over a group of rollouts (the last axis) and over a whole batch."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_same_shape


def as_group(
    values: ArrayLike,
    where: ArrayLike | None = None,
    *,
    name: str = "rewards",
    minimum_size: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Cast rewards to floating point, fill in the mask, and zero what is masked.

    Integers, booleans and bfloat16 become float32. Masked slots may hold anything, NaN included.

    Args:
      values: `[..., group]`, rewards or what else there is of each rollout.
      where: `[..., group]`, true for the rollouts that count; None counts all of them.
      name: what the caller calls the values, for the messages.
      minimum_size: the smallest size of the group axis for which the formula is defined.

    Returns:
      values `[..., group]` and a boolean mask `[..., group]`.

    Raises:
      ValueError: if there is no group axis, it is too small, or `where` has another shape.
    """
    values = jnp.asarray(values)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    if values.ndim == 0 or values.shape[-1] < minimum_size:
        raise ValueError(
            f"{name} must have a last axis (the group) of at least {minimum_size}, "
            f"got shape {values.shape}"
        )
    if where is None:
        return values, jnp.ones(values.shape, dtype=bool)
    where = jnp.asarray(where, dtype=bool)
    check_same_shape("where", where, name, values)
    return jnp.where(where, values, 0), where


def group_count(where: jax.Array) -> jax.Array:
    """Number of rollouts that count in each group, `[..., 1]`."""
    return jnp.sum(where, axis=-1, keepdims=True, dtype=jnp.float32)


def group_mean(
    values: ArrayLike, where: ArrayLike | None = None, weights: ArrayLike = 1.0
) -> jax.Array:
    """Mean over each group, exact where all values are equal.

        x̄ = m + Σ_i w_i (x_i - m) / Σ_i w_i,   m = min_i x_i

    Args:
      values: `[..., group]`.
      where: `[..., group]` or None.
      weights: w ≥ 0, broadcastable to `values`.

    Returns:
      `[..., 1]`; 0 for a group without a rollout.
    """
    values, where = as_group(values, where, name="values")
    weights = jnp.where(where, weights, 0).astype(values.dtype)
    # Sixty-four times 0.7 has not the mean 0.7 in float32; divided by a standard deviation that
    # is all rounding, the difference becomes an advantage near 1. Shifted by the smallest value,
    # a constant group has exactly zero left.
    smallest = jnp.min(values, axis=-1, keepdims=True, initial=jnp.inf, where=where)
    shift = jax.lax.stop_gradient(jnp.where(group_count(where) > 0, smallest, 0))
    total = jnp.sum(weights * (values - shift), axis=-1, keepdims=True)
    weight = jnp.sum(weights, axis=-1, keepdims=True)
    return shift + total / jnp.where(weight > 0, weight, 1)


def batch_mean(
    values: ArrayLike, where: ArrayLike | None = None, *, name: str = "values"
) -> jax.Array:
    """Mean over everything that counts in a batch.

    Args:
      values: `[..., group]`.
      where: `[..., group]` or None.
      name: what the caller calls the values, for the messages.

    Returns:
      scalar; NaN for a batch without a rollout, which no moving average takes in.
    """
    values, where = as_group(values, where, name=name)
    count = jnp.sum(where)
    return jnp.where(count > 0, jnp.sum(values) / jnp.maximum(count, 1), jnp.nan)
