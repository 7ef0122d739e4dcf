"""One optimizer update of a batch, its gradient accumulated over microbatches.

Imports nothing of ours. Above: objective, learner.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Batch(NamedTuple):
    """What one gradient update reads; leading axis P."""

    prompts: jax.Array  # int32 [P, S]
    length: jax.Array  # int32 [P]
    completions: jax.Array  # int32 [P, G, T]
    mask: jax.Array  # float32 [P, G, T]
    sampler_log_probs: jax.Array  # float32 [P, G, T]; of whatever sampled the completions
    old_log_probs: jax.Array  # float32 [P, G, T]; of the policy that ratios are taken to
    advantages: jax.Array  # float32 [P, G]
    importance: Any = ()  # float32 [P, G, T]; none without learner.importance_cap
    reference_log_probs: Any = ()  # float32 [P, G, T]; none without a KL term


class Parts(NamedTuple):
    """What the parts of a batch are joined by: sums add up, of maxima the largest stays."""

    sums: dict[str, jax.Array]
    maxima: dict[str, jax.Array]


def join_parts(a: Parts, b: Parts) -> Parts:
    """Joins the statistics of two parts of a batch."""
    return Parts(
        jax.tree.map(jnp.add, a.sums, b.sums), jax.tree.map(jnp.maximum, a.maxima, b.maxima)
    )


def split_rows(tree: Any, count: int) -> Any:
    """Splits the leading axis of every leaf into [count, rows / count]."""
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)


def has_gradient(batch: Batch, skip_flat: bool) -> jax.Array:
    """Returns which groups an update has to compute, bool [P]: with `skip_flat` not all."""
    return jnp.any(batch.advantages != 0, axis=-1) | (not skip_flat)


def split_batch(batch: Batch, microbatches: int, skip_flat: bool) -> tuple[jax.Array, Callable]:
    """Returns the number of microbatches that an update has to compute, and index -> one of them.

    With `skip_flat` groups without an advantage come last.
    """
    counts = has_gradient(batch, skip_flat)
    order = jnp.argsort(~counts, stable=True)
    split = split_rows(jax.tree.map(lambda x: x[order], batch), microbatches)
    needed = -(-jnp.sum(counts) // (counts.size // microbatches))
    return needed, lambda index: jax.tree.map(lambda x: x[index], split)


def gradient_update(
    loss: Callable,
    optimizer: optax.GradientTransformation,
    params,
    opt_state,
    batch: Batch,
    *,
    denominator: jax.Array,
    microbatches: int = 1,
    skip_flat: bool = True,
    chunks: tuple[jax.Array, Callable] | None = None,
):
    """Makes one optimizer update of sum(loss) / denominator, accumulated over microbatches.

    Args:
      loss: (params, microbatch or chunk) -> (sum over it, Parts).
      optimizer: of optax.
      params: parameters.
      opt_state: of `optimizer`.
      batch: leading axis P.
      denominator: of the whole batch.
      microbatches: number of equal parts of the batch that are held in memory one after another.
      skip_flat: groups without an advantage have no gradient, and microbatches that hold nothing
        else are left out.
      chunks: in place of microbatches: how many there are, which may be traced, and
        index -> what `loss` reads of one.

    Returns:
      ((params, opt_state), (metrics, Parts)), with the metrics loss and gradient_norm (before
      clipping).
    """
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    if chunks is None and microbatches == 1:
        (total, parts), gradient = value_and_grad(params, batch)
    else:
        needed, take = chunks or split_batch(batch, microbatches, skip_flat)

        def compute(index):
            return value_and_grad(params, take(index))

        def accumulate(index, carry):
            (total, parts), gradient = carry
            (more, more_parts), more_gradient = compute(index)
            gradient = jax.tree.map(jnp.add, gradient, more_gradient)
            return (total + more, join_parts(parts, more_parts)), gradient

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(compute, 0))
        (total, parts), gradient = jax.lax.fori_loop(0, needed, accumulate, zeros)
    gradient = jax.tree.map(lambda g: g / denominator, gradient)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    metrics = {
        "loss": total / denominator,
        "gradient_norm": optax.tree_utils.tree_norm(gradient),
    }
    return (optax.apply_updates(params, updates), opt_state), (metrics, parts)
