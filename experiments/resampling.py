"""Batches with a signal: groups without one are replaced, overlong completions are punished.

Dynamic sampling and soft overlong punishment are those of DAPO (arXiv 2503.14476). Imports nothing
of ours. Above: learner, step_functions, train.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def is_flat(rewards: ArrayLike) -> jax.Array:
    """Tells which groups have no variance in their rewards, and so no gradient by most advantages.

    Args:
      rewards: float32 [P, G]; NaN where unknown, which does not count.

    Returns:
      bool [P]; True for a group in which fewer than two rewards are known.
    """
    rewards = jnp.asarray(rewards)
    known = ~jnp.isnan(rewards)
    high = jnp.max(rewards, axis=-1, where=known, initial=-jnp.inf)
    low = jnp.min(rewards, axis=-1, where=known, initial=jnp.inf)
    return ~(high > low)


def replace_flat(batch: Any, rewards: jax.Array, more: Any, more_rewards: jax.Array) -> Any:
    """Replaces flat groups by groups of another batch that are not flat, in their order.

    Args:
      batch: pytree of arrays with leading axis P.
      rewards: float32 [P, G] of `batch`.
      more: the same of further prompts.
      more_rewards: float32 [P, G] of `more`.

    Returns:
      (pytree, rewards [P, G]); flat groups for which there is no other stay.
    """
    flat, spare = is_flat(rewards), ~is_flat(more_rewards)
    order = jnp.argsort(~spare, stable=True)  # groups to take, first those that are not flat
    rank = jnp.cumsum(flat) - 1
    take = flat & (rank < jnp.sum(spare))
    source = order[jnp.clip(rank, 0, rank.size - 1)]

    def merge(old, new):
        chosen = take.reshape(-1, *[1] * (old.ndim - 1))
        return jnp.where(chosen, new[source], old)

    return jax.tree.map(merge, (batch, rewards), (more, more_rewards))


def resampling_metrics(
    first_reward: ArrayLike, rounds: ArrayLike, rewards: ArrayLike
) -> dict[str, jax.Array]:
    """Returns the metrics of dynamic sampling.

    Args:
      first_reward: [], mean reward of the step's first batch; that of the batch trained on is
        biased by the choice of its groups.
      rounds: further batches that were sampled.
      rewards: float32 [P, G], of the batch trained on.
    """
    return {
        "resampling/first_reward": jnp.asarray(first_reward, jnp.float32),
        "resampling/rounds": jnp.asarray(rounds, jnp.float32),
        "resampling/flat_fraction": jnp.mean(is_flat(rewards), dtype=jnp.float32),
    }


def overlong_punishment(lengths: jax.Array, *, max_tokens: int, buffer: int) -> jax.Array:
    """Returns what a completion loses for its length.

        0 up to T - B tokens, then (length - (T - B)) / B, and so 1 at T

    Args:
      lengths: tokens of each completion.
      max_tokens: T, the longest completion.
      buffer: B > 0, the tokens over which the punishment grows.
    """
    return jnp.clip((lengths - (max_tokens - buffer)) / buffer, 0.0, 1.0)
