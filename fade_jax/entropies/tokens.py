"""Entropy of token distributions, exact, in nats."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fade_jax.groups import batch_mean


def token_entropy(logits: ArrayLike) -> jax.Array:
    """Entropy of the softmax of logits.

        H = log Σ_v e^{z_v} - Σ_v p_v z_v,   p = softmax(z)

    Args:
      logits: z, `[..., vocabulary]`, any floating type; -inf marks a token that cannot be drawn.

    Returns:
      `[...]`, nats, float32.
    """
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    # Twice a where: 0 · -inf is NaN, in the sum and in its gradient.
    possible = jnp.isfinite(log_probs)
    finite = jnp.where(possible, log_probs, 0)
    return -jnp.sum(jnp.where(possible, jnp.exp(finite) * finite, 0), axis=-1)


def mean_entropy(entropies: ArrayLike, where: ArrayLike | None = None) -> jax.Array:
    """Mean token entropy of a batch: the statistic that FADE reads.

        Σ_t w_t H_t / Σ_t w_t

    Args:
      entropies: H of each token, `[..., tokens]`, nats.
      where: `[..., tokens]`, true for the tokens that count.

    Returns:
      scalar, nats; NaN without a token, which no moving average takes in.

    Raises:
      ValueError: if `where` does not have the shape of `entropies`.
    """
    return batch_mean(entropies, where, name="entropies")
