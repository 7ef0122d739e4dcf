"""Reductions of per-token losses, as parts that add up over minibatches and devices.

Each reduction returns a sum and a denominator. Both may be added over minibatches of any sizes;
divided once at the end, the accumulated gradient is that of the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.checks import check_positive, check_same_shape


class Total(NamedTuple):
    """A sum of losses and its denominator, into which no gradient flows."""

    sum: jax.Array
    denominator: jax.Array


def token_mean(losses: ArrayLike, where: ArrayLike | None = None) -> Total:
    """Weights all tokens of the batch equally, so that long sequences count more.

        Σ_i Σ_t w_it L_it / Σ_i Σ_t w_it

    Args:
      losses: `[..., tokens]`.
      where: `[..., tokens]`, true for the tokens that count.

    Returns:
      `Total` of scalars.
    """
    losses, where = _masked(losses, where)
    return Total(jnp.sum(losses), jnp.sum(where, dtype=jnp.float32))


def sequence_mean(losses: ArrayLike, where: ArrayLike | None = None) -> Total:
    """Weights all sequences equally, so that tokens of long sequences count less.

        Σ_i (Σ_t w_it L_it / Σ_t w_it) / (sequences with a token)

    Args:
      losses: `[..., tokens]`.
      where: `[..., tokens]`, true for the tokens that count.

    Returns:
      `Total` of scalars.
    """
    losses, where = _masked(losses, where)
    lengths = jnp.sum(where, axis=-1, dtype=jnp.float32)
    means = jnp.sum(losses, axis=-1) / jnp.maximum(lengths, 1)
    return Total(jnp.sum(means), jnp.sum(lengths > 0, dtype=jnp.float32))


def constant_length_mean(
    losses: ArrayLike, where: ArrayLike | None = None, *, length: ArrayLike
) -> Total:
    """Sums each sequence and divides by a constant, without a length bias (Dr. GRPO).

        Σ_i Σ_t w_it L_it / (length · sequences with a token)

    With `length` 1 the gradient is the one that the masses decompose.

    Args:
      losses: `[..., tokens]`.
      where: `[..., tokens]`, true for the tokens that count.
      length: above 0, such as the maximum number of tokens of a completion.

    Returns:
      `Total` of scalars.

    Raises:
      ValueError: if `length` is not above 0.

    From arXiv:2503.20783.
    """
    check_positive("length", length)
    losses, where = _masked(losses, where)
    sequences = jnp.sum(jnp.any(where, axis=-1), dtype=jnp.float32)
    return Total(jnp.sum(losses), jnp.asarray(length, jnp.float32) * sequences)


def mean(*totals: Total) -> jax.Array:
    """Divides the sum of the totals by the sum of their denominators; 0 if nothing counts.

    Args:
      *totals: of the minibatches or devices of one batch.

    Returns:
      scalar.

    Example:
      >>> losses, where = jnp.array([[1, 1, 1], [4, 0, 0]]), jnp.array([[1, 1, 1], [1, 0, 0]])
      >>> for reduction in fade_jax.losses.token_mean, fade_jax.losses.sequence_mean:
      ...     print(fade_jax.losses.mean(reduction(losses, where)))
      1.75
      2.5
    """
    denominator = jnp.sum(jnp.stack([total.denominator for total in totals]))
    summed = jnp.sum(jnp.stack([total.sum for total in totals]))
    return summed / jnp.where(denominator > 0, denominator, 1)


def _masked(losses: ArrayLike, where: ArrayLike | None) -> tuple[jax.Array, jax.Array]:
    losses = jnp.asarray(losses, jnp.float32)
    if where is None:
        return losses, jnp.ones(losses.shape, dtype=bool)
    where = jnp.asarray(where, dtype=bool)
    check_same_shape("where", where, "losses", losses)
    return jnp.where(where, losses, 0), where
