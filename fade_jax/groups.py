"""Groups of rollouts (the last axis): from flat rewards, and masked means."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fade_jax.checks import check_integer, check_same_shape


def as_group(
    values: ArrayLike,
    where: ArrayLike | None = None,
    *,
    name: str = "rewards",
    minimum_size: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Casts to floating point, fills in the mask and sets masked values to 0.

    Integers, booleans and bfloat16 become float32. Masked values may be NaN.

    Args:
      values: `[..., group]`, such as rewards.
      where: `[..., group]`, true for the rollouts that count; None counts all of them.
      name: of the values, for error messages.
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
            f"got shape {values.shape}; reshape flat {name} to [prompts, group], or see "
            "fade_jax.groups.by_group"
        )
    if where is None:
        return values, jnp.ones(values.shape, dtype=bool)
    where = jnp.asarray(where, dtype=bool)
    check_same_shape("where", where, name, values)
    return jnp.where(where, values, 0), where


class Grouped(NamedTuple):
    """Flat values by group.

    Attributes:
      values: `[num_groups, group_size]`; 0 where no value is.
      where: `[num_groups, group_size]`, true where a value is.
      positions: `array[positions]` of an array `[num_groups, group_size]` is flat again, `[N]`.
    """

    values: jax.Array
    where: jax.Array
    positions: tuple[jax.Array, jax.Array]


def by_group(
    values: ArrayLike, group_ids: ArrayLike, *, num_groups: int, group_size: int
) -> Grouped:
    """Groups flat values, such as the rewards of groups of unequal sizes.

        grouped = by_group(rewards, group_ids, num_groups=P, group_size=G)
        advantages = grpo(grouped.values, where=grouped.where)[grouped.positions]

    Equal groups, one after the other, need only `rewards.reshape(P, G)`.

    Args:
      values: `[N]`.
      group_ids: `[N]`, integers in [0, num_groups), in any order.
      num_groups: P, static.
      group_size: G, static; of the largest group at least.

    Returns:
      `Grouped`; each group keeps the order of its values.

    Raises:
      ValueError: if the arrays are not flat and of one length, or a concrete id is outside
        [0, num_groups) or occurs more than `group_size` times.

    Example:
      >>> grouped = fade_jax.groups.by_group([1.0, 0.0, 0.0], [7, 3, 7], num_groups=8, group_size=2)
      >>> print(fade_jax.rloo(grouped.values, where=grouped.where)[grouped.positions])
      [ 1.  0. -1.]
    """
    check_integer("num_groups", num_groups, 1)
    check_integer("group_size", group_size, 1)
    values, ids = jnp.asarray(values), group_ids
    if not isinstance(ids, jax.core.Tracer):
        ids = np.asarray(ids)
        if ids.size and not (ids.min() >= 0 and ids.max() < num_groups):
            raise ValueError(f"group_ids must be in [0, {num_groups}), got {ids}")
        if ids.size and (largest := np.bincount(ids.ravel()).max()) > group_size:
            raise ValueError(f"group_size must be at least {largest}, got {group_size}")
    ids = jnp.asarray(ids)
    if values.ndim != 1:
        raise ValueError(f"values must be flat, [N], got shape {values.shape}")
    check_same_shape("group_ids", ids, "values", values)
    rank = jnp.cumsum(jax.nn.one_hot(ids, num_groups, dtype=jnp.int32), axis=0) - 1
    positions = ids, jnp.take_along_axis(rank, ids[:, None], axis=1)[:, 0]
    empty = jnp.zeros((num_groups, group_size), values.dtype)
    return Grouped(
        empty.at[positions].set(values), empty.astype(bool).at[positions].set(True), positions
    )


def group_count(where: jax.Array) -> jax.Array:
    """Returns the number of rollouts that count in each group, `[..., 1]`."""
    return jnp.sum(where, axis=-1, keepdims=True, dtype=jnp.float32)


def group_mean(
    values: ArrayLike, where: ArrayLike | None = None, weights: ArrayLike = 1.0
) -> jax.Array:
    """Returns the mean of each group, exact if all values are equal.

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
    # In float32 the mean of sixty-four values 0.7 is not 0.7. Divided by a standard deviation that
    # is rounding error too, the difference becomes an advantage near 1. Shifted by the smallest
    # value, a constant group gives exactly 0.
    smallest = jnp.min(values, axis=-1, keepdims=True, initial=jnp.inf, where=where)
    shift = jax.lax.stop_gradient(jnp.where(group_count(where) > 0, smallest, 0))
    total = jnp.sum(weights * (values - shift), axis=-1, keepdims=True)
    weight = jnp.sum(weights, axis=-1, keepdims=True)
    return shift + total / jnp.where(weight > 0, weight, 1)


def batch_mean(
    values: ArrayLike, where: ArrayLike | None = None, *, name: str = "values"
) -> jax.Array:
    """Returns the mean over all values that count in a batch.

    Args:
      values: `[..., group]`.
      where: `[..., group]` or None.
      name: of the values, for error messages.

    Returns:
      scalar; NaN if empty. Moving averages skip NaN.
    """
    values, where = as_group(values, where, name=name)
    count = jnp.sum(where)
    return jnp.where(count > 0, jnp.sum(values) / jnp.maximum(count, 1), jnp.nan)
