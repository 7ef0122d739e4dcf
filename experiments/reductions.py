"""From token losses to one number: each reduction returns a sum and its denominator.

They are kept apart so that gradient accumulation and sharding divide once, by the whole.
"""

import jax.numpy as jnp


def sequence_sum(losses, mask):
    """Sum over tokens, mean over rollouts: (1/PG) sum_i sum_t, the spec's estimator."""
    return jnp.sum(losses * mask), jnp.float32(losses.shape[0] * losses.shape[1])


def token_mean(losses, mask):
    """Mean over all tokens of the batch: long rollouts weigh more."""
    return jnp.sum(losses * mask), jnp.sum(mask)


def sequence_mean(losses, mask):
    """Mean over the tokens of each rollout, then over rollouts: short rollouts weigh more."""
    lengths = jnp.maximum(jnp.sum(mask, axis=-1), 1.0)
    total = jnp.sum(jnp.sum(losses * mask, axis=-1) / lengths)
    return total, jnp.float32(losses.shape[0] * losses.shape[1])
